"""A question as an origin is asked it: which searches, by which parameters, and what is compared again here.

An origin may match less than it is asked for, or otherwise; so every key that is known is compared again with what its
rows say. A key that it does not match at all is told of as unmatched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, TypeAlias

from pydicom.datadict import dictionary_VR, keyword_for_tag

from dicomflow.archive.errors import BadQueryError
from dicomflow.archive.items import ItemMatch
from dicomflow.archive.query import COMPARED, COUNTED, Field, Keys, Question
from dicomflow.archive.remote.origin import Kind, Origin
from dicomflow.dicom.attributes import BY_TAG, Level
from dicomflow.dicom.matching import Match, MatchError, match_of, same_moment
from dicomflow.dicom.names import fold_words
from dicomflow.dicom.uids import is_usable

__all__ = ["UNIQUE", "Plan", "Search", "plan_of"]

UNIQUE: Final[Mapping[Level, int]] = {
    Level.PATIENT: 0x00100020,
    Level.STUDY: 0x0020000D,
    Level.SERIES: 0x0020000E,
    Level.INSTANCE: 0x00080018,
}
_LEVELS: Final = tuple(UNIQUE)
_ISSUER: Final = 0x00100021
_MODALITY, _MODALITIES_IN_STUDY = 0x00080060, 0x00080061
# They tell of the identifier itself, and are matched nowhere (PS3.4 C.2.2.2).
_OF_THE_IDENTIFIER: Final = frozenset({0x00080005, 0x00080052, 0x00080201, 0x00020010})
_TIMES: Final = {0x00080020: 0x00080030, 0x00080021: 0x00080031, 0x00080022: 0x00080032, 0x00080012: 0x00080013}
_NAMED: Final = frozenset({0x00100010, 0x00080090})  # what HealthImaging's fuzzy matching is for
_MOST_UIDS: Final = 50
"""Of one request: a UID has up to 64 characters, and an address some thousand."""


Moment: TypeAlias = tuple[int, int, Match]
"""A date and a time that are one range, and what that accepts."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search of an origin: its path, and its parameters without page and fields."""

    path: str
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one question is asked; the rows of `searches` do not overlap.

    `fields` are what rows have, `match` what is compared again with them.
    """

    level: Level
    searches: tuple[Search, ...]
    fields: tuple[Field, ...]
    included: tuple[int, ...]
    match: ItemMatch
    moments: tuple[Moment, ...]
    unmatched: frozenset[int]
    unknown: frozenset[int]

    @property
    def identity(self) -> tuple[int, ...]:
        """What tells rows from each other: a patient is an identifier and who issued it."""
        return (UNIQUE[self.level], _ISSUER) if self.level is Level.PATIENT else (UNIQUE[self.level],)


def plan_of(question: Question, origin: Origin) -> Plan:
    """Return how to ask an origin.

    Raises:
        BadQueryError: a key's value cannot be matched.
    """
    keys = {
        _MODALITIES_IN_STUDY if tag == _MODALITY and question.level is Level.STUDY else tag: value
        for tag, value in question.keys.items()
        if tag not in _OF_THE_IDENTIFIER and _is_asked(tag, value)
    }
    known = {tag: value for tag, value in keys.items() if _is_matched(tag, question.level, origin)}
    at = _LEVELS.index(question.level)
    wanted = set(question.returned) | {UNIQUE[level] for level in _LEVELS[1 : at + 1] or _LEVELS[:1]}
    wanted -= _OF_THE_IDENTIFIER
    given = {tag for tag in wanted if _is_known(tag, question.level, origin)}
    try:
        moments = tuple(_moments(known)) if question.combines_date_and_time else ()
        match = ItemMatch.of(
            {tag: value for tag, value in known.items() if tag not in {time for _, time, _ in moments}},
            is_fuzzy=question.is_fuzzy,
            matches_empty=question.matches_empty,
            matches_all=question.matches_all_values,
        )
    except MatchError as error:
        raise BadQueryError(str(error)) from error
    return Plan(
        question.level,
        tuple(_searches(question, known, origin, frozenset(time for _, time, _ in moments))),
        tuple(Field(tag, _vr_of(tag), keyword_for_tag(tag)) for tag in sorted(given)),
        tuple(sorted(given | set(known) | ({_ISSUER} if question.level is Level.PATIENT else set()))),
        match,
        moments,
        frozenset(set(keys) - set(known)),
        frozenset(wanted - given),
    )


def _is_asked(tag: int, value: "str | Keys") -> bool:
    """Tell whether a key asks for anything: an empty one, and an item of such alone, matches all."""
    if isinstance(value, str):
        asked = value.strip(" \0")
        return bool(asked) and (asked != "*" or _vr_of(tag) == "UI")
    return any(_is_asked(inner, each) for inner, each in value.items())


def _moments(keys: Keys) -> Iterable[Moment]:
    """Yield the dates and times of which both are asked for by a range (PS3.4 C.2.2.2.5)."""
    for day, time in _TIMES.items():
        days, times = keys.get(day), keys.get(time)
        if isinstance(days, str) and isinstance(times, str):
            joined = same_moment(match_of("DA", days), match_of("TM", times))
            if joined is not None:
                yield day, time, joined


def _is_known(tag: int, level: Level, origin: Origin) -> bool:
    """Tell whether rows of a level have an attribute: the index's, and of an origin of ours what is counted, too."""
    found = BY_TAG.get(tag)
    of = found.level if found is not None else COUNTED.get(tag)
    if found is None and origin.kind is Kind.HEALTHIMAGING and tag != _MODALITIES_IN_STUDY:
        return False
    return of is not None and _LEVELS.index(of) <= _LEVELS.index(level)


def _is_matched(tag: int, level: Level, origin: Origin) -> bool:
    """Tell whether a key is matched: by the origin at one of the levels, and here again."""
    if not _is_known(tag, level, origin) or (tag in COUNTED and tag not in COMPARED):
        return False
    levels = _LEVELS[1 : max(1, _LEVELS.index(level)) + 1]
    return any(taken is None or tag in taken for taken in map(origin.matched, levels))


def _searches(question: Question, keys: Keys, origin: Origin, kept: frozenset[int]) -> Iterable[Search]:
    """Yield the searches whose rows together are what is asked for, and more; what is `kept` is compared here alone."""
    level = Level.STUDY if question.level is Level.PATIENT else question.level
    above = [each for each in _LEVELS[1:] if _LEVELS.index(each) < _LEVELS.index(level)]
    parents: list[tuple[int, tuple[str, ...]]] = []
    for each in above:
        uids = _uids(keys.get(UNIQUE[each]))
        if not uids:
            break  # a series alone does not make a path
        parents.append((UNIQUE[each], uids))
    names = ("studies", "series", "instances")[: len(above) + 1]
    in_path = {tag for tag, _ in parents}
    taken = origin.matched(level)
    if taken is not None and not in_path and level is not Level.STUDY:
        taken = frozenset().union(*(origin.matched(each) or () for each in (*above, level)))
    sent = {tag: value for tag, value in keys.items() if tag not in in_path | kept and (taken is None or tag in taken)}
    listed = _listed(sent, has_parents=len(parents) == len(above) > 0)
    for combination in product(*(uids for _, uids in parents)):
        path = "".join(f"/{name}/{uid}" for name, uid in zip(names, combination, strict=False)) + f"/{names[-1]}"
        for chosen in listed:
            yield Search(path, tuple(_parameters({**sent, **chosen}, question, origin)))


def _listed(sent: dict[int, Any], *, has_parents: bool) -> Sequence[Mapping[int, Any]]:
    """Take a long list of UIDs out of what is sent, and return its parts, each for a search of its own."""
    for level in reversed(_LEVELS[1:]):
        uids = _uids(sent.get(UNIQUE[level]))
        if len(uids) > _MOST_UIDS:
            del sent[UNIQUE[level]]
            if has_parents:
                return [{}]  # all of the parent are read, and compared here
            parts = [uids[at : at + _MOST_UIDS] for at in range(0, len(uids), _MOST_UIDS)]
            return [{UNIQUE[level]: "\\".join(part)} for part in parts]
    return [{}]


def _uids(value: "str | Keys | None") -> tuple[str, ...]:
    """Return the UIDs of a list; none where one of them is no UID: it is asked for as it is, and matches nothing."""
    if not isinstance(value, str):
        return ()
    uids = tuple(dict.fromkeys(each for each in (part.strip(" \0") for part in value.split("\\")) if each))
    return uids if all(map(is_usable, uids)) else ()


def _parameters(sent: Keys, question: Question, origin: Origin) -> Iterable[tuple[str, str]]:
    if origin.kind is Kind.DICOMFLOW:
        yield from _written(sent)
        flags = {
            "fuzzymatching": question.is_fuzzy,
            "emptyvaluematching": question.matches_empty,
            "multiplevaluematching": question.matches_all_values,
        }
        yield from ((name, "true") for name, is_set in flags.items() if is_set)
        return
    is_fuzzy = False
    for tag, value in sent.items():
        if not isinstance(value, str) or value == '""':
            continue
        if tag in _NAMED:
            prefix = _prefix(value)
            if prefix:
                is_fuzzy = True
                yield f"{tag:08X}", prefix
        elif _vr_of(tag) == "UI":
            yield f"{tag:08X}", value.replace("\\", ",")
        elif "\\" not in value:
            yield f"{tag:08X}", value
    if is_fuzzy:
        yield "fuzzymatching", "true"


def _prefix(value: str) -> str:
    """Return the begin of a word that each name that is meant has; "" where there is none to tell."""
    first = value.partition("=")[0].replace("^", " ").split()
    if "\\" in value or not value.isascii():
        return ""
    words = fold_words(first[0].split("*")[0].split("?")[0]) if first else ()
    return words[0] if words else ""


def _written(keys: Keys, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield keys as parameters; those of an item with the sequence's tag before a dot (PS3.18 8.3.4.1)."""
    for tag, value in keys.items():
        name = f"{path}{tag:08X}"
        if not isinstance(value, str):
            yield from _written({inner: each for inner, each in value.items() if _is_asked(inner, each)}, f"{name}.")
        else:
            yield name, value.replace("\\", ",") if _vr_of(tag) == "UI" else value


def _vr_of(tag: int) -> str:
    attribute = BY_TAG.get(tag)
    if attribute is not None:
        return attribute.vr
    try:
        return dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        return "LO"
