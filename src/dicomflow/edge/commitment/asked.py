"""Storage commitment as SCU: what was asked of others, and what they report of it, both on disk (PS3.4 J.3).

```
asked/{transaction}.json    what is asked of whom, durable before its N-ACTION goes out
asked/{transaction}.report  the report, durable before its N-EVENT-REPORT is answered
```

A report may come on the association of its request or on one of the peer's own, which another process serves; so it is
matched by its Transaction UID, which nobody can guess, and taken from the AE title that was asked alone. What is over
is kept for some days, so that a report which comes again, since its answer was lost, is answered as the first was.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from dicomflow.dicom.references import Reference, encode_references, read_report
from dicomflow.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.requests import (
    ALL_SUCCEEDED,
    FAILURES_EXIST,
    REQUEST_STORAGE_COMMITMENT,
    Report,
)
from dicomflow.edge.spool.durable import write_note
from dicomflow.errors import PeerError
from dicomflow.regularfiles import read_regular

__all__ = ["Question", "Questions", "action_command", "decode_report", "encode_action"]

_FOLDER: Final = "asked"
_QUESTION: Final = ".json"
_REPORT: Final = ".report"
_MODE: Final = 0o750


@dataclass(frozen=True, slots=True)
class Question:
    """One request for commitment: of which transfer's round, to which destination; times are seconds since the epoch.

    `is_taken` tells that the peer has taken the request, `is_over` that nothing more is wanted of it.
    """

    transaction_uid: str
    ae_title: str
    destination: str
    transfer: str
    round: int
    references: tuple[Reference, ...]
    asked_at: float
    is_taken: bool = False
    is_over: bool = False


class Questions:
    """The requests that a spool keeps. Processes and threads: any; who asked changes them, who listens adds reports."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self._fsync = fsync
        self._folder = root / _FOLDER

    def keep(self, question: Question) -> None:
        """Durable: keep a question, or what became of it. Raises `OSError`."""
        self._folder.mkdir(mode=_MODE, exist_ok=True)
        write_note(self._path(question.transaction_uid, _QUESTION), _encode(question), fsync=self._fsync)

    def open_ones(self, destination: str) -> list[Question]:
        """Return what was asked of a destination and is not over."""
        names = self._names(_QUESTION)
        found = (self._read(name.removesuffix(_QUESTION)) for name in names)
        return [each for each in found if each is not None and each.destination == destination and not each.is_over]

    def reported(self) -> set[str]:
        """Return the Transaction UIDs of which a report waits."""
        return {name.removesuffix(_REPORT) for name in self._names(_REPORT)}

    def take_report(self, command: Command, event_information: bytes, transfer_syntax: str, ae_title: str) -> Status:
        """Keep a report, and return the status of its answer (PS3.4 J.3.3). Durable. Raises `OSError`."""
        if command.event_type_id not in {ALL_SUCCEEDED, FAILURES_EXIST}:
            return Status.NO_SUCH_EVENT_TYPE
        try:
            report = decode_report(event_information, transfer_syntax)
        except PeerError:
            return Status.INVALID_ARGUMENT_VALUE
        question = self._read(report.transaction_uid)
        if question is None or question.ae_title != ae_title:
            return Status.INVALID_ARGUMENT_VALUE  # nothing of the kind was asked, at least not of this peer
        if not question.is_over:
            write_note(self._path(report.transaction_uid, _REPORT), _encode(report), fsync=self._fsync)
        return Status.SUCCESS

    def report_of(self, question: Question) -> Report | None:
        """Return the report that waits for a question; None when there is none. Raises `OSError`."""
        try:
            document: dict[str, Any] = json.loads(read_regular(self._path(question.transaction_uid, _REPORT)))
            failed = tuple((Reference(*each), int(reason)) for each, reason in document["failed"])
            return Report(document["transaction_uid"], _references(document["committed"]), failed)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def finish(self, question: Question) -> None:
        """Want nothing more of a question. Raises `OSError`."""
        self.keep(replace(question, is_over=True))
        self._path(question.transaction_uid, _REPORT).unlink(missing_ok=True)

    def forget_before(self, moment: float) -> None:
        """Remove what is over and was written before a time, in seconds since the epoch."""
        for name in self._names(_QUESTION):
            uid = name.removesuffix(_QUESTION)
            with contextlib.suppress(OSError):
                if self._path(uid, _QUESTION).stat().st_mtime < moment:
                    question = self._read(uid)
                    if question is None or question.is_over:
                        self._path(uid, _REPORT).unlink(missing_ok=True)
                        self._path(uid, _QUESTION).unlink()

    def _names(self, suffix: str) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            yield from (name for name in os.listdir(self._folder) if name.endswith(suffix))  # noqa: PTH208  # often asked

    def _read(self, transaction_uid: str) -> Question | None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            document: dict[str, Any] = json.loads(read_regular(self._path(transaction_uid, _QUESTION)))
            return Question(**document | {"references": _references(document["references"])})
        return None

    def _path(self, transaction_uid: str, suffix: str) -> Path:
        return self._folder / f"{transaction_uid}{suffix}"  # has passed `is_usable`, so it is digits and dots only


def action_command() -> Command:
    """Return the N-ACTION-RQ that asks for commitment; its message ID is the association's to give (PS3.4 J.3.2)."""
    return Command(
        CommandField.N_ACTION_RQ,
        requested_sop_class_uid=STORAGE_COMMITMENT.encode("ascii"),
        requested_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE.encode("ascii"),
        action_type_id=REQUEST_STORAGE_COMMITMENT,
        data_set_type=1,
    )


def encode_action(question: Question, transfer_syntax_uid: str) -> bytes:
    """Encode the Action Information of a request (PS3.4 Table J.3-1)."""
    return encode_references(question.transaction_uid, question.references, (), transfer_syntax_uid)


def decode_report(encoded: bytes, transfer_syntax_uid: str) -> Report:
    """Decode the Event Information of a report (PS3.4 Table J.3-3).

    A failure without a reason is a processing failure (0110).

    Raises:
        PeerError: it cannot be read, or a UID is missing or illegal.
    """
    transaction_uid, committed, failed = read_report(encoded, transfer_syntax_uid)
    reasons = tuple((each, int(Status.PROCESSING_FAILURE) if reason is None else reason) for each, reason in failed)
    return Report(transaction_uid, committed, reasons)


def _references(items: Sequence[Sequence[str]]) -> tuple[Reference, ...]:
    return tuple(Reference(*each) for each in items)


def _encode(document: Question | Report) -> bytes:
    return json.dumps(asdict(document)).encode()
