"""Jobs: what was asked of a source, and how far each study of the answer is; one SQLite file in the spool.

A memory that may be lost: a job that is not in it is begun anew, and finds what is here. What is missing of a study is
kept by UID once that is known; of a complete one the counts alone, so that a migration stays small.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from dicomflow.edge.pull.questions import Question
from dicomflow.edge.spool.durable import give_to_owner_of
from dicomflow.errors import PermanentError

__all__ = ["JOBS_FILE", "Job", "JobState", "Jobs", "MissingImage", "Study", "StudyState"]

JOBS_FILE: Final = "pull.db"
_BUSY_SECONDS: Final = 30.0


class JobState(StrEnum):
    """running -> done, or stopped -> running; a running job without a process is interrupted, and taken up again."""

    RUNNING = "running"
    STOPPED = "stopped"
    """Somebody stopped it, and has to ask for it again."""
    DONE = "done"


class StudyState(StrEnum):
    """listed -> fetching -> complete, incomplete, counted or unread; or aside: other, absent."""

    LISTED = "listed"
    FETCHING = "fetching"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    COUNTED = "counted"
    """The source does not tell its images: numbers agree, and no more is known."""
    UNREAD = "unread"
    OTHER = "other"
    """It was answered and is not what was asked for."""
    ABSENT = "absent"
    """It was asked for by its UID, and the source does not know it."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study of a job: counts of images, None while nobody knows; `claimed` is what the source says that it has."""

    uid: str
    study_date: str = ""
    study_time: str = ""
    modalities: str = ""
    claimed: int | None = None
    state: StudyState = StudyState.LISTED
    source: int | None = None
    here: int = 0
    stored: int = 0
    imported: int = 0
    missing: int = 0
    refused: int = 0
    unknown: int = 0
    reason: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image that the source has and that is not here, with what was said of it, if anything was."""

    study_uid: str
    series_uid: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """A question to a source, and what is known of the answer."""

    id: int
    source: str
    question: Question
    state: JobState
    is_dry: bool
    is_nightly: bool
    is_surveyed: bool
    cut: str
    notes: tuple[str, ...]
    created_at: datetime
    ended_at: datetime | None


_STUDY_COLUMNS: Final = tuple(field.name for field in fields(Study))
_NUMBERS: Final = frozenset(
    {"claimed", "source", "here", "stored", "imported", "missing", "refused", "unknown", "tries"}
)
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, question TEXT NOT NULL, state TEXT NOT NULL, is_dry INTEGER NOT NULL,
    is_nightly INTEGER NOT NULL, is_surveyed INTEGER NOT NULL DEFAULT 0, cut TEXT NOT NULL DEFAULT '',
    notes TEXT NOT NULL DEFAULT '[]', created_at TEXT NOT NULL, ended_at TEXT
);
CREATE TABLE IF NOT EXISTS study (
    job_id INTEGER NOT NULL,
    {", ".join(name + (" INTEGER" if name in _NUMBERS else " TEXT") for name in _STUDY_COLUMNS)},
    PRIMARY KEY (job_id, uid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (
    job_id INTEGER NOT NULL, study_uid TEXT NOT NULL, series_uid TEXT NOT NULL, uid TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (job_id, study_uid, uid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source (name TEXT PRIMARY KEY, is_paused INTEGER NOT NULL DEFAULT 0);
"""
_NAMES: Final = ", ".join(_STUDY_COLUMNS)
_MARKS: Final = ", ".join("?" * (len(_STUDY_COLUMNS) + 1))
_OPEN: Final = (StudyState.LISTED, StudyState.FETCHING)


class Jobs:
    """The jobs of one spool. Threads: any; `_lock` guards the connection.

    Raises:
        PermanentError: on creation, when the file is none of this version or cannot be opened.
    """

    def __init__(self, spool: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = spool / JOBS_FILE
        self._clock = clock
        self._lock = threading.Lock()
        try:
            if not self._path.exists():
                self._path.touch(0o640)
                give_to_owner_of(spool, self._path)
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
            self._connection.execute(f"SELECT {_NAMES} FROM study LIMIT 0")  # noqa: S608  # our names
        except (OSError, sqlite3.DatabaseError) as error:
            raise PermanentError(
                f"cannot use {self._path}: {error}; it is only a memory of pulls, and may be moved away"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def begin(self, source: str, question: Question, *, is_dry: bool, is_nightly: bool = False) -> Job:
        """Return the job of a question: the one that was interrupted, or a new one."""
        found = self._rows(
            "SELECT id FROM job WHERE source = ? AND question = ? AND is_dry = 0 AND state != ? ORDER BY id DESC",
            (source, question.to_json(), JobState.DONE),
        )
        if found and not is_dry:
            self.change(found[0][0], JobState.STOPPED, JobState.RUNNING)
            return self.job(found[0][0])
        with self._writing() as connection:
            job_id = connection.execute(
                "INSERT INTO job (source, question, state, is_dry, is_nightly, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                (source, question.to_json(), JobState.RUNNING, is_dry, is_nightly, self._clock().isoformat()),
            ).lastrowid
        assert job_id is not None
        return self.job(job_id)

    def job(self, job_id: int) -> Job:
        """Return a job as it stands."""
        (row,) = self._rows(
            "SELECT id, source, question, state, is_dry, is_nightly, is_surveyed, cut, notes, created_at, ended_at"
            " FROM job WHERE id = ?",
            (job_id,),
        )
        return Job(
            id=row[0],
            source=row[1],
            question=Question.from_json(row[2]),
            state=JobState(row[3]),
            is_dry=bool(row[4]),
            is_nightly=bool(row[5]),
            is_surveyed=bool(row[6]),
            cut=row[7],
            notes=tuple(json.loads(row[8])),
            created_at=datetime.fromisoformat(row[9]),
            ended_at=datetime.fromisoformat(row[10]) if row[10] else None,
        )

    def unfinished(self, source: str, *states: JobState) -> list[Job]:
        """Return the jobs of a source in these states, the oldest first."""
        rows = self._rows("SELECT id, state FROM job WHERE source = ? AND is_dry = 0 ORDER BY id", (source,))
        return [self.job(row[0]) for row in rows if row[1] in states]

    def change(self, job_id: int, before: JobState, after: JobState) -> None:
        """Before -> after; a job in another state stays as it is."""
        with self._writing() as connection:
            connection.execute("UPDATE job SET state = ? WHERE id = ? AND state = ?", (after, job_id, before))

    def last_nightly(self, source: str) -> Job | None:
        """Return the nightly job that was begun last."""
        rows = self._rows("SELECT max(id) FROM job WHERE source = ? AND is_nightly = 1", (source,))
        return self.job(rows[0][0]) if rows[0][0] is not None else None

    def surveyed(self, job_id: int, cut: str, notes: Iterable[str]) -> None:
        """Note that all studies are listed."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE job SET is_surveyed = 1, cut = ?, notes = ? WHERE id = ?", (cut, json.dumps([*notes]), job_id)
            )

    def end(self, job_id: int) -> None:
        """Running -> done; of earlier jobs of the same question nothing is kept."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE job SET state = ?, ended_at = ? WHERE id = ? AND state = ?",
                (JobState.DONE, self._clock().isoformat(), job_id, JobState.RUNNING),
            )
            earlier = (
                "SELECT old.id FROM job old JOIN job new ON new.source = old.source AND new.question = old.question"
                " AND old.is_nightly = new.is_nightly AND old.is_dry = new.is_dry"
                " WHERE new.id = ? AND old.id < new.id"
            )
            for table, column in (("image", "job_id"), ("study", "job_id"), ("job", "id")):
                connection.execute(f"DELETE FROM {table} WHERE {column} IN ({earlier})", (job_id,))  # noqa: S608  # ours

    def list_study(self, job_id: int, study: Study) -> None:
        """Add a study to a job; one that is in it already stays as it is."""
        with self._writing() as connection:
            connection.execute(
                f"INSERT INTO study (job_id, {_NAMES}) VALUES ({_MARKS}) ON CONFLICT DO NOTHING",  # noqa: S608  # ours
                (job_id, *_values(study)),
            )

    def keep_newest(self, job_id: int, count: int) -> None:
        """Leave all but the newest studies of a job out of it."""
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM study WHERE job_id = ? AND uid NOT IN"
                " (SELECT uid FROM study WHERE job_id = ? ORDER BY study_date DESC, study_time DESC, uid LIMIT ?)",
                (job_id, job_id, count),
            )

    def take_down(self, job_id: int, study: Study, missing: Iterable[MissingImage] = ()) -> None:
        """Keep how a study stands, and what is missing of it."""
        with self._writing() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO study (job_id, {_NAMES}) VALUES ({_MARKS})",  # noqa: S608  # our names
                (job_id, *_values(study)),
            )
            connection.execute("DELETE FROM image WHERE job_id = ? AND study_uid = ?", (job_id, study.uid))
            connection.executemany(
                "INSERT OR REPLACE INTO image (job_id, study_uid, series_uid, uid, reason) VALUES (?, ?, ?, ?, ?)",
                ((job_id, each.study_uid, each.series_uid, each.uid, each.reason) for each in missing),
            )

    def open_studies(self, job_id: int) -> list[str]:
        """Return the studies that are not at their end, the newest first: they are asked for most."""
        rows = self._rows(
            "SELECT uid FROM study WHERE job_id = ? AND state IN (?, ?) ORDER BY study_date DESC, uid",
            (job_id, *_OPEN),
        )
        return [row[0] for row in rows]

    def study(self, job_id: int, uid: str) -> Study:
        """Return a study of a job."""
        (row,) = self._rows(f"SELECT {_NAMES} FROM study WHERE job_id = ? AND uid = ?", (job_id, uid))  # noqa: S608
        return _study(row)

    def studies(self, job_id: int) -> Iterator[Study]:
        """Yield the studies of a job that are what was asked for, the newest first."""
        last: tuple[str, str] = ("~", "")
        while True:
            rows = self._rows(
                f"SELECT {_NAMES} FROM study WHERE job_id = ? AND state != ?"  # noqa: S608  # our names
                " AND (study_date < ? OR (study_date = ? AND uid > ?)) ORDER BY study_date DESC, uid LIMIT 1000",
                (job_id, StudyState.OTHER, last[0], *last),
            )
            if not rows:
                return
            found = [_study(row) for row in rows]
            yield from found
            last = (found[-1].study_date, found[-1].uid)

    def missing(self, job_id: int, study_uid: str) -> list[MissingImage]:
        """Return what is missing of a study."""
        rows = self._rows(
            "SELECT study_uid, series_uid, uid, reason FROM image WHERE job_id = ? AND study_uid = ? ORDER BY uid",
            (job_id, study_uid),
        )
        return [MissingImage(*row) for row in rows]

    def is_paused(self, source: str) -> bool:
        """Tell whether nothing is to be fetched of a source."""
        return self._rows("SELECT 1 FROM source WHERE name = ? AND is_paused = 1", (source,)) != []

    def pause(self, source: str, *, is_paused: bool) -> None:
        """Have all that fetches from a source stop at the next image, or go on."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO source (name, is_paused) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET is_paused = ?",
                (source, is_paused, is_paused),
            )

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:
            yield self._connection


def _values(study: Study) -> tuple[Any, ...]:
    return tuple(getattr(study, name) for name in _STUDY_COLUMNS)


def _study(row: tuple[Any, ...]) -> Study:
    values = dict(zip(_STUDY_COLUMNS, row, strict=True))
    return Study(**values | {"state": StudyState(values["state"])})
