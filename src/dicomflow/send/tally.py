"""What became of the files of a send: counted, listed as far as a screen needs it, and written to a report as it goes.

Memory is bounded whatever the number of files. Knows no terminal.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from dicomflow.send.association import Outcome
from dicomflow.send.files import Candidate, Skipped

__all__ = ["Listed", "Report", "Tally"]

_MOST_LISTED: Final = 10_000


@dataclass(slots=True)
class Listed:
    """Files with a reason each: all are counted, and the first ten thousand kept."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        """Take another."""
        self.count += 1
        if len(self.first) < _MOST_LISTED:
            self.first.append((name, reason))


@dataclass(slots=True)
class Tally:
    """What became of all files so far."""

    stored: int = 0
    already: int = 0
    skipped: int = 0
    bytes: int = 0
    failures: Listed = field(default_factory=Listed)
    passed_over: Listed = field(default_factory=Listed)

    @property
    def asked(self) -> int:
        """How many instances there were to send."""
        return self.stored + self.already + self.failures.count

    @property
    def seen(self) -> int:
        """How many files were looked at."""
        return self.asked + self.skipped

    def take(self, candidate: Candidate, became: Outcome | Skipped) -> str:
        """Count what became of a file, and return it as a word."""
        if isinstance(became, Skipped):
            if became.is_failure:
                self.failures.add(candidate.name, became.reason)
                return "failed"
            self.skipped += 1
            if candidate.skipped is not None:
                self.passed_over.add(candidate.name, became.reason)
                return "passed over"
            return "no instance"
        if became.is_stored:
            self.stored += 1
            self.bytes += candidate.bytes
            return "stored"
        self.failures.add(candidate.name, became.reason)
        return "failed"


class Report:
    """A line of CSV for each file, on disk as it is known. Thread: one owner at a time. Raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")
        self._writer: Any = csv.writer(self._file)
        self._writer.writerow(("file", "sop_instance_uid", "result", "reason"))

    def add(self, candidate: Candidate, uid: str, result: str, reason: str) -> None:
        """Write a line."""
        self._writer.writerow((candidate.name, uid, result, reason))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
