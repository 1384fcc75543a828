"""One study at its source: its series and images by UID, asked level by level (PS3.4 C.4.1.2.1).

What counts are the SOP Instance UIDs. Numbers that a source tells are hints: they show that it does not tell all, and
never that it does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dicomflow.dicom.uids import is_usable
from dicomflow.dimse.identifier import Tag, text_value, uid_value
from dicomflow.dimse.status import describe_status
from dicomflow.errors import TransientError
from dicomflow.network.querying import QueryAssociation, QueryResult

__all__ = ["Answers", "AtSource", "SourceImage", "answered_number", "look_at_study"]

# Fewer answers than these nobody cuts at.
_LEAST_LIMIT: Final = 50
_MOST_DIGITS: Final = 9


@dataclass(slots=True)
class Answers:
    """How many answers a source has given to one question of a job: so many, at least, it never cuts at.

    It is not kept, since a limit may be set later. Threads: any; what is lost in a race costs a question.
    """

    most: int = 0

    def may_be_cut(self, answers: int) -> bool:
        """Tell whether so many may be as many as the source ever gives, since it never gave more."""
        is_suspicious = answers >= max(_LEAST_LIMIT, self.most)
        self.most = max(self.most, answers)
        return is_suspicious


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as its source tells it."""

    uid: str
    series_uid: str
    sop_class_uid: str


@dataclass(slots=True)
class AtSource:
    """What a source says of a study; `is_counted` where it does not tell all images, and `claimed` is what is left.

    `series` are those that it tells, with its number of images, None where it leaves that out.
    """

    images: dict[str, SourceImage] = field(default_factory=dict)
    series: dict[str, int | None] = field(default_factory=dict)
    modalities: set[str] = field(default_factory=set)
    is_counted: bool = False
    unusable: int = 0
    claimed: int | None = None
    reason: str = ""


def look_at_study(association: QueryAssociation, study_uid: str, claimed: int | None, answers: Answers) -> AtSource:
    """Ask for the series of a study, and for the images of each.

    Args:
        association: to the source.
        study_uid: the study.
        claimed: the number of its images as the source told it with the study.
        answers: how many the source gives.

    Raises:
        TransientError: the association broke, or the series could not be asked for.
    """
    found = AtSource(claimed=claimed)
    above = {Tag.STUDY_INSTANCE_UID: study_uid}

    def take_series(answer: Mapping[int, bytes]) -> None:
        if not _is_below(answer, above):
            return
        uid = uid_value(answer, Tag.SERIES_INSTANCE_UID)
        if not is_usable(uid):
            found.unusable += 1
            return
        number = answered_number(answer, Tag.NUMBER_OF_SERIES_RELATED_INSTANCES)
        found.series[uid] = max(filter(None, (number, found.series.get(uid))), default=number)
        found.modalities.add(text_value(answer, Tag.MODALITY))

    keys = {
        Tag.SERIES_INSTANCE_UID: b"",
        Tag.MODALITY: b"",
        Tag.NUMBER_OF_SERIES_RELATED_INSTANCES: b"",
    }
    result = association.find(_at("SERIES", above) | keys, take_series)
    if result.status:
        raise TransientError(f"the source does not tell the series of a study: {_said(result)}")
    if answers.may_be_cut(result.answers):
        _count(found, f"it tells {len(found.series)} series, which may be as many as it ever does")
    if not found.series and claimed != 0:
        _count(found, "it tells no series")
    for series_uid, number in found.series.items():
        _look_at_series(association, found, study_uid, series_uid, number, answers)
    told = sum(each or 0 for each in found.series.values())
    if found.series and None not in found.series.values():
        found.claimed = max(found.claimed or 0, told)
    if found.claimed is not None and len(found.images) < found.claimed:
        _count(found, f"it tells {len(found.images)} images of a study that has {found.claimed}")
    return found


def _look_at_series(
    association: QueryAssociation,
    found: AtSource,
    study_uid: str,
    series_uid: str,
    number: int | None,
    answers: Answers,
) -> None:
    above = {Tag.STUDY_INSTANCE_UID: study_uid, Tag.SERIES_INSTANCE_UID: series_uid}
    before = len(found.images)
    numbers: list[int | None] = []

    def take_image(answer: Mapping[int, bytes]) -> None:
        if not _is_below(answer, above):
            return
        uid = uid_value(answer, Tag.SOP_INSTANCE_UID)
        if not is_usable(uid):
            found.unusable += 1
            return
        found.images.setdefault(uid, SourceImage(uid, series_uid, uid_value(answer, Tag.SOP_CLASS_UID)))
        numbers.append(answered_number(answer, Tag.INSTANCE_NUMBER))

    keys = _at("IMAGE", above) | {Tag.SOP_INSTANCE_UID: b"", Tag.SOP_CLASS_UID: b"", Tag.INSTANCE_NUMBER: b""}
    result = association.find(keys, take_image)
    told, may_be_cut = len(found.images) - before, answers.may_be_cut(result.answers)
    if result.status:
        _count(found, f"it does not tell the images of a series: {_said(result)}")
    elif not told and number != 0:
        _count(found, "it tells no images of a series")
    elif number is not None and told < number:
        _count(found, f"it tells {told} images of a series that has {number}")
    elif number is None and may_be_cut and not _is_all(association, keys, numbers):
        _count(found, f"it tells {told} images of a series, which may be as many as it ever does")


def _is_all(association: QueryAssociation, keys: Mapping[int, bytes], numbers: list[int | None]) -> bool:
    """Tell whether images with numbers on end, each once, are all: none stands before the first or behind the last."""
    known = sorted(each for each in numbers if each is not None)
    if not known or len(known) < len(numbers) or known != list(range(known[0], known[0] + len(known))):
        return False
    others: list[int] = []
    for number in (known[0] - 1, known[-1] + 1):
        asked = dict(keys) | {Tag.INSTANCE_NUMBER: str(number).encode()}
        if association.find(asked, lambda _: others.append(1)).status:
            return False
    return not others


def answered_number(answer: Mapping[int, bytes], tag: int) -> int | None:
    """Return a number of an answer, None where it is left out or is none: unknown is not 0."""
    text = text_value(answer, tag)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _at(level: str, above: Mapping[int, str]) -> dict[int, bytes]:
    return {Tag.QUERY_RETRIEVE_LEVEL: level.encode()} | {tag: uid.encode("ascii") for tag, uid in above.items()}


def _is_below(answer: Mapping[int, bytes], above: Mapping[int, str]) -> bool:
    """Tell whether an answer is of what was asked: some servers ignore keys; those left out are taken for right."""
    return all(uid_value(answer, tag) in {"", uid} for tag, uid in above.items())


def _count(found: AtSource, reason: str) -> None:
    found.is_counted = True
    found.reason = found.reason or reason


def _said(result: QueryResult) -> str:
    """Return a status in words; the peer's own comment may hold anything, so that it is told nowhere."""
    return f"status {describe_status(result.status)}"
