"""Peers that hold what others need: places, descriptors, memory, time. Senders go on, and new ones come in."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flawed_requests import FLAWED_COMMANDS, MAX_LENGTH, request
from waiting import WAIT_SECONDS

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import AssociationAborted, AssociationAccepted
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.action import Action, ActionMemory
from dicomflow.edge.commitment.requests import MAX_ACTION_BYTES
from dicomflow.edge.receive.storage import StoreReception
from dicomflow.edge.settings import CommitmentPeer, CommitmentSettings
from dicomflow.network import association
from dicomflow.network.descriptors import most_waiting

STORE = FLAWED_COMMANDS["no priority"]
COMMITMENT_PEERS = CommitmentSettings(peers={"CT1": CommitmentPeer(host="127.0.0.1", port=1)})


@pytest.fixture
def connect() -> Iterator[Callable[[int, bytes], socket.socket]]:
    """Connect, send some bytes and keep the connection open."""
    opened: list[socket.socket] = []

    def _connect(port: int, data: bytes = b"") -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS))
        opened[-1].sendall(data)
        return opened[-1]

    yield _connect
    for each in opened:
        each.close()


def fragment(data: bytes, control: int = 0) -> bytes:
    """Return a P-DATA-TF of one fragment on context 1."""
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, 1, control) + data


DRIPS = {
    "a command set": fragment(STORE, 3),
    "a data set": fragment(STORE, 3) + fragment(bytes(4000), 2),
    "fragments of two bytes": fragment(STORE, 3) + fragment(b"ab") * 500,
    "fragments of none": fragment(STORE, 3) + fragment(b"") * 500,
}


@pytest.mark.parametrize("name", DRIPS)
def test_peer_that_drips_is_aborted_as_one_that_is_idle(receiver_with: Any, scu_with: Any, ended_lines: Any, name: str):
    """A byte now and then within a message does not hold a place longer than silence would."""
    receiver = receiver_with(idle_seconds=0.4)
    scu = scu_with(receiver.port)
    scu.associate()
    started = time.monotonic()
    data, offset = DRIPS[name], 0
    if name.startswith(("a data", "fragments")):
        offset = len(fragment(STORE, 3))
        scu.socket.sendall(data[:offset])
    with contextlib.suppress(OSError):
        while not scu.has_answer(0.02) and time.monotonic() - started < WAIT_SECONDS:
            scu.socket.sendall(data[offset : offset + 1])
            offset += 1
    assert isinstance(scu.next_event(), AssociationAborted)
    assert time.monotonic() - started < 4
    (line,) = ended_lines(1)
    assert "bytes of a message for 0.4 s" in line


def test_slow_sender_that_gets_on_is_not_cut(receiver_with: Any, scu_with: Any, data_set: Any):
    """A line of a kilobyte a second carries an object for as long as it takes, over many idle times."""
    receiver = receiver_with(idle_seconds=0.3)
    scu = scu_with(receiver.port)
    scu.associate()
    message = encode_message(1, STORE, 16384, data_set(pixels=bytes(600)))
    for start in range(0, len(message), 40):
        scu.socket.sendall(message[start : start + 40])
        time.sleep(0.04)
    assert Status.SUCCESS == scu.response().status


def test_long_commit_is_not_taken_for_idleness(
    receiver_with: Any, scu_with: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch
):
    """The time that we need ourselves is not the peer's."""
    receiver = receiver_with(idle_seconds=0.3)
    original = StoreReception.finish

    def _finish(*arguments: Any) -> Any:
        time.sleep(0.5)
        return original(*arguments)

    monkeypatch.setattr(StoreReception, "finish", _finish)
    scu = scu_with(receiver.port)
    scu.associate()
    assert [Status.SUCCESS] * 2 == [scu.store(data_set()).status for _ in range(2)]


@pytest.mark.parametrize(
    "first",
    [b"", b"\xff" * 7, request()[:70], request(b"")],
    ids=["silent", "garbage", "half a request", "a request of nothing"],
)
def test_connections_without_association_make_room_for_newer_ones(
    receiver_with: Any, scu_with: Any, data_set: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, first: bytes
):
    """However many there are, and whatever they said: no more are kept than the limit, and the newest are served."""
    receiver = receiver_with(artim_seconds=3600, max_associations=1)
    monkeypatch.setattr(receiver._connections, "_most_waiting", 10)
    scu = scu_with(receiver.port)
    scu.associate()
    for _ in range(40):
        connect(receiver.port, first)
    assert Status.SUCCESS == scu.store(data_set()).status
    _until_fewer(receiver, 12)
    scu.release()
    scu.socket.close()
    assert isinstance(scu_with(receiver.port).associate(), AssociationAccepted)


def _until_fewer(receiver: Any, most: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while len(receiver._connections._associations) > most:
        assert time.monotonic() < deadline, len(receiver._connections._associations)
        time.sleep(0.01)


def test_released_peers_that_do_not_close_make_room_too(
    receiver_with: Any, scu_with: Any, monkeypatch: pytest.MonkeyPatch
):
    """A peer may keep the transport open after its release, but only while nobody else wants it."""
    receiver = receiver_with(artim_seconds=3600)
    monkeypatch.setattr(receiver._connections, "_most_waiting", 5)
    for _ in range(15):
        scu = scu_with(receiver.port)
        scu.associate()
        scu.release()
    _until_fewer(receiver, 7)


def test_descriptors_of_all_associations_are_reserved(monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """What is left of the limit is for others, at least a few; where it is short that is said at the start."""
    resource = pytest.importorskip("resource")
    for limit, expected in ((1024, 160), (65536, 256), (500, 16)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert expected == most_waiting(200)
    assert 1 == caplog.text.count("descriptors_short limit=500 needed=880")


def test_connection_from_another_network_is_closed_before_a_byte_is_read(
    receiver_with: Any, raw: Any, caplog: pytest.LogCaptureFixture
):
    """Whatever it sends, it gets no answer, and a hundred of them one line in the log."""
    receiver = receiver_with(networks=("192.0.2.0/24",))
    for _ in range(20):
        with contextlib.suppress(ConnectionError):
            assert b"" == raw(receiver.port, request())
    assert 1 == caplog.text.count("connection_refused peer=127.0.0.1")
    assert {} == receiver._connections._associations


def action(receiver: Any, scu: Any, size: int, **fields: Any) -> int:
    """Send an N-ACTION with a data set of zeros; return the status of its response."""
    command = {
        "message_id": 1,
        "requested_sop_class_uid": STORAGE_COMMITMENT.encode(),
        "requested_sop_instance_uid": STORAGE_COMMITMENT_INSTANCE.encode(),
        "data_set_type": 1,
        "action_type_id": 1,
    }
    scu.requestor.send(1, encode_command(Command(CommandField.N_ACTION_RQ, **(command | fields))), bytes(size))
    scu.flush()
    status = scu.response().status
    assert isinstance(status, int)
    assert ActionMemory()._left == receiver._receiver.actions._left
    return status


@pytest.mark.parametrize(
    ("commitment", "title", "abstract_syntax", "expected"),
    [
        (None, "CT1", STORAGE_COMMITMENT, None),
        (COMMITMENT_PEERS, "STRANGER", STORAGE_COMMITMENT, Status.NOT_AUTHORIZED),
        (COMMITMENT_PEERS, "CT1", "1.2.840.10008.5.1.4.1.1.2", Status.UNRECOGNIZED_OPERATION),
        (None, "CT1", "1.2.840.10008.5.1.4.1.1.2", Status.UNRECOGNIZED_OPERATION),
        (None, "CT1", "1.2.840.10008.1.1", Status.UNRECOGNIZED_OPERATION),
    ],
)
def test_action_that_cannot_be_performed_takes_no_memory(
    receiver_with: Any,
    scu_with: Any,
    monkeypatch: pytest.MonkeyPatch,
    commitment: Any,
    title: str,
    abstract_syntax: str,
    expected: int | None,
):
    """Of a stranger, on any context, or where commitment is not served: it is read, thrown away and refused."""
    monkeypatch.setattr(Action, "take", lambda *_: pytest.fail("its data set is kept"))
    receiver = receiver_with(commitment=commitment)
    scu = scu_with(receiver.port, calling_ae_title=title, contexts=((abstract_syntax, (EXPLICIT_VR_LITTLE_ENDIAN,)),))
    accepted = scu.associate()
    assert isinstance(accepted, AssociationAccepted)
    if expected is None:
        assert [3] == [context.result for context in accepted.accept.contexts]
    else:
        assert expected == action(receiver, scu, 1 << 20)


def test_actions_of_all_associations_share_one_limit(receiver_with: Any, scu_with: Any):
    """A peer that may ask fills no more than its share; what is too much is refused, and the next one is kept."""
    receiver = receiver_with(commitment=COMMITMENT_PEERS)
    memory = receiver._receiver.actions
    scu = scu_with(receiver.port, contexts=((STORAGE_COMMITMENT, (EXPLICIT_VR_LITTLE_ENDIAN,)),))
    scu.associate()
    assert Status.RESOURCE_LIMITATION == action(receiver, scu, MAX_ACTION_BYTES + 2)
    memory.take(memory._left - 1000)
    left = memory._left
    scu.requestor.send(
        1,
        encode_command(Command(CommandField.N_ACTION_RQ, message_id=2, data_set_type=1, action_type_id=1)),
        bytes(2000),
    )
    scu.flush()
    assert Status.RESOURCE_LIMITATION == scu.response().status
    assert left == memory._left


def test_action_gives_its_memory_back_however_it_ends():
    """After it is dropped, refused, or dropped twice the sum is what it was."""
    memory = ActionMemory(100)
    first, second = Action(memory), Action(memory)
    first.take([b"x" * 60])
    second.take([b"y" * 60])
    assert (False, True, b"") == (first.is_refused, second.is_refused, second.data)
    second.take([b"y"])
    for each in (first, second, first):
        each.drop()
    third = Action(memory)
    third.take([b"z" * 50, memoryview(b"z" * 50)])
    assert b"z" * 100 == third.data


def test_association_that_ends_within_an_action_gives_its_memory_back(receiver_with: Any, scu_with: Any, until: Any):
    """A peer that leaves in the middle keeps nothing."""
    receiver = receiver_with(commitment=COMMITMENT_PEERS)
    memory = receiver._receiver.actions
    left = memory._left
    scu = scu_with(receiver.port, contexts=((STORAGE_COMMITMENT, (EXPLICIT_VR_LITTLE_ENDIAN,)),))
    scu.associate()
    command = encode_command(Command(CommandField.N_ACTION_RQ, message_id=2, data_set_type=1, action_type_id=1))
    scu.socket.sendall(fragment(command, 3) + fragment(bytes(5000)))
    until(lambda: memory._left == left - 5000)
    scu.socket.close()
    until(lambda: memory._left == left)


def test_request_is_read_up_to_its_limit_only(raw: Any, receiver: Any):
    """A PDU that claims to be longer is refused by its header, before a byte of it is kept."""
    assert b"\7" == raw(receiver.port, struct.pack(">BxI", 1, 256 << 10 | 1) + MAX_LENGTH)[:1]


def test_stop_needs_no_wake_where_the_transport_gives_none(
    receiver_with: Any, scu_with: Any, data_set: Any, until: Any, monkeypatch: pytest.MonkeyPatch
):
    """As on Windows: an idle association looks itself whether there is a stop, and what is under way is answered."""
    monkeypatch.setattr(association, "_CAN_WAKE", False)
    monkeypatch.setattr(association.Association, "wake", lambda _: None)
    receiver = receiver_with()
    idle, sending = scu_with(receiver.port), scu_with(receiver.port)
    for scu in (idle, sending):
        scu.associate()
    encoded = data_set()
    sending.socket.sendall(fragment(STORE, 3) + fragment(encoded[:200]))
    until(lambda: list(receiver.spool.received.glob("*/*.part")))
    stopping = threading.Thread(target=receiver.drain)
    stopping.start()
    assert isinstance(idle.next_event(), AssociationAborted)
    sending.socket.sendall(fragment(encoded[200:], 2))
    assert Status.SUCCESS == sending.response().status
    assert isinstance(sending.next_event(), AssociationAborted)
    stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive()
