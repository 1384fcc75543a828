"""The question that a C-FIND or a QIDO-RS search is, and the interface of what answers it.

Values are text as DICOM has it, decoded: several are parted by a backslash, a name's groups by `=`. Knows neither SQL
nor a protocol.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from dicomflow.dicom.attributes import Level

__all__ = ["COMPARED", "COUNTED", "Answers", "Field", "Keys", "Query", "Question", "Value"]

COUNTED: Final[Mapping[int, Level]] = {
    0x00080056: Level.PATIENT,
    0x00080061: Level.STUDY,
    0x00080062: Level.STUDY,
    0x00083002: Level.INSTANCE,
    0x00201200: Level.PATIENT,
    0x00201202: Level.PATIENT,
    0x00201204: Level.PATIENT,
    0x00201206: Level.STUDY,
    0x00201208: Level.STUDY,
    0x00201209: Level.SERIES,
}
"""Attributes of a level that no object says, and that are answered nevertheless (PS3.4 C.3.4)."""

COMPARED: Final = frozenset({0x00080061, 0x00080062, 0x00083002})
"""Those of them that can be asked for by value: the modalities and classes of a study, and the syntax of an object."""

Keys: TypeAlias = Mapping[int, "str | Keys"]
"""Matching keys by tag; a sequence's are those of its one item (PS3.4 C.2.2.2.6). Empty ones match all."""

Item: TypeAlias = Mapping[str, Mapping[str, "object"]]
"""An item of a sequence in the DICOM JSON model (PS3.18 F.2)."""

Value: TypeAlias = "str | int | float | list[str | int | float | None] | list[Item] | None"
"""A value of a row: text, a number, several of either, or a sequence's items; None where there is none."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for.

    Attributes:
        level: what each row is of.
        keys: what must match; universal ones may be left out.
        returned: tags that are wanted in the rows, of the level and of those above it; others are not answered.
        offset: how many rows to leave out.
        limit: how many rows at most; None for all.
        is_fuzzy: names match by the beginnings of their words, in any order.
        matches_empty: the value `""` asks for what has no value (PS3.4 C.2.2.2.7).
        matches_all_values: several values must all be there (PS3.4 C.2.2.2.8); else one of them.
        combines_date_and_time: a date's range and its time's are one range (PS3.4 C.2.2.2.5).
    """

    level: Level
    keys: Keys = field(default_factory=dict)
    returned: frozenset[int] = frozenset()
    offset: int = 0
    limit: int | None = None
    is_fuzzy: bool = False
    matches_empty: bool = False
    matches_all_values: bool = False
    combines_date_and_time: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """One attribute of each row."""

    tag: int
    vr: str
    keyword: str


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of an answer as they are found: each has a value for each of `fields`, which are in order of their tags.

    Attributes:
        fields: what of the wanted attributes is known here, and the unique keys of the level and those above.
        batches: rows as they are read, to be read once; in an empty batch none of those looked at was meant, so that
            a long search can be given up. Raises `TransientError` where the catalog fails on the way.
        unmatched: keys that were asked for and are not matched here: all values passed (PS3.4 C.2.2.1.3).
        unknown: tags that were wanted and are not answered here.
    """

    fields: tuple[Field, ...]
    batches: Iterator[list[tuple[Value, ...]]]
    unmatched: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()


class Query(Protocol):
    """Answers questions from what is stored now, the newest study first. Threads: any."""

    def ask(self, question: Question) -> Answers:
        """Begin to answer; what is wrong with the question is said at once, the rows come as they are read.

        Raises:
            BadQueryError: a key's value cannot be matched: a malformed range, a list that is too long.
            TransientError: the catalog does not answer.
        """

    def count(self, question: Question, most: int) -> int:
        """Return how many rows there are, or `most` where there are at least so many.

        Raises:
            as `ask`.
        """
