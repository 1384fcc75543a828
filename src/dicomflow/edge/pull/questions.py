"""What is asked of a source: a question as an operator puts it, and its windows of dates and times (PS3.4 C.2.2.2.5).

Windows are halved where a source has a limit of answers: years to days, a day to minutes. A day is one date, so that
its times mean what they say without combined matching. No I/O.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from dicomflow.dicom.uids import is_usable
from dicomflow.dimse.identifier import Tag
from dicomflow.errors import PermanentError

__all__ = ["Question", "Window", "parse_question"]

_DATE: Final = re.compile(r"\d{8}")
_MINUTES: Final = 24 * 60
# Between them open ranges are halved; what lies outside has a window of its own at either end.
_FIRST_DAY: Final = date(1980, 1, 1)
_MOST_CHARACTERS: Final = 64  # of an LO; others are shorter (PS3.5 6.2)
_FORBIDDEN: Final = re.compile(r"[\\*?\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Window:
    """Studies of some days, or of some minutes of one day; an end that is None is open, and without any all are."""

    first: date | None = None
    last: date | None = None
    from_minute: int = 0
    to_minute: int = _MINUTES

    @property
    def is_everything(self) -> bool:
        """Whether studies without a date are in it."""
        return self.first is None and self.last is None

    @property
    def is_of_times(self) -> bool:
        """Whether it is less than a day."""
        return (self.from_minute, self.to_minute) != (0, _MINUTES)

    def keys(self) -> dict[int, bytes]:
        """Return the keys that ask for it."""
        if self.is_everything:
            return {Tag.STUDY_DATE: b"", Tag.STUDY_TIME: b""}
        first, last = (each.strftime("%Y%m%d") if each else "" for each in (self.first, self.last))
        days = first if first == last else f"{first}-{last}"
        times = f"{_clock(self.from_minute)}00-{_clock(self.to_minute - 1)}59.999999" if self.is_of_times else ""
        return {Tag.STUDY_DATE: days.encode("ascii"), Tag.STUDY_TIME: times.encode("ascii")}

    def halves(self, today: date) -> "tuple[Window, Window] | None":
        """Return both halves; None where nothing is left to halve."""
        if self.first is not None and self.first == self.last:
            if self.to_minute - self.from_minute <= 1:
                return None
            middle = (self.from_minute + self.to_minute) // 2
            return replace(self, to_minute=middle), replace(self, from_minute=middle)
        first = self.first or _FIRST_DAY
        last = self.last or max(today + timedelta(days=1), first)
        if self.last is not None and self.last < first:  # before what is halved
            return None
        if first == last:  # and one end is open
            return None
        middle_day = first + (last - first) // 2
        return replace(self, last=middle_day), replace(self, first=middle_day + timedelta(days=1))

    def holds(self, study_date: str, study_time: str) -> bool:
        """Tell whether an answer is of it; one without a date may be, since an unknown value matches (C.2.2.1.2)."""
        if self.is_everything or not _DATE.match(study_date):
            return True
        day = study_date[:8]
        if (self.first and day < self.first.strftime("%Y%m%d")) or (self.last and day > self.last.strftime("%Y%m%d")):
            return False
        clock = study_time.replace(":", "")[:4]
        if not self.is_of_times or len(clock) < 4:
            return True
        return _clock(self.from_minute) <= clock <= _clock(self.to_minute - 1)

    def __str__(self) -> str:
        keys = self.keys()
        days, times = keys[Tag.STUDY_DATE].decode() or "all dates", keys[Tag.STUDY_TIME].decode()
        return f"{days} {times}".strip()


@dataclass(frozen=True, slots=True)
class Question:
    """What an operator asks for: dates and unique keys as PS3.4 has them; nothing asks for everything."""

    study_date: str = ""
    modality: str = ""
    patient_id: str = ""
    accession: str = ""
    priors: int = 0
    uids: tuple[str, ...] = ()
    is_full: bool = False

    def to_json(self) -> str:
        """Encode with stable order: the same question has the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Question":
        """Decode what `to_json` gave."""
        document = json.loads(text)
        return cls(**document | {"uids": tuple(document["uids"])})

    def window(self) -> Window:
        """Return the days that are asked for."""
        if not self.study_date:
            return Window()
        first, dash, last = self.study_date.partition("-")
        return Window(_day(first), _day(last) if dash else _day(first))

    def keys(self) -> dict[int, bytes]:
        """Return its keys but date and modality."""
        keys = {Tag.PATIENT_ID: self.patient_id.encode(), Tag.ACCESSION_NUMBER: self.accession.encode()}
        if not (self.patient_id + self.accession).isascii():
            keys[Tag.SPECIFIC_CHARACTER_SET] = b"ISO_IR 192"
        return keys

    def fits(self, patient_id: str, accession: str) -> bool:
        """Tell whether an answer is to it; a value that it leaves out, or has in an unknown character set, may be."""
        pairs = ((self.patient_id, patient_id), (self.accession, accession))
        return all(
            not asked or not found or not found.isascii() or asked.lower() == found.lower() for asked, found in pairs
        )


def parse_question(
    *,
    study_date: str = "",
    modality: str = "",
    patient_id: str = "",
    accession: str = "",
    priors: int = 0,
    uids: Iterator[str] | None = None,
    is_full: bool = False,
) -> Question:
    """Return a question, checked; raises `PermanentError` with what is wrong, which names no value of a patient's."""
    for name, value in (("modality", modality), ("patient ID", patient_id), ("accession number", accession)):
        if len(value) > _MOST_CHARACTERS or _FORBIDDEN.search(value):
            raise PermanentError(f"the {name} has a wildcard, a backslash, or more than {_MOST_CHARACTERS} characters")
    if priors and not patient_id:
        raise PermanentError("priors are of a patient: name the patient ID too")
    listed = tuple(dict.fromkeys(uids or ()))
    if bad := [uid for uid in listed if not is_usable(uid)]:
        raise PermanentError(f"{len(bad)} lines of the list are no Study Instance UID")
    question = Question(study_date, modality.upper(), patient_id, accession, priors, listed, is_full)
    window = question.window()
    if window.first and window.last and window.first > window.last:
        raise PermanentError(f"the dates {study_date} end before they begin")
    return question


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return datetime.strptime(text if _DATE.fullmatch(text) else "", "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise PermanentError(f"{text!r} is no date: write 20260131, or 20260101-20260131 for some days") from None


def _clock(minute: int) -> str:
    return f"{minute // 60:02}{minute % 60:02}"
