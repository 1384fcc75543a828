"""The connections of a process: many peers at once, each on its own."""

import contextlib
import errno
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import least_seconds

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import AssociationAccepted, AssociationRejected
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.status import Status
from dicomflow.edge.receive.services import Receiver
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.network.admission import Admission, table_length
from dicomflow.network.arrivals import Inbox, Listener, open_inboxes
from dicomflow.network.connections import Connections
from dicomflow.network.listening import bind
from dicomflow.network.services import Host
from dicomflow.network.settings import DimseSettings

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG_2000 = "1.2.840.10008.1.2.4.90"


def test_sixteen_senders_finish_without_a_spurious_failure(receiver: Any, scu_with: Any, data_set: Any, part10: Any):
    """Sixteen associations at once store all they send, each object under its own bytes."""
    failures: list[Any] = []

    def _send(sender: int) -> None:
        scu = scu_with(receiver.port)
        scu.associate()
        for number in range(10):
            uid = f"1.2.{sender}.{number}"
            encoded = data_set(uid, pixels=bytes([sender]) * 50_000)
            status = scu.store(encoded, affected_sop_instance_uid=uid.encode()).status
            if status != Status.SUCCESS:
                failures.append((uid, status))
        scu.release()

    senders = [threading.Thread(target=_send, args=(number,)) for number in range(1, 17)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert [] == failures
    wanted = {part10(f"1.2.{s}.{n}", pixels=bytes([s]) * 50_000) for s in range(1, 17) for n in range(10)}
    assert wanted == set(receiver.stored())


def test_rejected_sender_never_receives_success(receiver_with: Any, scu_with: Any, data_set: Any):
    """A peer that sends an object in spite of its rejection gets no answer, and nothing is stored."""
    receiver = receiver_with(calling_ae_titles=("OTHER",))
    scu = scu_with(receiver.port)
    assert isinstance(scu.associate(), AssociationRejected)
    command = Command(CommandField.C_STORE_RQ, 1, None, CT.encode(), b"1.2.3.4", priority=0, data_set_type=1)
    scu.socket.sendall(encode_message(1, encode_command(command), 16384, data_set()))
    scu.socket.shutdown(socket.SHUT_WR)
    assert b"" == scu.rest()
    assert [] == receiver.stored()


def test_write_error_mid_object_answers_a700_and_leaves_no_file(
    receiver: Any, scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch
):
    """A disk that fills in the middle of a large object: the rest is read, the answer is A700, nothing stays."""
    original, calls = os.writev, []

    def _writev(descriptor: int, buffers: Any) -> int:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, buffers)

    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", _writev)
        answer = scu.store(data_set(pixels=os.urandom(4_000_000)))
    assert 0xA700 == answer.status
    assert 3 == len(calls)
    assert [] == [path for path in receiver.spool.root.rglob("*.*") if path.suffix in {".part", ".dcm"}]
    assert Status.SUCCESS == scu.store(data_set()).status


def test_full_spool_never_deletes_undelivered_objects(
    receiver: Any, scu: Any, data_set: Any, part10: Any, monkeypatch: pytest.MonkeyPatch
):
    """When the disk is full what is there stays, and new objects are refused."""
    assert Status.SUCCESS == scu.store(data_set()).status

    def _writev(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", _writev)
        assert [0xA700] * 5 == [scu.store(data_set(pixels=b"new")).status for _ in range(5)]
    assert [part10()] == receiver.stored()


@pytest.mark.parametrize(
    ("proposed", "accepted"),
    [
        ((JPEG_2000, EXPLICIT_VR_LITTLE_ENDIAN), JPEG_2000),
        ((EXPLICIT_VR_LITTLE_ENDIAN, JPEG_2000), EXPLICIT_VR_LITTLE_ENDIAN),
        (("1.2.840.10008.1.2.4.94", IMPLICIT_VR_LITTLE_ENDIAN), IMPLICIT_VR_LITTLE_ENDIAN),
        ((JPEG_2000,), JPEG_2000),
    ],
    ids=["compressed-first", "native-first", "jpip-first", "compressed-only"],
)
def test_requestors_first_acceptable_transfer_syntax_wins(
    receiver: Any, scu_with: Any, proposed: tuple[str, ...], accepted: str
):
    """Our own preference plays no part, and a compressed-only sender is accepted."""
    answer = scu_with(receiver.port, contexts=((CT, proposed),)).associate()
    assert isinstance(answer, AssociationAccepted)
    assert [(0, accepted)] == [(context.result, context.transfer_syntax) for context in answer.accept.contexts]


def test_128_contexts_are_negotiated(receiver: Any, scu_with: Any, data_set: Any):
    """A request with all the contexts there can be is answered in full, and its last context stores."""
    contexts = (
        *((f"1.2.3.{number}", (IMPLICIT_VR_LITTLE_ENDIAN,)) for number in range(127)),
        (CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    )
    scu = scu_with(receiver.port, contexts=contexts)
    answer = scu.associate()
    assert isinstance(answer, AssociationAccepted)
    assert list(range(1, 256, 2)) == [context.context_id for context in answer.accept.contexts]
    assert Status.SUCCESS == scu.store(data_set(), context_id=255).status


@pytest.mark.parametrize("max_length", [0, 8, 4096])
def test_peers_maximum_length_is_understood(receiver: Any, scu_with: Any, data_set: Any, max_length: int):
    """Zero means no limit; a peer whose PDUs hold two bytes of a message still gets its answers."""
    scu = scu_with(receiver.port, max_length=max_length)
    scu.associate()
    assert Status.SUCCESS == scu.store(data_set()).status


def test_hundreds_of_half_open_connections_leave_the_receiver_working(receiver_with: Any, scu_with: Any, data_set: Any):
    """Connections that say nothing, many of them, neither block nor slow down a modality."""
    receiver = receiver_with(artim_seconds=3600)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(300)]

    def _store() -> None:
        scu = scu_with(receiver.port)
        scu.associate()
        assert Status.SUCCESS == scu.store(data_set()).status

    assert least_seconds(_store, 5) < 5
    for connection in silent:
        connection.close()


def test_accept_that_fails_is_tried_again(receiver: Any, scu_with: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """Out of descriptors for a moment: the listener goes on, and the peer is served when there are some again."""
    original, left = socket.socket.accept, [OSError(errno.EMFILE, ""), OSError(errno.ENFILE, "")]

    def _accept(listener: socket.socket) -> Any:
        # A thread of an earlier receiver may be about to see that its listener is closed.
        if left and listener.fileno() >= 0 and listener.getsockname()[1] == receiver.port:
            raise left.pop()
        return original(listener)

    monkeypatch.setattr(socket.socket, "accept", _accept)
    for _ in range(3):
        scu = scu_with(receiver.port, contexts=((VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),))
        scu.associate()
        assert Status.SUCCESS == scu.echo(1).status
    assert [] == left
    assert 2 == caplog.text.count("accept_failed")  # one of each kind


def test_association_files_of_two_workers_do_not_meet(receiver_with: Any, scu_with: Any, data_set: Any):
    """Two receivers on one spool, as two workers are, keep their files apart."""
    for receiver in (receiver_with(), receiver_with()):
        scu = scu_with(receiver.port)
        scu.associate()
        assert Status.SUCCESS == scu.store(data_set()).status
    found = list(receiver.spool.scan_received())
    assert 2 == len({file.association_id for file in found}) == len({Path(file.path) for file in found})


class Workers:
    """Workers in this process that share a listener."""

    def __init__(self, spool: Any) -> None:
        self.listener = bind("127.0.0.1", 0)
        self._spool = spool
        self._settings = DimseSettings()
        self._table = [0] * table_length(2, self._settings.max_associations)
        self.inboxes = open_inboxes(2)

    def start(self, index: int, *, accepts: bool = True, tls: Any = None) -> None:
        """Start one; one that does not accept only takes what others give to it."""
        admission = Admission(self._table, index, self._settings.max_associations, 0)
        admission.begin()
        watermark = Watermark(SpoolSettings(dir=self._spool.root))
        stopping = threading.Event()
        receiver = Receiver(self._spool, watermark, stopping)
        connections = Connections(Host(self._settings, receiver.serve, stopping, admission))
        if accepts:
            connections.accept_from(Listener(self.listener, tls, admission, [giver for giver, _ in self.inboxes]))
        connections.accept_from(Inbox(self.inboxes[index][1], tls, admission))

    def counts(self) -> list[int]:
        """Return how many connections each has."""
        return [max(count - 1, 0) for count in self._table[-2:]]

    def close(self) -> None:
        """Have their threads end."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for giver, taker in self.inboxes:
            with contextlib.suppress(OSError):
                taker.shutdown(socket.SHUT_RDWR)
            giver.close()
            taker.close()


@pytest.fixture
def workers(spool: Any) -> Any:
    """Give workers, none of them started."""
    started = Workers(spool)
    yield started
    started.close()


def test_workers_share_connections_evenly(workers: Any, until: Any, scu_with: Any):
    """A worker that has more connections than another gives it the next one, which is served there."""
    workers.start(0)
    workers.start(1, accepts=False)
    address = workers.listener.getsockname()
    with contextlib.ExitStack() as connections:
        for number in range(6):
            connections.enter_context(socket.create_connection(address))
            until(lambda count=number + 1: sum(workers.counts()) == count)
        assert [3, 3] == workers.counts()
        for _ in range(2):
            scu = scu_with(address[1], contexts=((VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),))
            scu.associate()
            assert Status.SUCCESS == scu.echo(1).status
        assert [4, 4] == workers.counts()
    until(lambda: workers.counts()[1] == 1)


def test_worker_takes_all_while_there_is_no_other(workers: Any, until: Any):
    """A worker that is being replaced is given nothing: the other serves them all."""
    workers.start(0)
    with contextlib.ExitStack() as connections:
        for _ in range(3):
            connections.enter_context(socket.create_connection(workers.listener.getsockname()))
        until(lambda: workers.counts() == [3, 0])
    until(lambda: workers.counts() == [0, 0])


def test_connection_that_cannot_be_given_away_is_kept(workers: Any, until: Any):
    """Into an inbox that is full nothing more goes, and who accepted serves."""
    workers.start(0)
    workers.start(1, accepts=False)
    workers.inboxes[1][1].shutdown(socket.SHUT_RDWR)
    workers.inboxes[1][1].close()
    with contextlib.ExitStack() as connections:
        for _ in range(4):
            connections.enter_context(socket.create_connection(workers.listener.getsockname()))
        until(lambda: workers.counts() == [4, 0])


def test_connection_whose_peer_leaves_on_the_way_is_dropped(workers: Any, until: Any, monkeypatch: pytest.MonkeyPatch):
    """A connection that was reset before the other worker took it is counted nowhere, and the next one is served."""
    monkeypatch.setattr("dicomflow.network.admission._ON_THE_WAY_SECONDS", 0)
    workers.start(0)
    address = workers.listener.getsockname()
    Admission(workers._table, 1, DimseSettings().max_associations, 0).begin()
    with contextlib.ExitStack() as connections:
        connections.enter_context(socket.create_connection(address))
        until(lambda: workers.counts() == [1, 0])
        with socket.create_connection(address) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            until(lambda: select.select([workers.inboxes[1][1]], [], [], 0)[0])
        workers._table[-1] = 0
        workers.start(1, accepts=False)
        until(lambda: workers.counts() == [1, 0])
        connections.enter_context(socket.create_connection(address))
        until(lambda: workers.counts() == [1, 1])
