"""Send stored objects over DIMSE: a blocking store SCU around the requestor's core (PS3.4 B.2.1).

Objects are sent as they are stored: the transfer syntax of the file is the one that is proposed. The data set is
mapped, not read, so an object's size costs no memory.
"""

import contextlib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from dicomflow.dicom.uids import VERIFICATION
from dicomflow.dimse.command import Command, CommandField, Priority, encode_command, encode_response
from dicomflow.dimse.events import CommandReceived, DataSetReceived, Event
from dicomflow.dimse.items import Role, UserIdentity
from dicomflow.dimse.message import MAX_SENT_PDU_BYTES
from dicomflow.dimse.status import Status, describe_status, is_warning
from dicomflow.errors import PermanentError, TransientError
from dicomflow.network.requesting import RequestedAssociation, propose
from dicomflow.send.files import StoredFile

__all__ = ["Outcome", "SendAssociation"]

_LOOK_SECONDS: Final = 0.25
_MAX_SERVED_BYTES: Final = 20 << 20  # of a data set that the peer sends us: a report on 100,000 instances

Serve = Callable[[CommandReceived, bytes], Status]
"""Performs what the peer asks of us, from its command and its data set, and says with which status it is answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: the status of its response, or the reason why there was none."""

    file: StoredFile
    status: int | None
    reason: str

    @property
    def is_stored(self) -> bool:
        """Whether the peer says that it has the object: Success, or a warning (PS3.7 Annex C)."""
        return self.status is not None and (self.status == Status.SUCCESS or is_warning(self.status))


class SendAssociation(RequestedAssociation):
    """An association to a receiver, from `__enter__` to `__exit__`. Thread: one owner.

    With `serve` what the peer asks of us meanwhile, as a report on storage commitment is, is answered with its status.

    Raises:
        TransientError: on entering or sending, when the peer cannot be reached, is busy, or breaks off.
        PermanentError: on entering, when the peer rejects the association for good.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pairs: Sequence[tuple[str, str]],
        *,
        calling_ae_title: str,
        called_ae_title: str,
        timeout_seconds: float,
        max_pdu_bytes: int = MAX_SENT_PDU_BYTES,
        roles: tuple[Role, ...] = (),
        tls: ssl.SSLContext | None = None,
        user_identity: UserIdentity | None = None,
        serve: Serve | None = None,
    ) -> None:
        super().__init__(
            host,
            port,
            propose([(abstract_syntax, (transfer_syntax,)) for abstract_syntax, transfer_syntax in pairs]),
            calling_ae_title=calling_ae_title,
            called_ae_title=called_ae_title,
            timeout_seconds=timeout_seconds,
            max_pdu_bytes=max_pdu_bytes,
            roles=roles,
            tls=tls,
            user_identity=user_identity,
        )
        self._proposed = frozenset(pairs)
        self._contexts: dict[tuple[str, str], int] = {}
        self._comment = ""
        self._stray = ""  # what answers another message than the one that waits for its response
        self._served = _Served(serve)

    def __enter__(self) -> Self:
        """Connect and associate."""
        super().__enter__()
        self._contexts = self.accepted()
        return self

    def echo(self) -> int:
        """C-ECHO; return the status of the response (PS3.7 9.1.5)."""
        command = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION.encode("ascii"))
        return self.request(VERIFICATION, command, lambda _: None)

    def request(self, abstract_syntax: str, command: Command, encode: Callable[[str], bytes | None]) -> int:
        """Send a request on the first accepted context of an abstract syntax; return the status of the response.

        Args:
            abstract_syntax: what the request is about.
            command: its command set; the message ID is ours to give.
            encode: gives the data set in a transfer syntax, or None for none.

        Raises:
            PermanentError: the peer accepts no context for it.
        """
        context_id, transfer_syntax = self.context_of(abstract_syntax)
        self._stray = ""
        self.send(context_id, replace(command, message_id=self.next_message_id()), encode(transfer_syntax))
        return self._await_response()

    def listen(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Answer what the peer asks of us for so many seconds, or until `is_over` or the peer releases.

        Raises:
            TransientError: the association breaks.
        """
        until = time.monotonic() + seconds
        while self.is_open and not is_over() and (left := until - time.monotonic()) > 0:
            for event in self.receive(min(left, _LOOK_SECONDS)):
                self._take(event)
            self.flush()

    def accepts(self, pair: tuple[str, str]) -> bool:
        """Tell whether the peer accepted a context for a SOP class in a transfer syntax."""
        return pair in self._contexts

    def covers(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Tell whether all of these SOP classes and transfer syntaxes were proposed, accepted or not."""
        return self._proposed.issuperset(pairs)

    def store(self, file: StoredFile) -> Outcome:
        """C-STORE one file and wait for its response (PS3.7 9.1.1); one that cannot be read has its own outcome."""
        return next(self.store_all([file]))

    def store_all(self, files: Iterable[StoredFile]) -> Iterator[Outcome]:
        """C-STORE files one after the other, in order; the next one is opened while the peer works on the last."""
        under_way: StoredFile | None = None
        with contextlib.ExitStack() as opened:
            for file in files:
                ready = self._open(file, opened)
                if under_way is not None:
                    yield self._finish(under_way)
                    under_way = None
                if isinstance(ready, Outcome):
                    yield ready
                    continue
                context_id, data_set = ready
                self.send(context_id, self._encode_store(file), data_set)
                self.flush()
                del ready, data_set
                opened.close()
                under_way = file
            if under_way is not None:
                yield self._finish(under_way)

    def _open(self, file: StoredFile, opened: contextlib.ExitStack) -> tuple[int, memoryview] | Outcome:
        meta = file.meta
        context_id = self._contexts.get((meta.sop_class_uid, meta.transfer_syntax_uid))
        if context_id is None:
            reason = f"the peer accepts no context for {meta.sop_class_uid} in {meta.transfer_syntax_uid}"
            return Outcome(file, None, reason)
        try:
            return context_id, opened.enter_context(file.data_set())
        except (OSError, ValueError) as error:  # ValueError: it has become empty, and cannot be mapped
            return Outcome(file, None, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        except PermanentError as error:
            return Outcome(file, None, str(error))

    def _encode_store(self, file: StoredFile) -> bytes:
        self._stray = ""
        return encode_command(
            Command(
                CommandField.C_STORE_RQ,
                message_id=self.next_message_id(),
                affected_sop_class_uid=file.meta.sop_class_uid.encode("ascii"),
                affected_sop_instance_uid=file.meta.sop_instance_uid.encode("ascii"),
                priority=Priority.MEDIUM,
                data_set_type=1,
            )
        )

    def _finish(self, file: StoredFile) -> Outcome:
        status = self._await_response()
        return Outcome(
            file, status, "" if status == Status.SUCCESS else f"status {describe_status(status)}{self._comment}"
        )

    def _await_response(self) -> int:
        """Return the status of the response; what comes in the same bytes after it is taken, and does not undo it."""
        self.flush()
        status: int | None = None
        while status is None:
            if not self.is_open:
                raise TransientError("the peer released the association")
            try:
                for event in self.receive():
                    answered = self._take(event)
                    status = answered if status is None else status
                self.flush()
            except TransientError as error:
                if status is None:
                    raise TransientError(f"{error}{self._stray}") from error
        return status

    def _take(self, event: Event) -> int | None:
        """Return the status where an event is our response; answer what the peer asks of us."""
        if isinstance(event, CommandReceived) and event.command.status is not None:
            if event.command.message_id_responded_to != self._message_id:
                self._note_stray(event.command.message_id_responded_to)
                return None
            self._comment = f": {event.command.error_comment}" if event.command.error_comment else ""
            return event.command.status
        if isinstance(event, CommandReceived | DataSetReceived):
            answered = self._served.take(event)
            if answered is not None and self.is_open:
                self.send(*answered)
        return None

    def _note_stray(self, message_id: int | None) -> None:
        """Pass over a response that comes twice, and refuse one to what was never asked (PS3.7 E.1, 0000,0120).

        Raises:
            TransientError: nothing was sent under this message ID, so that no better response will come.
        """
        self._stray = f"; the peer responded to message ID {message_id}, not to {self._message_id}"
        if message_id is None or not 0 < message_id <= self._message_id:
            raise TransientError("no answer")


class _Served:
    """What the peer asks of us, one request at a time: its data set is kept up to `_MAX_SERVED_BYTES`."""

    def __init__(self, serve: Serve | None) -> None:
        self._serve = serve
        self._request: CommandReceived | None = None
        self._data = bytearray()
        self._is_too_long = False

    def take(self, event: CommandReceived | DataSetReceived) -> tuple[int, bytes] | None:
        """Take an event; return the context ID and the response where it ends a request."""
        if isinstance(event, CommandReceived):
            if self._serve is None or event.command.is_response:
                return None
            self._request, self._data, self._is_too_long = event, bytearray(), False
            return None if event.command.has_data_set else self._answer()
        if self._request is None:
            return None
        for fragment in event.fragments:
            self._is_too_long |= len(self._data) + len(fragment) > _MAX_SERVED_BYTES
            if not self._is_too_long:
                self._data += fragment
        return self._answer() if event.is_last else None

    def _answer(self) -> tuple[int, bytes]:
        request, self._request = self._request, None
        assert request is not None
        assert self._serve is not None
        status = Status.RESOURCE_LIMITATION if self._is_too_long else self._serve(request, bytes(self._data))
        self._data = bytearray()
        return request.context.context_id, encode_response(request.command, status)
