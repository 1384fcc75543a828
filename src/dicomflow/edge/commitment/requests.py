"""Storage commitment as SCP: requests are kept in the spool until their report is taken (PS3.4 Annex J).

A request is a small file in `commitments/`, durable before its N-ACTION is answered. What a report says is looked up in
the ledger, and asked of the store that is configured now: success means that the configured level is reached, and
nothing more is claimed.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dicomflow.bucket.feedback import NOT_VISIBLE
from dicomflow.dicom.references import Reference, TooManyReferencesError, encode_references, read_references
from dicomflow.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, is_usable
from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.elsewhere import judge_elsewhere
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.ledger import ELSEWHERE, Ledger, LedgerEntry
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.edge.spool.durable import give_to_owner_of, write_note
from dicomflow.errors import PeerError, TransientError
from dicomflow.regularfiles import free_name, read_regular

__all__ = [
    "MAX_ACTION_BYTES",
    "CommitmentRequest",
    "Commitments",
    "Report",
    "accept_action",
    "count_requests",
    "encode_report",
    "make_report",
    "read_requests",
    "report_command",
]

# A reference takes at most 172 bytes by the standard: room for as many as may be named, and for what devices add.
MAX_ACTION_BYTES: Final = 20 << 20
REQUEST_STORAGE_COMMITMENT: Final = 1
ALL_SUCCEEDED: Final = 1
FAILURES_EXIST: Final = 2
_FOLDER: Final = "commitments"
_SUFFIX: Final = ".json"
_UNDELIVERED: Final = ".undelivered"
_DAMAGED: Final = ".damaged"
_DUPLICATE_TRANSACTION: Final = 0x0131
_FAR_SECONDS: Final = 6e10  # from 1970: more than any clock says, and less than a date can hold

_logger = logging.getLogger(__name__)


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
    """The requests of a spool; `witness` says what the store has, and without one nothing stored is committed.

    Any process may add one. Until a request's `next_at` only the worker that added it changes or removes it, from then
    on only the reporter. A Transaction UID is its requestor's: two AE titles that use the same one have a request each.
    """

    def __init__(self, root: Path, witness: StoreWitness | None = None, *, fsync: bool = True) -> None:
        self.root = root
        self.witness = witness
        self._fsync = fsync
        self._folder = root / _FOLDER

    def add(self, request: CommitmentRequest) -> bool:
        """Keep a request, and tell whether it is a new one. Durable: on return it is on disk. Raises `OSError`.

        A repeat of an open request is that one, and its report is sent once.
        """
        known = _read(self._path(request))
        if known is None:
            self._write(request)
            return True
        if set(known.references) != set(request.references):
            # The Transaction UID is in use: the report says so of every item (PS3.3 C.14.1.1, 0131H).
            self._write(replace(request, is_duplicate=True, next_at=0.0))
        return False

    def open_requests(self, calling_ae_title: str | None = None) -> Iterator[CommitmentRequest]:
        """Yield the requests, of one AE title or of all, whose report is not taken yet, those given up last.

        A file that is none is set aside beside them: who asked has no report, and asks again.
        """
        return read_requests(self.root, calling_ae_title, _set_aside)

    def update(self, request: CommitmentRequest) -> None:
        """Keep what became of an attempt to report."""
        self._write(request)
        if request.undelivered:
            self._path(replace(request, undelivered="")).unlink(missing_ok=True)

    def retry(self, request: CommitmentRequest) -> None:
        """Have a report that was given up sent again."""
        self._write(replace(request, undelivered="", next_at=0.0))
        self._path(request).unlink(missing_ok=True)

    def remove(self, request: CommitmentRequest) -> None:
        """Forget a request whose report was taken."""
        self._path(replace(request, undelivered="")).unlink(missing_ok=True)
        self._path(replace(request, undelivered="taken")).unlink(missing_ok=True)

    def take_over(self) -> None:
        """Give the requests that an earlier version kept, by their Transaction UID alone, the names of this one."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if "_" not in path.name and (request := _read(path)) is not None:
                path.rename(self._path(request))

    def _write(self, request: CommitmentRequest) -> None:
        self._folder.mkdir(mode=0o750, exist_ok=True)
        give_to_owner_of(self.root, self._folder)
        write_note(self._path(request), _encode(request), fsync=self._fsync)
        give_to_owner_of(self.root, self._path(request))

    def _path(self, request: CommitmentRequest) -> Path:
        return self._folder / _name(request)


def read_requests(
    root: Path, calling_ae_title: str | None = None, damaged: Callable[[Path], None] = lambda _: None
) -> Iterator[CommitmentRequest]:
    """Yield the requests that a spool keeps, of one AE title or of all, those given up last; creates nothing.

    `damaged` is told of each file that is none.
    """
    names = f"*_{_short(calling_ae_title)}*{_SUFFIX}" if calling_ae_title is not None else f"*{_SUFFIX}"
    paths = sorted((root / _FOLDER).glob(names), key=lambda path: (_UNDELIVERED in path.name, path.name))
    return filter(None, (_read(path, damaged) for path in paths))


def count_requests(root: Path) -> dict[str, int]:
    """Return how many requests of a spool wait for their report, and of how many the report was given up."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = [name for name in os.listdir(root / _FOLDER) if name.endswith(_SUFFIX)]  # noqa: PTH208  # often asked
    undelivered = sum(_UNDELIVERED in name for name in names)
    return {"open": len(names) - undelivered, "undelivered": undelivered}


def _read(path: Path, damaged: Callable[[Path], None] = lambda _: None) -> CommitmentRequest | None:
    """Return a kept request; None where it cannot be read, and one that never will be is told."""
    try:
        request = _decode(read_regular(path))
        if "_" in path.name and path.name != _name(request):  # else an earlier version's, which is taken over
            raise ValueError("it is another request's")  # noqa: TRY301  # as one that is none
    except OSError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        damaged(path)
        return None
    return request


def _decode(content: bytes) -> CommitmentRequest:
    """Return what `_encode` wrote; raises one of the errors of what it never writes."""
    document: dict[str, Any] = json.loads(content)
    references = tuple(Reference(item["sop_class_uid"], item["sop_instance_uid"]) for item in document["references"])
    known = {name: document[name] for name in CommitmentRequest.__slots__ if name in document}
    request = CommitmentRequest(**(known | {"references": references}))
    uids = (request.transaction_uid, *itertools.chain(*references))
    texts = (request.calling_ae_title, request.called_ae_title, request.undelivered)
    times = (request.requested_at, request.next_at)
    if (
        not references
        or not all(isinstance(each, str) and is_usable(each) for each in uids)
        or not all(isinstance(each, str) for each in texts)
        or not all(type(each) in {int, float} and abs(each) < _FAR_SECONDS for each in times)
        or (type(request.attempts), type(request.is_duplicate)) != (int, bool)
    ):
        raise ValueError("a member is none that was written")
    return request


def _encode(request: CommitmentRequest) -> bytes:
    # One by one: `asdict` would copy each of tens of thousands of references.
    document: dict[str, Any] = {name: getattr(request, name) for name in CommitmentRequest.__slots__}
    document["references"] = [reference._asdict() for reference in request.references]
    return json.dumps(document).encode()


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):  # another thread has done it
        path.rename(free_name(path.with_name(path.name + _DAMAGED)))
        _logger.error("commitment_damaged file=%s", path.name)


def _name(request: CommitmentRequest) -> str:
    # The UID has passed `is_usable`, so it is digits and dots only.
    kind = (".duplicate" if request.is_duplicate else "") + (_UNDELIVERED if request.undelivered else "")
    return f"{request.transaction_uid}_{_short(request.calling_ae_title)}{kind}{_SUFFIX}"


def _short(calling_ae_title: str) -> str:
    """Return what stands for an AE title in a file's name, which may hold less than the title may (PS3.5 6.2)."""
    return hashlib.sha256(calling_ae_title.encode()).hexdigest()[:16]


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
    if command.action_type_id != REQUEST_STORAGE_COMMITMENT:
        return Status.NO_SUCH_ACTION, None
    try:
        transaction_uid, references = read_references(action_information, transfer_syntax_uid)
    except TooManyReferencesError:
        return Status.RESOURCE_LIMITATION, None
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


def make_report(
    request: CommitmentRequest,
    ledger: Ledger,
    settings: CommitmentSettings,
    now: float,
    witness: StoreWitness | None,
    gathered_until: float,
) -> Report | None:
    """Return the report when every instance is settled or the time is up; None while some may still reach the level.

    Args:
        request: what was asked.
        ledger: what is known.
        settings: the level, and how long to wait for it.
        now: seconds since the epoch.
        witness: says what the store has.
        gathered_until: what was acknowledged until then, in seconds since the epoch, is in the ledger.

    Raises:
        TransientError: the store does not answer.
        PermanentError: the ledger cannot be read.
        sqlite3.OperationalError: it is locked.
    """
    is_late = now - request.requested_at >= settings.limit_seconds
    is_settled = now - request.requested_at >= settings.settle_seconds and gathered_until > request.requested_at
    reasons: dict[Reference, int | None] = {}
    kept = _Kept(are_routes_asked=ledger.has_routed())
    for reference in request.references:
        reason = _DUPLICATE_TRANSACTION if request.is_duplicate else _judge(reference, ledger, settings, kept)
        if reason == Status.NO_SUCH_SOP_INSTANCE and not is_settled:
            # It may have been received before the request, or a moment ago, and not be in the ledger yet.
            reason = int(Status.RESOURCE_LIMITATION)
        if reason == Status.RESOURCE_LIMITATION and not is_late:
            return None
        reasons[reference] = reason
    if kept.spooled:
        found = witness.find_spooled(kept.spooled.values()) if witness is not None else set()
        absent = [reference for reference, entry in kept.spooled.items() if entry.object_key not in found]
        if absent and not is_late:
            return None  # it is just being stored, or the deliverer will find what is wrong
        reasons |= dict.fromkeys(absent, int(Status.RESOURCE_LIMITATION))
    if kept.stored:
        reasons |= _confirm(kept.stored, witness, is_late=is_late)
    committed = tuple(reference for reference, reason in reasons.items() if reason is None)
    failed = tuple((reference, reason) for reference, reason in reasons.items() if reason is not None)
    return Report(request.transaction_uid, committed, failed)


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
    return encode_references(report.transaction_uid, report.committed, report.failed, transfer_syntax_uid)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is at the level by the ledger: the store is to confirm what is `stored`, the spool what is `spooled`."""

    are_routes_asked: bool
    stored: dict[Reference, list[LedgerEntry]] = field(default_factory=dict)
    spooled: dict[Reference, LedgerEntry] = field(default_factory=dict)


def _judge(reference: Reference, ledger: Ledger, settings: CommitmentSettings, kept: _Kept) -> int | None:
    """Put an instance that is at the level by the ledger into `kept` and return None, or return why it is not (yet)."""
    entries = ledger.find(reference.sop_instance_uid)
    if not entries:
        return int(Status.NO_SUCH_SOP_INSTANCE)
    # Of several contents the last one gathered is what the sender means.
    entry: LedgerEntry = entries[-1]
    if entry.sop_class_uid != reference.sop_class_uid:
        return int(Status.CLASS_INSTANCE_CONFLICT)
    if entry.problem is not None:
        return int(Status.PROCESSING_FAILURE)
    elsewhere = judge_elsewhere(entry, ledger, settings) if kept.are_routes_asked else None
    if elsewhere is not None:
        return elsewhere
    is_hidden = entry.imported_at is None and (entry.import_problem or "").startswith(NOT_VISIBLE)
    if settings.level == "imported" and is_hidden and not settings.accept_hidden:
        return int(Status.PROCESSING_FAILURE)  # somebody has to decide: waiting does not help
    same = [each for each in entries if each.sha256 == entry.sha256]
    is_stored = entry.stored_at is not None
    is_imported = is_hidden or (is_stored and any(each.imported_at is not None for each in same))
    if not {"spooled": True, "stored": is_stored, "imported": is_imported}[settings.level]:
        return int(Status.RESOURCE_LIMITATION)
    if is_stored and entry.store == ELSEWHERE:
        return None  # each destination that is required has said so
    if is_stored:
        # The same bytes may be in several objects, the last one noted in another store: any that is there will do.
        kept.stored[reference] = [each for each in same if each.stored_at is not None]
    else:
        kept.spooled[reference] = entry
    return None


def _confirm(
    stored: dict[Reference, list[LedgerEntry]], witness: StoreWitness | None, *, is_late: bool
) -> dict[Reference, int | None]:
    """Return None for each instance that the store has, and 0112H for one that it has not."""
    try:
        found = witness.ask(itertools.chain(*stored.values())) if witness is not None else {}
    except TransientError:
        if not is_late:
            raise
        return dict.fromkeys(stored, int(Status.RESOURCE_LIMITATION))
    missing = int(Status.NO_SUCH_SOP_INSTANCE)
    return {
        reference: None if any(found.get(each.object_key) for each in entries) else missing
        for reference, entries in stored.items()
    }
