"""Attributes that no object says and the index counts: how many there are of what, and of which kinds (PS3.4 C.3.4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from dicomflow.catalog import querying
from dicomflow.catalog.querying import COUNTS, LEVELS, Narrowed
from dicomflow.dicom.attributes import BY_TAG, Level
from dicomflow.dicom.matching import Match

__all__ = ["COMPUTED", "Computed"]

_MODALITY: Final = BY_TAG[0x00080060]
_SOP_CLASS: Final = BY_TAG[0x00080016]
_SYNTAX: Final = BY_TAG[0x00020010]

Find = Callable[[Connection, Sequence[int]], Mapping[int, Any]]


@dataclass(frozen=True, slots=True)
class Computed:
    """One such attribute of a level's rows, by the keys of these; `default` is what a row without any has.

    With `narrow` it is matched too.
    """

    tag: int
    vr: str
    keyword: str
    level: Level
    find: Find
    default: Any
    narrow: Callable[[Match], Narrowed] | None = None

    @property
    def is_matched(self) -> bool:
        """Whether it can be asked for by value."""
        return self.narrow is not None

    def is_of(self, level: Level) -> bool:
        """Tell whether rows of a level have it: their own level, or one above it."""
        return LEVELS.index(self.level) <= LEVELS.index(level)


def _online(_connection: Connection, _keys: Sequence[int]) -> Mapping[int, Any]:
    return {}


def _count(tag: int, keyword: str, of: Level, counted: Level) -> Computed:
    return Computed(tag, "IS", keyword, of, COUNTS[of, counted], 0)


COMPUTED: Final[Mapping[int, Computed]] = {
    each.tag: each
    for each in (
        # What the catalog knows is in a store that answers at once; nothing here is on tape.
        Computed(0x00080056, "CS", "InstanceAvailability", Level.PATIENT, _online, "ONLINE"),
        Computed(
            *(0x00080061, "CS", "ModalitiesInStudy", Level.STUDY, querying.modalities_of, None),
            lambda match: querying.narrow_modalities_in_study(_MODALITY, match),
        ),
        Computed(
            *(0x00080062, "UI", "SOPClassesInStudy", Level.STUDY, querying.sop_classes_of, None),
            lambda match: querying.narrow_classes_in_study(_SOP_CLASS, match),
        ),
        Computed(
            *(0x00083002, "UI", "AvailableTransferSyntaxUID", Level.INSTANCE, querying.transfer_syntaxes_of, None),
            lambda match: querying.narrow(_SYNTAX, match) or Narrowed(querying.column_of(_SYNTAX).is_not(None), False),
        ),
        _count(0x00201200, "NumberOfPatientRelatedStudies", Level.PATIENT, Level.STUDY),
        _count(0x00201202, "NumberOfPatientRelatedSeries", Level.PATIENT, Level.SERIES),
        _count(0x00201204, "NumberOfPatientRelatedInstances", Level.PATIENT, Level.INSTANCE),
        _count(0x00201206, "NumberOfStudyRelatedSeries", Level.STUDY, Level.SERIES),
        _count(0x00201208, "NumberOfStudyRelatedInstances", Level.STUDY, Level.INSTANCE),
        _count(0x00201209, "NumberOfSeriesRelatedInstances", Level.SERIES, Level.INSTANCE),
    )
}
