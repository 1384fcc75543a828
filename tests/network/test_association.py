"""Associations over real sockets: timers, limits, rejections, rubbish, and what is logged of them."""

import os
import socket
import struct
import threading
import time
from typing import Any

import pytest
from waiting import WAIT_SECONDS

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationAccepted,
    AssociationRejected,
    AssociationReleased,
)
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.status import Status
from dicomflow.network.settings import DimseSettings

CT = "1.2.840.10008.5.1.4.1.1.2"
ABORT_BY_USER = b"\x07\0\0\0\0\4\0\0\0\0"


def rejection(event: Any) -> tuple[int, int, int]:
    """Return result, source and reason."""
    assert isinstance(event, AssociationRejected), event
    return event.reject.result, event.reject.source, event.reject.reason


def store_works(scu_with: Any, port: int, data_set: Any) -> bool:
    """Tell whether a new association stores an object and is released."""
    scu = scu_with(port)
    assert isinstance(scu.associate(), AssociationAccepted)
    status = scu.store(data_set()).status
    return status == Status.SUCCESS and isinstance(scu.release(), AssociationReleased)


def test_silent_connection_is_closed_after_artim(receiver_with: Any, raw: Any, ended_lines: Any):
    """A connection on which nothing is asked is closed when ARTIM expires, with one log line."""
    receiver = receiver_with(artim_seconds=0.2)
    started = time.monotonic()
    assert b"" == raw(receiver.port, b"")
    assert 0.2 <= time.monotonic() - started < DimseSettings().artim_seconds
    (line,) = ended_lines(1)
    assert "no association request before ARTIM expired" in line


@pytest.mark.parametrize("first", [b"", b"\xff" * 10], ids=["before the request", "after our abort"])
def test_dripping_connection_is_closed_after_one_artim(receiver_with: Any, ended_lines: Any, first: bytes):
    """Bytes that drip in do not start ARTIM again, neither before the request nor after our last word."""
    receiver = receiver_with(artim_seconds=0.5)
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=WAIT_SECONDS) as dripping:
        dripping.sendall(first)
        dripping.settimeout(0.1)
        assert any(_is_closed_after_a_drip(dripping) for _ in range(300))
    assert 1 == len(ended_lines(1))


def _is_closed_after_a_drip(dripping: socket.socket) -> bool:
    try:
        dripping.sendall(b"\x01")
        return dripping.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_idle_association_is_aborted_and_frees_its_slot(receiver_with: Any, scu_with: Any, ended_lines: Any):
    """An association without a PDU for `idle_seconds` is aborted as service user, and another may come."""
    receiver = receiver_with(idle_seconds=0.2, max_associations=1)
    scu = scu_with(receiver.port)
    scu.associate()
    aborted = scu.next_event()
    assert isinstance(aborted, AssociationAborted)
    assert (0, 0, True) == (aborted.source, aborted.reason, aborted.by_peer)
    (line,) = ended_lines(1)
    assert "no PDU for 0.2 s" in line
    scu.socket.close()
    assert isinstance(scu_with(receiver.port).associate(), AssociationAccepted)


def test_association_limit_rejects_2_3_2_and_recovers(receiver_with: Any, scu_with: Any, until: Any):
    """One association too many is rejected as transient; when another ends there is room again."""
    receiver = receiver_with(max_associations=2)
    open_ones = [scu_with(receiver.port) for _ in range(2)]
    assert all(isinstance(scu.associate(), AssociationAccepted) for scu in open_ones)
    assert (2, 3, 2) == rejection(scu_with(receiver.port).associate())
    open_ones[0].release()
    open_ones[0].socket.close()
    until(lambda: isinstance(scu_with(receiver.port).associate(), AssociationAccepted))


def test_silent_connections_do_not_count_as_associations(receiver_with: Any, scu_with: Any, data_set: Any):
    """Connections that never ask for an association leave room for those that do."""
    receiver = receiver_with(max_associations=1)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(50)]
    assert store_works(scu_with, receiver.port, data_set)
    for connection in silent:
        connection.close()


@pytest.mark.parametrize(
    ("settings", "request_fields", "expected"),
    [
        ({"calling_ae_titles": ("OTHER",)}, {}, (1, 1, 3)),
        ({"called_ae_titles": ("OTHER",)}, {}, (1, 1, 7)),
        ({}, {"application_context": "1.2.3"}, (1, 1, 2)),
        ({}, {"protocol_version": 2}, (1, 2, 2)),
    ],
)
def test_unacceptable_request_is_rejected_with_its_reason(
    receiver_with: Any, scu_with: Any, ended_lines: Any, settings: Any, request_fields: Any, expected: Any
):
    """A rejection names its reason to the peer and to the log, and the peer is not aborted."""
    receiver = receiver_with(**settings)
    scu = scu_with(receiver.port, **request_fields)
    assert expected == rejection(scu.associate())
    scu.socket.close()
    (line,) = ended_lines(1)
    assert "how=rejected {}/{}/{}".format(*expected) in line


def test_unknown_caller_is_rejected_1_1_3_not_aborted(receiver_with: Any, scu_with: Any):
    """A caller outside the list is told so; an abort would hide the reason."""
    receiver = receiver_with(calling_ae_titles=("MR1",))
    assert (1, 1, 3) == rejection(scu_with(receiver.port).associate())
    assert isinstance(scu_with(receiver.port, calling_ae_title="MR1").associate(), AssociationAccepted)


def test_protocol_version_tests_bit_zero_only(receiver: Any, scu_with: Any):
    """Other bits of the protocol version are a later version's."""
    assert isinstance(scu_with(receiver.port, protocol_version=0x8003).associate(), AssociationAccepted)


def test_echo_succeeds_while_the_disk_is_full(receiver_with: Any, scu_with: Any):
    """Without space a storage request is rejected as transient; an echo still succeeds."""
    receiver = receiver_with(refuse_below_bytes=1 << 62)
    assert (2, 3, 2) == rejection(scu_with(receiver.port).associate())
    verification = scu_with(receiver.port, contexts=((VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),))
    verification.associate()
    assert Status.SUCCESS == verification.echo(1).status


def test_request_without_acceptable_contexts_gets_an_acceptance_with_refusals(receiver: Any, scu_with: Any):
    """An unknown abstract syntax is refused in its context, not by a rejection or an abort."""
    unknown = "1.2.840.10008.5.1.4.1.2.2.1"  # a query model
    scu = scu_with(receiver.port, contexts=((unknown, (IMPLICIT_VR_LITTLE_ENDIAN,)),))
    accepted = scu.associate()
    assert isinstance(accepted, AssociationAccepted)
    assert [3] == [context.result for context in accepted.accept.contexts]
    assert isinstance(scu.release(), AssociationReleased)


def test_private_sop_class_is_stored(receiver: Any, scu_with: Any, data_set: Any):
    """An object of a private SOP class is stored like any other."""
    private = "1.3.6.1.4.1.343.7.1.1"
    scu = scu_with(receiver.port, contexts=((private, (EXPLICIT_VR_LITTLE_ENDIAN,)),))
    scu.associate()
    answer = scu.store(data_set(sop_class_uid=private), affected_sop_class_uid=private.encode())
    assert Status.SUCCESS == answer.status
    assert 1 == len(receiver.stored())


def test_file_meta_names_the_transfer_syntax_of_its_context(receiver: Any, scu_with: Any, data_set: Any):
    """With two contexts for one SOP class, an object's meta information names the syntax it came in."""
    rle = "1.2.840.10008.1.2.5"
    scu = scu_with(receiver.port, contexts=((CT, (EXPLICIT_VR_LITTLE_ENDIAN,)), (CT, (rle,))))
    scu.associate()
    assert Status.SUCCESS == scu.store(data_set(), context_id=3).status
    assert Status.SUCCESS == scu.store(data_set(), context_id=1).status
    first, second = receiver.stored()
    assert rle.encode() in first
    assert EXPLICIT_VR_LITTLE_ENDIAN.encode() + b"\0" in second
    assert rle.encode() not in second


def test_release_response_reaches_the_peer_before_the_close(receiver: Any, scu: Any, data_set: Any, ended_lines: Any):
    """A release is answered, then the peer closes; the log says released."""
    assert Status.SUCCESS == scu.store(data_set()).status
    assert isinstance(scu.release(), AssociationReleased)
    scu.socket.shutdown(socket.SHUT_WR)
    assert b"" == scu.rest()
    (line,) = ended_lines(1)
    assert "stored=1 " in line
    assert "how=released" in line


def test_release_is_noted_before_the_peer_closes(receiver_with: Any, scu_with: Any, data_set: Any, until: Any):
    """A peer that keeps the transport open after its release does not hold its delivery back."""
    receiver = receiver_with(artim_seconds=3600)
    scu = scu_with(receiver.port)
    scu.associate()
    assert Status.SUCCESS == scu.store(data_set()).status
    assert isinstance(scu.release(), AssociationReleased)
    until(lambda: ["released"] == list(receiver.spool.associations.read_states().values()))


def test_release_while_an_object_is_half_sent_drops_it(receiver: Any, scu: Any, data_set: Any, until: Any):
    """A release in the middle of an object is answered; what was acknowledged stays, the rest goes."""
    assert Status.SUCCESS == scu.store(data_set()).status
    _send_half(scu, data_set())
    assert isinstance(scu.release(), AssociationReleased)
    scu.socket.close()
    until(lambda: not list(receiver.spool.received.glob("*/*.part")))
    assert 1 == len(receiver.stored())


def _send_half(scu: Any, data_set: bytes) -> None:
    """Begin a C-STORE and leave its data set unfinished."""
    command = encode_command(
        Command(
            CommandField.C_STORE_RQ,
            message_id=7,
            affected_sop_class_uid=CT.encode(),
            affected_sop_instance_uid=b"1.2.3.4",
            priority=0,
            data_set_type=1,
        )
    )
    message = encode_message(1, command, 16384)
    fragment = data_set[:200]
    scu.socket.sendall(message + struct.pack(">BxIIBB", 4, len(fragment) + 6, len(fragment) + 2, 1, 0) + fragment)


@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_partial_object_of_an_aborted_association_is_discarded(
    receiver: Any, scu: Any, data_set: Any, part10: Any, until: Any, how: str
):
    """An abort or a lost connection keeps what was acknowledged and drops what was half received."""
    assert Status.SUCCESS == scu.store(data_set()).status
    _send_half(scu, data_set())
    until(lambda: list(receiver.spool.received.glob("*/*.part")))
    if how == "aborted":
        scu.socket.sendall(ABORT_BY_USER)
    else:
        scu.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    scu.socket.close()
    until(lambda: not list(receiver.spool.received.glob("*/*.part")))
    assert [part10()] == receiver.stored()
    until(lambda: list(receiver.spool.associations.read_states().values()) == [how])


def test_pdvs_split_at_every_byte_give_the_same_file(receiver: Any, scu: Any, data_set: Any, part10: Any):
    """A sender whose segments hold one byte each has its object stored all the same."""
    scu.requestor.send(1, encode_command(_store_request()), data_set(pixels=b"12345678"))
    for byte in b"".join(scu.requestor.parts_to_send()):
        scu.socket.sendall(bytes((byte,)))
    assert Status.SUCCESS == scu.response().status
    assert [part10(pixels=b"12345678")] == receiver.stored()


def _store_request() -> Command:
    return Command(
        CommandField.C_STORE_RQ,
        message_id=1,
        affected_sop_class_uid=CT.encode(),
        affected_sop_instance_uid=b"1.2.3.4",
        priority=0,
        data_set_type=1,
    )


def test_command_and_data_in_one_pdu_are_both_read(receiver: Any, scu: Any, data_set: Any, part10: Any):
    """A PDU may hold the command set and the data set, each in a PDV of its own."""
    command, encoded = encode_command(_store_request()), data_set()
    pdvs = b"".join(
        struct.pack(">IBB", len(stream) + 2, 1, control) + stream for stream, control in ((command, 3), (encoded, 2))
    )
    scu.socket.sendall(struct.pack(">BxI", 4, len(pdvs)) + pdvs)
    assert Status.SUCCESS == scu.response().status
    assert [part10()] == receiver.stored()


def test_empty_last_fragment_ends_the_object(receiver: Any, scu: Any, data_set: Any, part10: Any):
    """A data set may end with a fragment that has no bytes."""
    encoded = data_set()
    data = encode_message(1, encode_command(_store_request()), 16384)
    data += struct.pack(">BxIIBB", 4, len(encoded) + 6, len(encoded) + 2, 1, 0) + encoded
    data += struct.pack(">BxIIBB", 4, 6, 2, 1, 2)
    scu.socket.sendall(data)
    assert Status.SUCCESS == scu.response().status
    assert [part10()] == receiver.stored()


def test_unperformed_operation_answers_0211_and_the_association_goes_on(receiver: Any, scu: Any, data_set: Any):
    """A C-FIND on a storage context is answered, its identifier read and thrown away."""
    command = Command(
        CommandField.C_FIND_RQ, message_id=5, affected_sop_class_uid=CT.encode(), priority=0, data_set_type=1
    )
    scu.requestor.send(1, encode_command(command), b"identifier")
    scu.flush()
    answer = scu.response()
    assert (0x8020, 5, 0x0211) == (answer.command_field, answer.message_id_responded_to, answer.status)
    assert Status.SUCCESS == scu.store(data_set()).status


def test_cancel_request_is_not_answered(receiver: Any, scu: Any):
    """C-CANCEL-RQ has no response; the next answer is the echo's."""
    scu.requestor.send(1, encode_command(Command(CommandField.C_CANCEL_RQ, message_id_responded_to=5)))
    scu.flush()
    assert 0x8030 == scu.echo().command_field


def test_drain_answers_the_object_in_flight_then_aborts(
    receiver: Any, scu: Any, scu_with: Any, data_set: Any, part10: Any, until: Any
):
    """At a stop the object under way is finished and answered; then the association is aborted as service user."""
    idle = scu_with(receiver.port)
    idle.associate()
    encoded = data_set()
    _send_half(scu, encoded)
    until(lambda: list(receiver.spool.received.glob("*/*.part")))
    receiver.draining.set()
    stopping = _drain_in_background(receiver)
    assert isinstance(idle.next_event(), AssociationAborted)
    rest = encoded[200:]
    scu.socket.sendall(struct.pack(">BxIIBB", 4, len(rest) + 6, len(rest) + 2, 1, 2) + rest)
    assert Status.SUCCESS == scu.response().status
    aborted = scu.next_event()
    assert isinstance(aborted, AssociationAborted)
    assert (0, 0) == (aborted.source, aborted.reason)
    stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive()
    assert [part10()] == receiver.stored()


def _drain_in_background(receiver: Any) -> Any:
    """Drain on a thread of its own."""
    thread = threading.Thread(target=receiver.drain)
    thread.start()
    return thread


def test_request_while_draining_is_rejected_as_transient(receiver: Any, scu: Any, scu_with: Any, data_set: Any):
    """While an association is let end, others are told to come again: 2/3/1."""
    _send_half(scu, data_set())
    receiver.draining.set()
    assert (2, 3, 1) == rejection(scu_with(receiver.port).associate())
    assert (2, 3, 1) == rejection(scu_with(receiver.port).associate())


def test_released_association_is_not_aborted_by_a_drain(receiver: Any, scu: Any, ended_lines: Any):
    """A stop while a released peer has not closed yet adds neither an A-ABORT nor a second log line."""
    assert isinstance(scu.release(), AssociationReleased)
    receiver.drain()
    assert b"" == scu.rest()
    (line,) = ended_lines(1)
    assert "how=released" in line


def test_association_aborted_within_a_message_does_not_hold_up_a_drain(
    receiver_with: Any, scu_with: Any, data_set: Any, until: Any, caplog: pytest.LogCaptureFixture
):
    """A peer that was aborted in the middle of an object and does not close is let go of, not cut in the end."""
    receiver = receiver_with(artim_seconds=3600)
    scu = scu_with(receiver.port)
    scu.associate()
    _send_half(scu, data_set())
    scu.socket.sendall(b"\x09\0\0\0\0\4\0\0\0\0")
    assert isinstance(scu.next_event(), AssociationAborted)
    (association,) = receiver._connections._associations
    until(lambda: association._is_ending)  # it has looked whether there is a drain, and waits for the peer
    receiver.drain()
    assert "drain_timed_out" not in caplog.text


def test_failure_of_the_association_itself_is_aborted(
    receiver: Any, scu_with: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch, ended_lines: Any
):
    """A bug outside an object's reception ends in A-ABORT 0/0, and the next association works."""
    scu = scu_with(receiver.port)
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _path: 1 // 0)
        aborted = scu.associate()
    assert isinstance(aborted, AssociationAborted)
    assert (0, 0) == (aborted.source, aborted.reason)
    assert sum("association_ended" in line for line in ended_lines(1)) == 1
    assert store_works(scu_with, receiver.port, data_set)


def test_log_holds_no_patient_data_and_no_secret(
    receiver: Any, scu: Any, data_set: Any, caplog: pytest.LogCaptureFixture, ended_lines: Any
):
    """Neither a stored nor a refused object's content reaches the log."""
    patient = b"\x10\x00\x10\x00PN\x0e\x00Doe^John^Secret"[:-1]
    caplog.set_level("DEBUG")
    scu.store(data_set(study_instance_uid=None) + patient)
    scu.store(patient + data_set())
    scu.store(data_set(pixels=b"Doe^John"))
    scu.release()
    scu.socket.close()
    ended_lines(1)
    assert "Doe" not in caplog.text
