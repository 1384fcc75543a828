"""The acceptor's side of an association, without I/O: bytes in, events and bytes out (PS3.8 9.2, PS3.7 6.3).

One thread owns an acceptor. Data sets are handed out as views of the buffer they arrived in, so neither the size
of a PDU nor that of an object costs memory. ARTIM and the idle limit are the caller's: it knows the clock.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from dicomflow.dimse.command import CommandError
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationReleased,
    AssociationRequested,
    ConnectionLost,
    Event,
)
from dicomflow.dimse.message import MessageReader, message_parts
from dicomflow.dimse.negotiation import AcceptedContext, accepted_contexts
from dicomflow.dimse.pdu import (
    AbortSource,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    PduError,
    PduType,
    decode_abort,
    decode_associate_request,
    encode_abort,
    encode_associate_accept,
    encode_associate_reject,
    encode_release_response,
)
from dicomflow.dimse.status import AbortReason
from dicomflow.dimse.stream import Fragment, Pdu, PduStream, StreamError
from dicomflow.errors import InternalError

__all__ = ["Acceptor", "Action", "State"]


class State(Enum):
    """The states an acceptor that never asks for release can be in (PS3.8 9.2.1)."""

    STA1 = "idle: the transport is to be closed"
    STA2 = "transport open, awaiting A-ASSOCIATE-RQ; ARTIM runs"
    STA3 = "awaiting the local accept or reject"
    STA6 = "association established"
    STA13 = "awaiting the close of the transport; ARTIM runs"


class Action(Enum):
    """Actions of PS3.8 9.2.2 that a received PDU leads to; a release is answered at once, so AR-2 includes AR-4."""

    AE_6 = "indicate the association request"
    DT_2 = "deliver data"
    AR_2 = "indicate the release, answer it"
    AA_1 = "abort as service user"
    AA_2 = "close the transport"
    AA_3 = "indicate the abort, close the transport"
    AA_6 = "ignore"
    AA_7 = "abort"
    AA_8 = "abort as service provider"


_S2, _S3, _S6, _S13 = State.STA2, State.STA3, State.STA6, State.STA13
# PS3.8 Table 9-10 for received PDUs, rows by PDU type, columns Sta2, Sta3, Sta6, Sta13. Sta7 and Sta9 to Sta12
# follow a release that we ask for, which an acceptor never does; Sta8 ends within AR-2.
_TABLE: Final = {
    PduType.ASSOCIATE_AC: {_S2: Action.AA_1, _S3: Action.AA_8, _S6: Action.AA_8, _S13: Action.AA_6},
    PduType.ASSOCIATE_RJ: {_S2: Action.AA_1, _S3: Action.AA_8, _S6: Action.AA_8, _S13: Action.AA_6},
    PduType.ASSOCIATE_RQ: {_S2: Action.AE_6, _S3: Action.AA_8, _S6: Action.AA_8, _S13: Action.AA_7},
    PduType.P_DATA_TF: {_S2: Action.AA_1, _S3: Action.AA_8, _S6: Action.DT_2, _S13: Action.AA_6},
    PduType.RELEASE_RQ: {_S2: Action.AA_1, _S3: Action.AA_8, _S6: Action.AR_2, _S13: Action.AA_6},
    PduType.RELEASE_RP: {_S2: Action.AA_1, _S3: Action.AA_8, _S6: Action.AA_8, _S13: Action.AA_6},
    PduType.ABORT: {_S2: Action.AA_2, _S3: Action.AA_3, _S6: Action.AA_3, _S13: Action.AA_2},
}


class Acceptor:
    """One association, from the open transport on."""

    def __init__(self) -> None:
        self.state = State.STA2
        self.request: AssociateRequest | None = None
        self.contexts: dict[int, AcceptedContext] = {}
        self._stream = PduStream()
        self._messages = MessageReader(self.contexts)
        self._outbox: list[bytes | memoryview] = []
        self._peer_max_length = 0
        self._granted: frozenset[str] = frozenset()
        # After an abort, whoever's, what still arrives is thrown away: it may not even be framed.
        self._is_deaf = False

    @property
    def is_between_messages(self) -> bool:
        """Whether no message is half received."""
        return self._messages.is_idle

    @property
    def awaits_rest(self) -> bool:
        """Whether a PDU or a message has begun of which more is to come."""
        return not self._messages.is_idle or self._stream.is_within_pdu

    @property
    def longest_p_data_bytes(self) -> int:
        """The longest P-DATA-TF so far, in bytes of its length field; it may exceed what was announced."""
        return self._stream.longest_p_data_bytes

    def buffers(self) -> list[memoryview] | None:
        """Return buffers to receive the next bytes into, in their order, for `receive_scattered`.

        None when the next bytes are to be received into one buffer, for `receive`; that is always possible.
        """
        return self._stream.buffers(self._messages.run) if self.state is State.STA6 else None

    def receive_scattered(self, received: int) -> Iterator[Event]:
        """Yield what so many bytes in `buffers` lead to, as `receive` does."""
        return self._take(self._stream.feed_scattered(received, self._messages.run))

    def receive(self, data: memoryview) -> Iterator[Event]:
        """Yield what `data` leads to; views in the events are valid until the buffer is filled again."""
        return self._take(self._stream.feed(data, self._messages.run))

    def _take(self, parts: Iterator[Pdu | Fragment]) -> Iterator[Event]:
        if self._is_deaf:
            return
        try:
            for part in parts:
                if type(part) is Fragment and self.state is State.STA6:
                    message = self._messages.take(part)
                    if message is not None:
                        yield message
                else:
                    yield from self._act(part)
                if self._is_deaf:
                    return
            # A release or an abort drops what is half received (PS3.8 9.2), so nothing is left to hand out then.
            flushed = self._messages.flush() if self.state is State.STA6 else None
            if flushed is not None:
                yield flushed
        except StreamError as error:
            yield from self._violated(str(error), error.reason)
        except CommandError as error:
            yield self.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, str(error))
        except PduError as error:
            yield from self._violated(str(error), AbortReason.INVALID_PARAMETER_VALUE)

    def receive_eof(self) -> Iterator[Event]:
        """The transport closed: AA-4, AA-5 or AR-5."""
        if self.state in {State.STA3, State.STA6}:
            yield ConnectionLost()
        self._close()

    def accept(self, accept: AssociateAccept) -> None:
        """AE-7: send A-ASSOCIATE-AC."""
        request = self._requested()
        self.contexts.update(accepted_contexts(request, accept))
        self._peer_max_length = request.max_length
        self._granted = frozenset(role.sop_class_uid for role in accept.roles if role.scp)
        self._outbox.append(encode_associate_accept(accept))
        self.state = State.STA6

    def reject(self, reject: AssociateReject) -> None:
        """AE-8: send A-ASSOCIATE-RJ and await the close."""
        self._requested()
        self._outbox.append(encode_associate_reject(reject))
        self.state = State.STA13

    def is_scp_of(self, sop_class_uid: str) -> bool:
        """Tell whether the peer was granted the role of SCP of a SOP class, so that it takes our requests."""
        return sop_class_uid in self._granted

    def send(self, context_id: int, command: bytes, data_set: bytes | memoryview | None = None) -> None:
        """DT-1: send a message, in PDUs no longer than the peer announced; the data set is not copied."""
        if self.state is not State.STA6:
            raise InternalError(f"a message cannot be sent in {self.state.name}")
        self._outbox.extend(message_parts(context_id, command, self._peer_max_length, data_set))

    def abort(self, source: AbortSource, reason: AbortReason, message: str) -> AssociationAborted:
        """AA-1 or AA-8: send A-ABORT and await the close."""
        self._outbox.append(encode_abort(source, reason))
        self.state = State.STA13
        self._is_deaf = True
        return AssociationAborted(int(source), int(reason), by_peer=False, message=message)

    def parts_to_send(self) -> list[bytes | memoryview]:
        """Return what is to be sent, in order, without copying data sets; empty for nothing."""
        parts, self._outbox = self._outbox, []
        return parts

    def data_to_send(self) -> bytes:
        """Return what is to be sent, in one piece so that it leaves in one segment; empty for nothing."""
        return b"".join(self.parts_to_send())

    def _close(self) -> None:
        self.state = State.STA1
        self._is_deaf = True

    def _requested(self) -> AssociateRequest:
        if self.request is None or self.state is not State.STA3:
            raise InternalError(f"no association request to answer in {self.state.name}")
        return self.request

    def _act(self, part: Pdu | Fragment) -> Iterator[Event]:
        """Look up and carry out the action for a received PDU, or for a P-DATA-TF outside Sta6."""
        kind = part.kind if isinstance(part, Pdu) else PduType.P_DATA_TF
        match _TABLE[kind][self.state]:
            case Action.AE_6:
                assert isinstance(part, Pdu)
                self.request = decode_associate_request(part.body)
                self.state = State.STA3
                yield AssociationRequested(self.request)
            case Action.AR_2:
                self._outbox.append(encode_release_response())
                self._messages.drop()
                self.state = State.STA13
                yield AssociationReleased()
            case Action.AA_1:
                message = f"{kind.name} while awaiting A-ASSOCIATE-RQ"
                yield self.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, message)
            case Action.AA_2:
                self._close()
            case Action.AA_3:
                assert isinstance(part, Pdu)
                source, reason = decode_abort(part.body)
                self._close()
                yield AssociationAborted(source, reason, by_peer=True, message="aborted by the peer")
            case Action.AA_7:
                self.abort(AbortSource.PROVIDER, AbortReason.UNEXPECTED_PDU, "")
            case Action.AA_8:
                message = f"unexpected {kind.name} in {self.state.name}"
                yield self.abort(AbortSource.PROVIDER, AbortReason.UNEXPECTED_PDU, message)
            case _:
                pass

    def _violated(self, message: str, reason: AbortReason) -> Iterator[Event]:
        """Event 19, an invalid PDU: AA-1 in Sta2, AA-7 in Sta13, else AA-8."""
        if self.state is State.STA2:
            yield self.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, message)
        elif self.state is State.STA13:
            self.abort(AbortSource.PROVIDER, reason, message)
        else:
            yield self.abort(AbortSource.PROVIDER, reason, message)
