"""Send stored objects over DIMSE: a blocking store SCU around the requestor's core (PS3.4 B.2.1).

Objects are sent as they are stored: the transfer syntax of the file is the one that is proposed. The data set is
mapped, not read, so an object's size costs no memory.
"""

import contextlib
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from dicomflow.dicom.uids import VERIFICATION
from dicomflow.dimse.command import Command, CommandField, Priority, encode_command
from dicomflow.dimse.events import CommandReceived
from dicomflow.dimse.items import Role, UserIdentity
from dicomflow.dimse.message import MAX_SENT_PDU_BYTES
from dicomflow.dimse.status import Status, describe_status
from dicomflow.errors import PermanentError
from dicomflow.network.requesting import RequestedAssociation, propose
from dicomflow.send.files import StoredFile

__all__ = ["Outcome", "SendAssociation"]

_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: the status of its response, or the reason why there was none."""

    file: StoredFile
    status: int | None
    reason: str

    @property
    def is_stored(self) -> bool:
        """Whether the peer says that it has the object: Success, or a warning (PS3.7 Annex C)."""
        return self.status is not None and (
            self.status == Status.SUCCESS or self.status in _WARNINGS or self.status >> 12 == 0xB
        )


class SendAssociation(RequestedAssociation):
    """An association to a receiver, from `__enter__` to `__exit__`. Thread: one owner.

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
        self.send(context_id, replace(command, message_id=self.next_message_id()), encode(transfer_syntax))
        return self._await_response()

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
        self.flush()
        while True:
            for event in self.receive_open():
                if not isinstance(event, CommandReceived) or event.command.status is None:
                    continue
                if event.command.message_id_responded_to == self._message_id:
                    self._comment = f": {event.command.error_comment}" if event.command.error_comment else ""
                    return event.command.status
