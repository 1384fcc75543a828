"""Which studies a source has: asked in windows that are halved until no answer can have been cut unseen.

Each answer is judged again here, since servers ignore keys. What could not be asked, or may have been cut, is told: it
never looks like an empty archive.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Final

from dicomflow.dicom.uids import is_usable
from dicomflow.dimse.identifier import Tag, text_value, uid_value
from dicomflow.dimse.status import describe_status
from dicomflow.edge.pull.jobs import Study, StudyState
from dicomflow.edge.pull.look import Answers, answered_number
from dicomflow.edge.pull.questions import Question, Window
from dicomflow.errors import TransientError
from dicomflow.network.querying import QueryAssociation

__all__ = ["Survey"]

_USUAL_LIMITS: Final = frozenset({100, 200, 250, 300, 400, 500, 1000, 2000, 2500, 5000, 10_000, 20_000, 50_000})
_MOST_FAILURES: Final = 6
_MOST_REFUSED_RANGES: Final = 24
_PREFIXES: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_PREFIX: Final = 6
_MODALITY: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
_DATE: Final = re.compile(r"[0-9]{8}")
_TIME: Final = re.compile(r"[0-9:]{2,8}(\.[0-9]{1,6})?")

_logger = logging.getLogger(__name__)


class Survey:
    """One survey of one source, over one association. Thread: one owner.

    `cut` says why studies may be unseen, empty if none can be; `notes` what else an operator should know.

    Args:
        association: to the source.
        question: what is asked for.
        take: is given each study, some more than once.
        answers: how many the source gives.
        today: the date; what is later is one window.
    """

    def __init__(
        self,
        association: QueryAssociation,
        question: Question,
        take: Callable[[Study], None],
        *,
        answers: Answers,
        today: date,
    ) -> None:
        self.cut = ""
        self.notes: list[str] = []
        self._association = association
        self._question = question
        self._take = take
        self._answers = answers
        self._today = today
        self._failures = self._refused_ranges = 0
        self._has_range = False  # whether any range was answered
        self._has_answered = False
        self._outside = self._unusable = 0
        self._modality = question.modality

    def run(self) -> None:
        """Ask until everything is known that the source tells.

        Raises:
            TransientError: the association broke, or the source fails whatever is asked.
        """
        question = self._question
        if question.uids:
            for uid in question.uids:
                self._ask_by_uid(uid)
        else:
            self._ask(question.window())
            if self._modality and not self._has_answered:
                # Some servers know Modalities in Study by no study, and say so by an empty answer.
                self._modality = ""
                self._ask(question.window())
        if question.study_date:
            self.notes.append("studies without a Study Date are found by no date, and are not looked at")
        elif self.cut and question.is_full and not question.patient_id:
            self._ask_by_patient()
        if self._outside:
            self.notes.append(f"{self._outside} answers were not of what was asked: the source ignores some keys")
        if self._unusable:
            self._note_cut(f"{self._unusable} answers had no usable Study Instance UID")

    def _ask_by_uid(self, uid: str) -> None:
        """Ask for one study by its UID alone: dates differ between systems."""
        found: set[str] = set()
        keys = _STUDY_KEYS | {Tag.STUDY_INSTANCE_UID: uid.encode("ascii")}
        status, _ = self._find(keys, Window(), found)
        if status:
            raise TransientError(f"the source does not answer for a study: status {describe_status(status)}")
        if uid not in found:
            self._take(Study(uid, state=StudyState.ABSENT, reason="the source does not know it"))

    def _ask(self, window: Window) -> set[str]:
        """Ask for a window, in halves where it may be cut; return the studies that were found."""
        found: set[str] = set()
        outside = self._outside
        is_range = any(b"-" in value for value in window.keys().values())
        if is_range and self._refuses_ranges:
            return found  # it has said so of each before
        status, answers = self._find(self._keys(window), window, found)
        self._has_range |= is_range and not status
        if not self._is_suspicious(status, answers):
            return found
        if status:
            self._refused_ranges += is_range and not answers
            if is_range and self._refuses_ranges:
                self.cut = ""  # this tells more than what was noted of one range
                reason = f"the source answers no range of dates: status {describe_status(status)}"
                self._note_cut(f"{reason}; ask for one day at a time")
            self._failures += 1
            if self._failures >= _MOST_FAILURES and not self._has_answered:
                raise TransientError(f"the source fails whatever is asked: status {describe_status(status)}")
        # One that ignores the window would answer the same to each half.
        halves = window.halves(self._today) if self._outside == outside else None
        if halves is None:
            self._note_cut(_cut_text(window, status, answers))
            return found
        parts = self._ask(halves[0]) | self._ask(halves[1])
        self._judge_halves(window, found, parts, status)
        return found | parts

    @property
    def _refuses_ranges(self) -> bool:
        """Whether all ranges failed, more of them than halves lead down to a day: the others will, too."""
        return not self._has_range and self._refused_ranges >= _MOST_REFUSED_RANGES

    def _judge_halves(self, window: Window, found: set[str], parts: set[str], status: int) -> None:
        """Tell what may be unseen all the same: what is in no half, since it has no date, or no time."""
        is_cut = bool(status) or bool(parts - found) or len(found) in _USUAL_LIMITS
        left = len(found - parts)
        if is_cut and left:
            what = "without a Study Date" if window.is_everything else "without a Study Time"
            self._note_cut(f"the source cuts its answers, and {left} or more studies are {what}; --full asks on")
        elif window.is_everything and (status or parts - found):
            self._note_cut("the source cuts its answers, so that studies without a Study Date may be unseen")

    def _ask_by_patient(self) -> None:
        """Ask by the beginnings of Patient IDs, for studies without a date; those without either stay unseen."""
        self.cut = ""
        waiting = list(_PREFIXES)
        while waiting:
            prefix = waiting.pop()
            found: set[str] = set()
            keys = self._keys(Window()) | {Tag.PATIENT_ID: f"{prefix}*".encode()}
            status, answers = self._find(keys, Window(), found)
            if not self._is_suspicious(status, answers):
                continue
            if len(prefix) >= _MOST_PREFIX:
                self._note_cut(f"for Patient IDs with {len(prefix)} equal characters the source may have cut")
            else:
                waiting += [prefix + each for each in _PREFIXES]
        self.notes.append("studies with neither a Study Date nor a Patient ID of letters and digits may be unseen")

    def _find(self, keys: Mapping[int, bytes], window: Window, found: set[str]) -> tuple[int, int]:
        """Ask once; return the final status and the number of answers."""
        asked_prefix = keys.get(Tag.PATIENT_ID, b"").endswith(b"*")

        def take(answer: dict[int, bytes]) -> None:
            study = _study_of(answer)
            if study is None:
                self._unusable += 1
                return
            patient_id, accession = text_value(answer, Tag.PATIENT_ID), text_value(answer, Tag.ACCESSION_NUMBER)
            is_asked = self._question.fits("" if asked_prefix else patient_id, accession)
            if self._question.uids:
                is_asked = study.uid in self._question.uids
            if not is_asked or not window.holds(study.study_date, study.study_time) or not self._may_have(study):
                self._outside += 1
                return
            found.add(study.uid)
            self._take(study)

        result = self._association.find(keys, take)
        self._has_answered |= bool(found)
        return result.status, result.answers

    def _may_have(self, study: Study) -> bool:
        modality = self._question.modality
        return not modality or not study.modalities or modality in study.modalities.split("\\")

    def _is_suspicious(self, status: int, answers: int) -> bool:
        return self._answers.may_be_cut(answers) or bool(status)

    def _keys(self, window: Window) -> dict[int, bytes]:
        return _STUDY_KEYS | self._question.keys() | window.keys() | {Tag.MODALITIES_IN_STUDY: self._modality.encode()}

    def _note_cut(self, reason: str) -> None:
        _logger.warning("survey_cut reason=%s", reason)
        self.cut = self.cut or reason


_STUDY_KEYS: Final[dict[int, bytes]] = {
    Tag.QUERY_RETRIEVE_LEVEL: b"STUDY",
    Tag.STUDY_INSTANCE_UID: b"",
    Tag.STUDY_DATE: b"",
    Tag.STUDY_TIME: b"",
    Tag.ACCESSION_NUMBER: b"",
    Tag.PATIENT_ID: b"",
    Tag.MODALITIES_IN_STUDY: b"",
    Tag.NUMBER_OF_STUDY_RELATED_SERIES: b"",
    Tag.NUMBER_OF_STUDY_RELATED_INSTANCES: b"",
}


def _study_of(answer: Mapping[int, bytes]) -> Study | None:
    uid = uid_value(answer, Tag.STUDY_INSTANCE_UID)
    if not is_usable(uid):
        return None
    # What goes on to terminals and tables holds nothing but what the VRs allow (PS3.5 6.2).
    modalities = "\\".join(sorted({each.strip() for each in _texts(answer) if _MODALITY.fullmatch(each.strip())}))
    study_date, study_time = text_value(answer, Tag.STUDY_DATE).replace(".", ""), text_value(answer, Tag.STUDY_TIME)
    return Study(
        uid,
        study_date=study_date if _DATE.fullmatch(study_date) else "",
        study_time=study_time if _TIME.fullmatch(study_time) else "",
        modalities=modalities,
        claimed=answered_number(answer, Tag.NUMBER_OF_STUDY_RELATED_INSTANCES),
    )


def _texts(answer: Mapping[int, bytes]) -> Iterator[str]:
    yield from text_value(answer, Tag.MODALITIES_IN_STUDY).split("\\")


def _cut_text(window: Window, status: int, answers: int) -> str:
    if status:
        return f"for {window} the source answered with status {describe_status(status)} after {answers} studies"
    return f"for {window} the source gave {answers} answers, which may be as many as it ever gives"
