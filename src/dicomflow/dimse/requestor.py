"""The requestor's side of an association, without I/O: bytes in, events and bytes out (PS3.8 9.2).

One thread owns a requestor. It sends messages and takes their responses; what else the peer sends is an abort.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from dicomflow.dimse.command import CommandError
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationAccepted,
    AssociationRejected,
    AssociationReleased,
    ConnectionLost,
    Event,
)
from dicomflow.dimse.message import LEAST_MAX_LENGTH, MessageReader, message_parts
from dicomflow.dimse.negotiation import AcceptedContext, accepted_contexts
from dicomflow.dimse.pdu import (
    AbortSource,
    AssociateRequest,
    PduError,
    PduType,
    decode_abort,
    decode_associate_accept,
    decode_associate_reject,
    encode_abort,
    encode_associate_request,
    encode_release_request,
    encode_release_response,
)
from dicomflow.dimse.status import AbortReason
from dicomflow.dimse.stream import Fragment, Pdu, PduStream, StreamError
from dicomflow.errors import InternalError

__all__ = ["Requestor", "RequestorState"]


class RequestorState(Enum):
    """The states of a requestor whose transport is open (PS3.8 9.2.1)."""

    STA1 = "idle: the transport is to be closed"
    STA5 = "awaiting A-ASSOCIATE-AC or A-ASSOCIATE-RJ"
    STA6 = "association established"
    STA7 = "awaiting A-RELEASE-RP"
    STA11 = "release collision: awaiting A-RELEASE-RP after answering the peer's request"
    STA13 = "awaiting the close of the transport"


_RELEASING: Final = frozenset({RequestorState.STA7, RequestorState.STA11})


class Requestor:
    """One association that we ask for; the request is the first thing to send."""

    def __init__(self, request: AssociateRequest) -> None:
        self.state = RequestorState.STA5
        self.contexts: dict[int, AcceptedContext] = {}
        self._request = request
        self._outbox: list[bytes | memoryview] = [encode_associate_request(request)]
        self._stream = PduStream()
        self._messages = MessageReader(self.contexts)
        self._peer_max_length = 0

    def receive(self, data: memoryview) -> Iterator[Event]:
        """Yield what `data` leads to; views in the events are valid until the buffer is filled again."""
        if self.state in {RequestorState.STA1, RequestorState.STA13}:
            return
        try:
            for part in self._stream.feed(data, self._messages.run):
                if isinstance(part, Pdu):
                    yield from self._act(part)
                else:
                    yield from self._take(part)
                if self.state in {RequestorState.STA1, RequestorState.STA13}:
                    return
            flushed = self._messages.flush()
            if flushed is not None:
                yield flushed
        except StreamError as error:
            yield self.abort(AbortSource.PROVIDER, error.reason, str(error))
        except CommandError as error:
            yield self.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, str(error))
        except PduError as error:
            yield self.abort(AbortSource.PROVIDER, AbortReason.INVALID_PARAMETER_VALUE, str(error))

    def receive_eof(self) -> Iterator[Event]:
        """The transport closed: AA-4 or AR-5."""
        if self.state not in {RequestorState.STA1, RequestorState.STA13}:
            yield ConnectionLost()
        self.state = RequestorState.STA1

    def send(self, context_id: int, command: bytes, data_set: bytes | memoryview | None = None) -> None:
        """DT-1: send a message, in PDUs no longer than the peer announced; the data set is not copied."""
        if self.state is not RequestorState.STA6:
            raise InternalError(f"a message cannot be sent in {self.state.name}")
        self._outbox.extend(message_parts(context_id, command, self._peer_max_length, data_set))

    def release(self) -> None:
        """AR-1: ask for release."""
        if self.state is not RequestorState.STA6:
            raise InternalError(f"no association to release in {self.state.name}")
        self._outbox.append(encode_release_request())
        self.state = RequestorState.STA7

    def abort(self, source: AbortSource, reason: AbortReason, message: str) -> AssociationAborted:
        """AA-1 or AA-8: send A-ABORT."""
        self._outbox.append(encode_abort(source, reason))
        self.state = RequestorState.STA13
        return AssociationAborted(int(source), int(reason), by_peer=False, message=message)

    def parts_to_send(self) -> list[bytes | memoryview]:
        """Return the buffers that are to be sent, in order; empty for nothing."""
        parts, self._outbox = self._outbox, []
        return parts

    def _take(self, fragment: Fragment) -> Iterator[Event]:
        """DT-2 and AR-6: data is taken in Sta6 and while our release is under way."""
        if self.state is RequestorState.STA5 or self.state is RequestorState.STA11:
            yield self.abort(AbortSource.PROVIDER, AbortReason.UNEXPECTED_PDU, f"P-DATA-TF in {self.state.name}")
            return
        message = self._messages.take(fragment)
        if message is not None:
            yield message

    def _act(self, pdu: Pdu) -> Iterator[Event]:
        match pdu.kind, self.state:
            case PduType.ASSOCIATE_AC, RequestorState.STA5:
                accept = decode_associate_accept(pdu.body)
                if 0 < accept.max_length < LEAST_MAX_LENGTH:
                    message = f"maximum length {accept.max_length} leaves no room for a fragment"
                    yield self.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, message)
                    return
                self.contexts.update(accepted_contexts(self._request, accept))
                self._peer_max_length = accept.max_length
                self.state = RequestorState.STA6
                yield AssociationAccepted(accept)
            case PduType.ASSOCIATE_RJ, RequestorState.STA5:
                reject = decode_associate_reject(pdu.body)
                self.state = RequestorState.STA1
                yield AssociationRejected(reject)
            case PduType.RELEASE_RP, state if state in _RELEASING:
                self.state = RequestorState.STA1
                yield AssociationReleased()
            case PduType.RELEASE_RQ, RequestorState.STA7:
                # AR-8 and AR-9: both sides asked at once; the requestor answers first (PS3.8 9.2.2, Sta9).
                self._outbox.append(encode_release_response())
                self._messages.drop()
                self.state = RequestorState.STA11
            case PduType.RELEASE_RQ, RequestorState.STA6:
                self._outbox.append(encode_release_response())
                self.state = RequestorState.STA13
                yield AssociationReleased()
            case PduType.ABORT, _:
                source, reason = decode_abort(pdu.body)
                self.state = RequestorState.STA1
                yield AssociationAborted(source, reason, by_peer=True, message="aborted by the peer")
            case kind, state:
                message = f"unexpected {kind.name} in {state.name}"
                yield self.abort(AbortSource.PROVIDER, AbortReason.UNEXPECTED_PDU, message)
