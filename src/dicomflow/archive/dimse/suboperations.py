"""What C-MOVE and C-GET have in common: which instances, what became of each, and what is told of that (PS3.4 C.4.2.1).

One object that cannot be sent is a failed sub-operation, and ends nothing. Pending responses are paced: at the first
object, then every second, and before the end.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dicomflow.archive.access import Right
from dicomflow.archive.dimse.identifier import Identifier
from dicomflow.archive.dimse.operation import Call, Counts
from dicomflow.archive.errors import BadQueryError, NotAllowedError
from dicomflow.archive.retrieval import Selection, StoredInstance
from dicomflow.dicom.uids import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, is_usable
from dicomflow.dimse.identifier import MAX_VALUE_BYTES, Tag, encode_identifier, uid_list
from dicomflow.dimse.status import Status, is_warning
from dicomflow.errors import DicomflowError, PeerError, TransientError

__all__ = ["CANCELLED", "PENDING", "SubOperations", "attempt", "finish", "select"]

PENDING: Final = 0xFF00
CANCELLED: Final = 0xFE00
_NOT_COUNTED: Final = 0xA701
_ALL_FAILED: Final = 0xA702
_SOME_FAILED: Final = 0xB000
_UNEXPECTED: Final = 0xC001
_PENDING_SECONDS: Final = 1.0
_MAX_COUNT: Final = 0xFFFF  # of a US
# The unique keys of each level, with those above it (PS3.4 C.6).
_KEYS: Final = {
    "PATIENT": (Tag.PATIENT_ID,),
    "STUDY": (Tag.STUDY_INSTANCE_UID,),
    "SERIES": (Tag.SERIES_INSTANCE_UID, Tag.STUDY_INSTANCE_UID),
    "IMAGE": (Tag.SOP_INSTANCE_UID, Tag.SERIES_INSTANCE_UID, Tag.STUDY_INSTANCE_UID),
}
_PATIENT_ROOT: Final = frozenset({PATIENT_ROOT_MOVE, PATIENT_ROOT_GET})

_logger = logging.getLogger(__name__)


def select(identifier: Identifier, *, is_patient_root: bool) -> Selection:
    """Return what an identifier means; unique keys of the levels above may be missing, other keys are passed over.

    Raises:
        BadQueryError: the level or its unique key is missing, or a UID is none.
    """
    level = "IMAGE" if identifier.level == "INSTANCE" else identifier.level
    if level not in _KEYS or (level == "PATIENT" and not is_patient_root):
        raise BadQueryError("the level is missing" if not level else "the model does not have this level")
    lists = {tag: _uids(identifier.text(tag)) for tag in _KEYS[level] if tag != Tag.PATIENT_ID}
    patient_id = identifier.text(Tag.PATIENT_ID).strip(" \0") or None if is_patient_root else None
    if patient_id is not None and "\0" in patient_id:
        raise BadQueryError("the Patient ID holds a NUL, which no database takes")
    if not (patient_id if level == "PATIENT" else lists[_KEYS[level][0]]):
        raise BadQueryError(f"the unique key of level {level} is missing")
    return Selection(
        patient_id,
        lists.get(Tag.STUDY_INSTANCE_UID, ()),
        lists.get(Tag.SERIES_INSTANCE_UID, ()),
        lists.get(Tag.SOP_INSTANCE_UID, ()),
    )


def _uids(text: str) -> tuple[str, ...]:
    uids = tuple(dict.fromkeys(each.strip(" \0") for each in text.split("\\") if each.strip(" \0")))
    if not all(map(is_usable, uids)):
        raise BadQueryError("a UID of the identifier is none")
    return uids


def attempt(call: Call, step: Callable[[], None], finish: Callable[[int, str], None]) -> None:
    """Take a step, and end with its failure: never with success, whatever was sent before."""
    try:
        step()
    except NotAllowedError as error:
        finish(Status.NOT_AUTHORIZED, str(error))
    except PeerError as error:  # a bad question is one
        finish(Status.DATA_SET_MISMATCH, str(error))
    except TransientError as error:
        _logger.warning("retrieve_failed calling=%s error=%s", call.calling_ae_title, error)
        finish(_NOT_COUNTED, "the catalog or the store does not answer")
    except Exception as error:  # the boundary around one of many operations
        _logger.exception("retrieve_failed calling=%s", call.calling_ae_title)
        finish(_UNEXPECTED, str(error) if isinstance(error, DicomflowError) else "unexpected")


def finish(call: Call, objects: "SubOperations | None", *, is_cut: bool) -> None:
    """Send the final response of a retrieval; without `objects` it was cancelled before they were found."""
    if objects is None:
        call.respond(CANCELLED)
    else:
        objects.finish(is_cancelled=is_cut)


class SubOperations:
    """The instances of one retrieval, and what became of each. Threads: the association's, and the one beside it.

    `_lock` guards what was counted; behind the final response nothing is.

    Args:
        call: the retrieval.
        details: what the audit trail is told beside.
        clock: paces the pending responses, in seconds.

    Raises:
        as `select` and `Retrieval.find`; NotAllowedError: who asks may not retrieve.
    """

    def __init__(self, call: Call, details: dict[str, object], clock: Callable[[], float] = time.monotonic) -> None:
        call.principal.require(Right.RETRIEVE)
        selection = select(call.identifier, is_patient_root=call.context.abstract_syntax in _PATIENT_ROOT)
        self.waiting: deque[StoredInstance] = deque(call.archive.retrieval.find(selection))
        told = {"what": "objects", "level": call.identifier.level, "instances": len(self.waiting), **details}
        uids = selection.instances or selection.series or selection.studies
        call.archive.audit.record(call.principal, "archive_retrieve", uids[0] if len(uids) == 1 else None, told)
        self.total = len(self.waiting)
        self.reading = call.archive.retrieval.reading(self.waiting)
        self._call = call
        self._clock = clock
        self._completed = self._warning = 0
        self._failed: list[str] = []
        self._lock = threading.Lock()
        self._is_over = False
        self._told_at: float | None = None
        self._is_told = True

    def ended(self, instance: StoredInstance, status: int | None, reason: str = "") -> None:
        """Count a sub-operation by the status of its response; None where there was none, with the reason."""
        with self._lock:
            if self._is_over:
                return
            self._is_told = False
            if status == Status.SUCCESS:
                self._completed += 1
                return
            if status is not None and is_warning(status):
                self._warning += 1
                return
            self._failed.append(instance.sop_instance_uid)
        why = reason or f"status {status or 0:04X}H"
        _logger.info("suboperation_failed instance=%s reason=%s", instance.sop_instance_uid, why)

    def fail_rest(self, reason: str) -> None:
        """Fail all that wait."""
        while self.waiting:
            self.ended(self.waiting.popleft(), None, reason)

    def tell(self) -> None:
        """Send a pending response, where it is time for one."""
        now = self._clock()
        if self._told_at is None or now - self._told_at >= _PENDING_SECONDS:
            self._told_at = now
            self._call.respond(PENDING, counts=self._counts(remaining=True))
            self._is_told = True

    def close(self) -> None:
        """Read no more."""
        self.reading.close()

    def finish(self, *, is_cancelled: bool = False) -> None:
        """Send the final response (PS3.4 C.4.2.3.1), before it the last pending one."""
        with self._lock:
            self._is_over = True
        if self.total and not self._is_told and not is_cancelled:
            self._call.respond(PENDING, counts=self._counts(remaining=True))
        status = CANCELLED if is_cancelled else self._status()
        data_set = self._list_of_failed() if self._failed else None
        self._call.respond(status, data_set=data_set, counts=self._counts(remaining=is_cancelled))

    def outcome(self) -> str:
        """Return the counts for the log."""
        return f"completed={self._completed} failed={len(self._failed)} warning={self._warning} of={self.total}"

    def _status(self) -> int:
        if not self._failed and not self._warning:
            return Status.SUCCESS
        return _ALL_FAILED if len(self._failed) == self.total else _SOME_FAILED

    def _counts(self, *, remaining: bool) -> Counts:
        with self._lock:
            told = self._completed, len(self._failed), self._warning
        counts = (self.total - sum(told) if remaining else None, *told)
        return Counts(*(None if each is None else min(each, _MAX_COUNT) for each in counts))

    def _list_of_failed(self) -> bytes:
        """Return the identifier of the final response; in Explicit VR as many UIDs as a length of two bytes takes."""
        syntax = self._call.context.transfer_syntax
        try:
            return encode_identifier({Tag.FAILED_SOP_INSTANCE_UID_LIST: uid_list(self._failed)}, syntax)
        except ValueError:
            most = MAX_VALUE_BYTES // (max(map(len, self._failed)) + 1)
            return encode_identifier({Tag.FAILED_SOP_INSTANCE_UID_LIST: uid_list(self._failed[:most])}, syntax)
