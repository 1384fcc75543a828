"""A requestor on a blocking socket that can misbehave."""

import select
import socket
import struct
from collections import deque
from typing import Any

from waiting import WAIT_SECONDS

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import CommandReceived, ConnectionLost, Event
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.pdu import AssociateRequest, ProposedContext
from dicomflow.dimse.requestor import Requestor

__all__ = ["CT", "Scu", "begin_object", "end_object"]

CT = "1.2.840.10008.5.1.4.1.1.2"


class Scu:
    """A requestor on a blocking socket that sends whatever a test wants to see refused."""

    def __init__(self, port: int, contexts: Any = None, **request: Any) -> None:
        proposed = contexts or ((CT, (EXPLICIT_VR_LITTLE_ENDIAN,)), (VERIFICATION, (EXPLICIT_VR_LITTLE_ENDIAN,)))
        fields = {
            "called_ae_title": "DICOMFLOW",
            "calling_ae_title": "CT1",
            "contexts": tuple(ProposedContext(2 * i + 1, *each) for i, each in enumerate(proposed)),
            "max_length": 16384,
        }
        self.requestor = Requestor(AssociateRequest(**(fields | request)))
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._events: deque[Event] = deque()
        self._message_id = 0

    def associate(self) -> Event:
        """Ask for the association and return the peer's answer."""
        self.flush()
        return self.next_event()

    def flush(self) -> None:
        """Send what the protocol core has to send."""
        self.socket.sendall(b"".join(self.requestor.parts_to_send()))

    def next_event(self) -> Event:
        """Return the next event; the end of the connection is one."""
        while not self._events:
            received = self.socket.recv(1 << 16)
            events = self.requestor.receive(memoryview(received)) if received else self.requestor.receive_eof()
            self._events.extend(events)
            if not received and not self._events:
                self._events.append(ConnectionLost())
        return self._events.popleft()

    def has_answer(self, seconds: float) -> bool:
        """Tell whether anything arrives within a time."""
        return bool(self._events or select.select([self.socket], [], [], seconds)[0])

    def begin_store(self, data_set: bytes | None, **fields: Any) -> None:
        """Send a C-STORE-RQ and its data set; UIDs are those of `data_set` unless given."""
        self._message_id += 1
        command = {
            "message_id": self._message_id,
            "affected_sop_class_uid": CT.encode(),
            "affected_sop_instance_uid": b"1.2.3.4",
            "priority": 0,
            "data_set_type": 1,
        }
        context_id = fields.pop("context_id", 1)
        encoded = encode_command(Command(CommandField.C_STORE_RQ, **(command | fields)))
        self.requestor.send(context_id, encoded, data_set)
        self.flush()

    def store(self, data_set: bytes | None, **fields: Any) -> Command:
        """Store and return the response."""
        self.begin_store(data_set, **fields)
        return self.response()

    def echo(self, context_id: int = 3) -> Command:
        """Send a C-ECHO and return the response."""
        command = Command(CommandField.C_ECHO_RQ, message_id=9, affected_sop_class_uid=VERIFICATION.encode())
        self.requestor.send(context_id, encode_command(command))
        self.flush()
        return self.response()

    def response(self) -> Command:
        """Return the next response."""
        event = self.next_event()
        assert isinstance(event, CommandReceived), event
        return event.command

    def release(self) -> Event:
        """Release and return the peer's answer."""
        self.requestor.release()
        self.flush()
        return self.next_event()

    def rest(self) -> bytes:
        """Read raw bytes until the peer closes; a reset fails the test."""
        received = b""
        while data := self.socket.recv(1 << 16):
            received += data
        return received


def begin_object(scu: Scu, data_set: bytes) -> None:
    """Send a C-STORE-RQ and the first bytes of its data set."""
    command = Command(CommandField.C_STORE_RQ, 1, None, CT.encode(), b"1.2.3.4", priority=0, data_set_type=1)
    scu.socket.sendall(encode_message(1, encode_command(command), 16384) + _fragment(data_set[: len(data_set) // 2], 0))


def end_object(scu: Scu, data_set: bytes) -> int:
    """Send the rest and return the status of the response."""
    scu.socket.sendall(_fragment(data_set[len(data_set) // 2 :], 2))
    return int(scu.response().status)


def _fragment(data: bytes, control: int) -> bytes:
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, 1, control) + data
