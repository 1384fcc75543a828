"""What a peer says beside its response: requests of its own, a release, an abort, in the same bytes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiting import WAIT_SECONDS

from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.command import Command, CommandField, decode_command, encode_command
from dicomflow.dimse.events import CommandReceived
from dicomflow.dimse.items import AnsweredContext
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.pdu import (
    AbortSource,
    AssociateAccept,
    encode_abort,
    encode_associate_accept,
    encode_release_request,
)
from dicomflow.dimse.status import AbortReason, Status
from dicomflow.errors import TransientError
from dicomflow.send import association as module
from dicomflow.send.association import SendAssociation

RESPONSE = encode_message(
    1,
    encode_command(Command(CommandField.C_ECHO_RQ | 0x8000, message_id_responded_to=1, status=0)),
    16_384,
)
REPORT = encode_message(
    1,
    encode_command(Command(CommandField.N_EVENT_REPORT_RQ, message_id=9, data_set_type=1, event_type_id=1)),
    16_384,
    b"event information ",
)


class Peer:
    """Accepts one association, answers the first message with these bytes, and keeps what comes after."""

    def __init__(self, *answers: bytes) -> None:
        self.received: list[Command] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._answers = answers
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Wait for its end."""
        self._thread.join(WAIT_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(OSError, struct.error):
            connection.settimeout(WAIT_SECONDS)
            self._pdu(connection)
            context = AnsweredContext(1, 0, IMPLICIT_VR_LITTLE_ENDIAN)
            connection.sendall(encode_associate_accept(AssociateAccept((context,), 16_384)))
            self._pdu(connection)
            for each in self._answers:
                connection.sendall(each)
            while True:
                kind, body = self._pdu(connection)
                if kind == 5:
                    connection.sendall(b"\6\0\0\0\0\4\0\0\0\0")
                if kind != 4:
                    return
                self.received.append(decode_command(body[6:]))

    @staticmethod
    def _pdu(connection: socket.socket) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", connection.recv(6, socket.MSG_WAITALL))
        return kind, connection.recv(length, socket.MSG_WAITALL)


@pytest.fixture
def peer_with() -> Iterator[Callable[..., Peer]]:
    """Start peers that end with the test."""
    started: list[Peer] = []

    def _peer_with(*answers: bytes) -> Peer:
        started.append(Peer(*answers))
        return started[-1]

    yield _peer_with
    for each in started:
        each.close()


def _association(peer: Peer, serve: Any = None) -> SendAssociation:
    return SendAssociation(
        "127.0.0.1",
        peer.port,
        [(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)],
        calling_ae_title="EDGE",
        called_ae_title="PACS",
        timeout_seconds=WAIT_SECONDS,
        serve=serve,
    )


@pytest.mark.parametrize(
    "answers", [(RESPONSE + REPORT,), (REPORT + RESPONSE,), (RESPONSE, REPORT), (RESPONSE + REPORT[:30], REPORT[30:])]
)
def test_request_of_the_peer_is_answered_wherever_it_stands(answers: tuple[bytes, ...], peer_with: Callable[..., Peer]):
    """A report before, with or after the response is performed once, and answered with its status."""
    peer, served = peer_with(*answers), []

    def serve(event: CommandReceived, data: bytes) -> Status:
        served.append((event.command.message_id, data))
        return Status.SUCCESS

    with _association(peer, serve) as association:
        assert 0 == association.echo()
        association.listen(WAIT_SECONDS, lambda: bool(served))
    peer.close()
    assert [(9, b"event information ")] == served
    (answer,) = peer.received
    assert (0x8100, 9, 0) == (answer.command_field, answer.message_id_responded_to, answer.status)


def test_request_that_is_too_long_is_refused_within_its_memory(
    peer_with: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
):
    """A data set above the limit is thrown away as it comes, and its request answered 0213."""
    monkeypatch.setattr(module, "_MAX_SERVED_BYTES", 10)
    peer = peer_with(REPORT + RESPONSE)
    with _association(peer, lambda _event, _data: pytest.fail("it was performed")) as association:
        assert 0 == association.echo()
    peer.close()
    assert [Status.RESOURCE_LIMITATION] == [each.status for each in peer.received]


@pytest.mark.parametrize(
    "last",
    [encode_release_request(), encode_abort(AbortSource.USER, AbortReason.NOT_SPECIFIED)],
    ids=["release", "abort"],
)
def test_end_in_the_bytes_of_the_response_does_not_take_it_away(last: bytes, peer_with: Callable[..., Peer]):
    """What was answered was answered; the next request finds that the association has ended."""
    with _association(peer_with(RESPONSE + last)) as association:
        assert 0 == association.echo()
        with pytest.raises(TransientError, match="ended the association"):
            association.echo()


@pytest.mark.parametrize("message_id", [0, 2, 9])
def test_response_to_another_message_is_named_at_once(message_id: int, peer_with: Callable[..., Peer]):
    """Nothing was asked under its message ID: no time-out is waited for, and the reason says both."""
    stray = RESPONSE.replace(struct.pack("<HHIH", 0, 0x0120, 2, 1), struct.pack("<HHIH", 0, 0x0120, 2, message_id))
    assert stray != RESPONSE
    with (
        _association(peer_with(stray)) as association,
        pytest.raises(TransientError, match=f"responded to message ID {message_id}, not to 1$"),
    ):
        association.echo()


def test_response_to_an_earlier_message_is_passed_over(peer_with: Callable[..., Peer]):
    """It comes twice, or late: it is no answer to what was asked after it, and takes none from it."""
    right = RESPONSE.replace(struct.pack("<HHIH", 0, 0x0120, 2, 1), struct.pack("<HHIH", 0, 0x0120, 2, 2))
    with _association(peer_with(RESPONSE + right)) as association:
        association.next_message_id()
        assert 0 == association.echo()


def test_end_before_the_response_is_an_error(peer_with: Callable[..., Peer]):
    """A peer that releases instead of answering has not answered."""
    with (
        _association(peer_with(encode_release_request())) as association,
        pytest.raises(TransientError, match="released the association"),
    ):
        association.echo()


def test_listening_ends_with_its_time_and_leaves_the_association_usable(peer_with: Callable[..., Peer]):
    """Nobody speaks: it ends in time, and the association is released in order."""
    peer = peer_with(RESPONSE)
    with _association(peer, lambda _event, _data: Status.SUCCESS) as association:
        assert 0 == association.echo()
        association.listen(0.01, lambda: False)
    assert [] == peer.received
