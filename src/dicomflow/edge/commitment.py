"""Storage commitment as SCP: requests are kept in the spool until their report is taken (PS3.4 Annex J).

A request is a small file in `commitments/`, durable before its N-ACTION is answered. What a report says is looked up in
the ledger: success means that the configured level is reached, and nothing more is claimed.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, is_usable
from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.status import Status
from dicomflow.edge.ledger import Ledger, LedgerEntry
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.edge.spool import Spool
from dicomflow.errors import PeerError

__all__ = [
    "MAX_ACTION_BYTES",
    "CommitmentRequest",
    "Commitments",
    "Reference",
    "Report",
    "accept_action",
    "encode_report",
    "make_report",
    "report_command",
]

# A reference takes about 200 bytes: room for 100,000 of them.
MAX_ACTION_BYTES: Final = 20 << 20
_REQUEST_STORAGE_COMMITMENT: Final = 1
ALL_SUCCEEDED: Final = 1
FAILURES_EXIST: Final = 2
_SUFFIX: Final = ".json"
_DUPLICATE_TRANSACTION: Final = 0x0131


@dataclass(frozen=True, slots=True)
class Reference:
    """A referenced SOP instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """One N-ACTION and how far its report is; times are seconds since the epoch."""

    transaction_uid: str
    calling_ae_title: str
    called_ae_title: str
    references: tuple[Reference, ...]
    requested_at: float
    is_duplicate: bool = False
    attempts: int = 0
    next_at: float = 0.0
    undelivered: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says: the instances at the level, and the others with their Failure Reason (PS3.3 C.14.1.1)."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]

    @property
    def event_type_id(self) -> int:
        """1 when all succeeded, 2 when failures exist (PS3.4 J.3.3)."""
        return FAILURES_EXIST if self.failed else ALL_SUCCEEDED


class Commitments:
    """The requests of one spool.

    Any process may add one. Until a request's `next_at` only the worker that added it changes or removes it, from then
    on only the reporter.
    """

    def __init__(self, spool: Spool) -> None:
        self.root = spool.root
        self._spool = spool
        self._folder = spool.root / "commitments"
        self._folder.mkdir(mode=0o750, exist_ok=True)

    def add(self, request: CommitmentRequest) -> bool:
        """Keep a request, and tell whether it is a new one. Durable: on return it is on disk. Raises `OSError`.

        A repeat of an open request is that one, and its report is sent once.
        """
        known = self._read(self._path(request))
        if known is None:
            self._write(request)
            return True
        if set(known.references) != set(request.references):
            # The Transaction UID is in use: the report says so of every item (PS3.3 C.14.1.1, 0131H).
            self._write(replace(request, is_duplicate=True, next_at=0.0))
        return False

    def open_requests(self) -> Iterator[CommitmentRequest]:
        """Yield the requests whose report is not taken yet."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            request = self._read(path)
            if request is not None:
                yield request

    def update(self, request: CommitmentRequest) -> None:
        """Keep what became of an attempt to report."""
        self._write(request)

    def remove(self, request: CommitmentRequest) -> None:
        """Forget a request whose report was taken."""
        self._path(request).unlink(missing_ok=True)

    def _write(self, request: CommitmentRequest) -> None:
        self._spool.write_note(self._path(request), json.dumps(asdict(request)).encode())

    def _path(self, request: CommitmentRequest) -> Path:
        # The UID has passed `is_usable`, so it is digits and dots only.
        kind = ".duplicate" if request.is_duplicate else ""
        return self._folder / f"{request.transaction_uid}{kind}{_SUFFIX}"

    def _read(self, path: Path) -> CommitmentRequest | None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            references = tuple(Reference(**item) for item in document.pop("references"))
            return CommitmentRequest(references=references, **document)
        return None


def accept_action(
    commitments: Commitments,
    command: Command,
    action_information: bytes,
    transfer_syntax_uid: str,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    hold_seconds: float = 0.0,
) -> tuple[Status, CommitmentRequest | None]:
    """Check an N-ACTION, keep its request, and return the status of the response (PS3.4 J.3.2).

    Returns:
        The status; and a new request, of which the reporter keeps its hands off for `hold_seconds`.

    Raises:
        OSError: the request could not be kept.
    """
    if (command.requested_sop_class_uid or b"").rstrip(b"\0 ") != STORAGE_COMMITMENT.encode():
        return Status.NO_SUCH_SOP_CLASS, None
    if (command.requested_sop_instance_uid or b"").rstrip(b"\0 ") != STORAGE_COMMITMENT_INSTANCE.encode():
        return Status.NO_SUCH_SOP_INSTANCE, None
    if command.action_type_id != _REQUEST_STORAGE_COMMITMENT:
        return Status.NO_SUCH_ACTION, None
    try:
        transaction_uid, references = _decode_action(action_information, transfer_syntax_uid)
    except PeerError:
        return Status.INVALID_ARGUMENT_VALUE, None
    now = time.time()
    request = CommitmentRequest(
        transaction_uid,
        calling_ae_title,
        called_ae_title,
        references,
        requested_at=now,
        next_at=now + hold_seconds if hold_seconds else 0.0,
    )
    return Status.SUCCESS, request if commitments.add(request) else None


def make_report(request: CommitmentRequest, ledger: Ledger, settings: CommitmentSettings, now: float) -> Report | None:
    """Return the report when every instance is settled or the time is up; None while some may still reach the level."""
    committed: list[Reference] = []
    failed: list[tuple[Reference, int]] = []
    is_late = now - request.requested_at >= settings.limit_seconds
    for reference in request.references:
        reason = _DUPLICATE_TRANSACTION if request.is_duplicate else _judge(reference, ledger, settings.level)
        if reason is None:
            committed.append(reference)
        elif reason == Status.RESOURCE_LIMITATION and not is_late:
            return None
        elif reason == Status.NO_SUCH_SOP_INSTANCE and now - request.requested_at < settings.settle_seconds:
            # It may have been received a moment ago and not be in the ledger yet.
            return None
        else:
            failed.append((reference, reason))
    return Report(request.transaction_uid, tuple(committed), tuple(failed))


def report_command(report: Report, message_id: int | None = None) -> Command:
    """Return the N-EVENT-REPORT-RQ of a report (PS3.7 10.3.1)."""
    return Command(
        CommandField.N_EVENT_REPORT_RQ,
        message_id=message_id,
        affected_sop_class_uid=STORAGE_COMMITMENT.encode("ascii"),
        affected_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE.encode("ascii"),
        data_set_type=1,
        event_type_id=report.event_type_id,
    )


def encode_report(report: Report, transfer_syntax_uid: str) -> bytes:
    """Encode the Event Information of a report (PS3.4 Table J.3-3)."""
    from pydicom.dataset import Dataset  # noqa: PLC0415  # commitment is rare, and pydicom a large import
    from pydicom.filewriter import write_dataset  # noqa: PLC0415  # as above

    information = Dataset()
    information.TransactionUID = report.transaction_uid
    if report.committed:
        information.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        information.FailedSOPSequence = [_item(reference, reason) for reference, reason in report.failed]
    encoded = _buffer(transfer_syntax_uid)
    write_dataset(encoded, information)
    return bytes(encoded.getvalue())


def _judge(reference: Reference, ledger: Ledger, level: str) -> int | None:
    """Return None for an instance that is at the level, or why it is not (yet)."""
    entries = ledger.find(reference.sop_instance_uid)
    if not entries:
        return int(Status.NO_SUCH_SOP_INSTANCE)
    # Of several contents the last one received is what the sender means.
    entry: LedgerEntry = entries[-1]
    if entry.sop_class_uid != reference.sop_class_uid:
        return int(Status.CLASS_INSTANCE_CONFLICT)
    if entry.problem is not None:
        return int(Status.PROCESSING_FAILURE)
    reached = {"spooled": True, "stored": entry.stored_at is not None, "imported": entry.imported_at is not None}
    return None if reached[level] else int(Status.RESOURCE_LIMITATION)


def _decode_action(encoded: bytes, transfer_syntax_uid: str) -> tuple[str, tuple[Reference, ...]]:
    """Decode Action Information (PS3.4 Table J.3-1); raises `PeerError` for what is missing or illegal."""
    from pydicom.filereader import read_dataset  # noqa: PLC0415  # commitment is rare, and pydicom a large import

    try:
        information = read_dataset(
            BytesIO(encoded), is_implicit_VR=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True
        )
        transaction_uid = str(information.TransactionUID)
        references = tuple(
            Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        )
    except Exception as error:  # pydicom raises whatever a malformed data set leads it into
        raise PeerError(f"action information cannot be read: {type(error).__name__}") from error
    if not references or len(set(references)) != len(references):
        raise PeerError("no references, or one of them twice")
    uids: Sequence[str] = [transaction_uid, *(uid for each in references for uid in asdict(each).values())]
    if not all(map(is_usable, uids)):
        raise PeerError("a UID is missing or illegal")
    return transaction_uid, references


def _item(reference: Reference, reason: int | None = None) -> Any:  # a Dataset, imported where it is needed
    from pydicom.dataset import Dataset  # noqa: PLC0415  # as above

    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _buffer(transfer_syntax_uid: str) -> Any:  # pydicom's own kind of buffer
    from pydicom.filebase import DicomBytesIO  # noqa: PLC0415  # as above

    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    return buffer
