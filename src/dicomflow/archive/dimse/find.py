"""C-FIND as SCP, Patient Root and Study Root (PS3.4 C.4.1): answers as they are read, in batches.

Lenient: keys of all levels may stand beside each other, and parents be missing, as if relational queries had been
agreed. An optional key that is not known passes all and has the answers say so, FF01H. A failure is never 0000H.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from pydicom.datadict import keyword_for_tag

from dicomflow.archive.access import Right
from dicomflow.archive.dimse.answering import RowEncoder
from dicomflow.archive.dimse.aside import Aside
from dicomflow.archive.dimse.operation import Call, Operation
from dicomflow.archive.errors import BadQueryError, NotAllowedError
from dicomflow.archive.query import Answers, Question, Value
from dicomflow.dicom.attributes import Level
from dicomflow.dicom.uids import PATIENT_ROOT_FIND
from dicomflow.dimse.events import CommandReceived
from dicomflow.dimse.status import Status
from dicomflow.errors import DicomflowError, PeerError, TransientError

__all__ = ["FindOperation", "begin_find"]

_PENDING: Final = 0xFF00
_PENDING_WITHOUT_KEY: Final = 0xFF01
_CANCELLED: Final = 0xFE00
_UNEXPECTED: Final = 0xC001
_LEVELS: Final = {
    "PATIENT": Level.PATIENT,
    "STUDY": Level.STUDY,
    "SERIES": Level.SERIES,
    "IMAGE": Level.INSTANCE,
    "INSTANCE": Level.INSTANCE,  # as some peers write it
}
_RETRIEVE_AE_TITLE: Final = 0x00080054
_AVAILABILITY: Final = 0x00080056
_LEVEL: Final = 0x00080052
_CHARACTER_SET: Final = 0x00080005
_TIME_ZONE: Final = 0x00080201
_PATIENT_ID: Final = 0x00100020
_ANSWERED: Final = frozenset({_RETRIEVE_AE_TITLE, _LEVEL, _CHARACTER_SET, _TIME_ZONE})
"""What this module answers itself."""
_BATCH_BYTES: Final = 64 << 10
# Bytes of extended negotiation (PS3.4 C.5.1.1): what is agreed by each.
_DATE_AND_TIME, _FUZZY, _EMPTY, _MULTIPLE = 1, 2, 5, 6

_logger = logging.getLogger(__name__)


def begin_find(call: Call) -> Operation:
    """Begin to answer; what is wrong is answered at once."""
    return FindOperation(call)


class FindOperation:
    """One C-FIND. Threads: the association's, and `_aside`, which reads what is answered."""

    look_seconds: Final = 0.0

    def __init__(self, call: Call) -> None:
        self.is_done = False
        self._call = call
        self._is_cancelled = False
        self._aside = Aside()
        self._batches: Iterator[list[tuple[Value, ...]]] = iter(())
        self._batch: list[tuple[Value, ...]] | None = None
        self._encoder: RowEncoder | None = None
        self._pending = b""
        self._aside.start(self._read)

    def go_on(self) -> None:
        """Send the next batch, or the final response."""
        if self._is_cancelled:
            self._finish(_CANCELLED)
            return
        self._attempt(self._send_some)

    def cancel(self) -> None:
        """End at the next turn."""
        self._is_cancelled = True

    def take_response(self, event: CommandReceived) -> None:
        """Pass over: nothing is asked of the requestor."""

    def end(self) -> None:
        """Read no more."""
        self.is_done = True
        self._aside.leave(lambda: None)

    def _read(self) -> None:
        """Read the next batch; None behind the last."""
        if self._encoder is None:
            self._begin()
        self._batch = next(self._batches, None)

    def _begin(self) -> None:
        call = self._call
        call.principal.require(Right.QUERY)
        level = _LEVELS.get(call.identifier.level)
        is_patient_root = call.context.abstract_syntax == PATIENT_ROOT_FIND
        if level is None or (level is Level.PATIENT and not is_patient_root):
            raise BadQueryError(
                "the level is missing" if not call.identifier.level else "the model does not have this level"
            )
        answers = call.archive.query.ask(_question(call, level, is_patient_root=is_patient_root))
        keys = sorted(keyword_for_tag(tag) or f"{tag:08X}" for tag, value in call.identifier.keys.items() if value)
        told = {"level": level.value, "keys": keys, "by": "C-FIND"}
        uid = call.identifier.text(0x0020000D)
        call.archive.audit.record(call.principal, "archive_query", uid if uid and "\\" not in uid else None, told)
        self._batches = answers.batches
        self._encoder = _encoder(call, answers)
        is_known = not answers.unmatched and not answers.unknown - _ANSWERED
        self._pending = call.encoded_response(_PENDING if is_known else _PENDING_WITHOUT_KEY, has_data_set=True)

    def _send_some(self) -> None:
        """Send what one look at the index gives, up to some tens of kilobytes and a batch more."""
        sent = 0
        while sent < _BATCH_BYTES:
            if not self._aside.has_taken(self._read):
                return
            batch = self._batch
            if batch is None:
                self._finish(Status.SUCCESS)
                return
            assert self._encoder is not None
            for row in batch:
                encoded = self._encoder.encode(row)
                self._call.acceptor.send(self._call.context.context_id, self._pending, encoded)
                sent += len(encoded)
            if not batch:
                return  # a long search: look whether it is still wanted

    def _attempt(self, step: Callable[[], None]) -> None:
        """Take a step, and end with its failure: never with success, whatever was sent before."""
        try:
            step()
        except NotAllowedError as error:
            self._finish(Status.NOT_AUTHORIZED, str(error))
        except BadQueryError as error:
            self._finish(Status.DATA_SET_MISMATCH, str(error))
        except TransientError as error:
            _logger.warning("find_failed calling=%s error=%s", self._call.calling_ae_title, error)
            self._finish(Status.OUT_OF_RESOURCES, "the catalog does not answer")
        except PeerError as error:
            self._finish(Status.DATA_SET_MISMATCH, str(error))
        except Exception as error:  # the boundary around one of many operations
            _logger.exception("find_failed calling=%s", self._call.calling_ae_title)
            self._finish(_UNEXPECTED, str(error) if isinstance(error, DicomflowError) else "unexpected")

    def _finish(self, status: int, comment: str = "") -> None:
        self.end()
        self._call.respond(status, comment=comment)


def _question(call: Call, level: Level, *, is_patient_root: bool) -> Question:
    keys = {tag: value for tag, value in call.identifier.keys.items() if tag not in _ANSWERED}
    keys.pop(_AVAILABILITY, None)  # is answered, and asked for by everybody, though it must not be (PS3.4 C.4.1.1.3.2)
    returned = frozenset(call.identifier.keys) | ({_PATIENT_ID} if is_patient_root else set())

    def is_agreed(byte: int) -> bool:
        return call.agreed[byte : byte + 1] == b"\x01"

    return Question(
        level,
        keys,
        returned - {_CHARACTER_SET, _LEVEL},
        is_fuzzy=is_agreed(_FUZZY),
        matches_empty=is_agreed(_EMPTY),
        matches_all_values=is_agreed(_MULTIPLE),
        combines_date_and_time=is_agreed(_DATE_AND_TIME),
    )


def _encoder(call: Call, answers: Answers) -> RowEncoder:
    """Return what encodes the rows, with what is the same for all: the level, and whom to retrieve from."""
    identifier = call.identifier
    constants = {_LEVEL: ("CS", identifier.level), _RETRIEVE_AE_TITLE: ("AE", call.archive.ae_title)}
    if _TIME_ZONE in identifier.keys:
        constants[_TIME_ZONE] = ("SH", identifier.text(_TIME_ZONE))
    syntax = call.context.transfer_syntax
    return RowEncoder(answers.fields, constants, identifier.keys, identifier.character_set, syntax)
