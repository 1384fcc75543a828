"""Why an image set is not primary: the elements in which it conflicts with the primary ones of its study.

HealthImaging Developer Guide, "Understanding image sets": five elements of the study and two of the series decide.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dicomflow.healthimaging.client import ImageSetSummary, search_image_sets

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging.client import HealthImagingClient

__all__ = ["SERIES_ELEMENTS", "SERIES_UID", "STUDY_ELEMENTS", "conflicts_of_study", "differing_elements"]

# The UIDs are equal within a study and a series: what can differ is the rest, under the names of a search.
STUDY_ELEMENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PatientID": "DICOMPatientId",
        "AccessionNumber": "DICOMAccessionNumber",
        "StudyID": "DICOMStudyId",
        "StudyDate": "DICOMStudyDate",
    }
)
SERIES_ELEMENTS: Final[Mapping[str, str]] = MappingProxyType({"SeriesNumber": "DICOMSeriesNumber"})
SERIES_UID: Final = "DICOMSeriesInstanceUID"


def conflicts_of_study(
    client: "HealthImagingClient", datastore_id: str, study_instance_uid: str
) -> dict[str, tuple[str, ...]]:
    """Return, for each image set of a study that is not primary, the keywords of the elements that conflict.

    No keyword: it is alike in everything that a search shows.

    Raises:
        TransientError: the service did not answer.
    """
    found = search_image_sets(client, datastore_id, "DICOMStudyInstanceUID", study_instance_uid)
    primary = [item for item in found if item.is_primary]
    return {item.image_set_id: _conflicts(item, primary) for item in found if item.is_primary is False}


def differing_elements(
    item: ImageSetSummary, primary: Sequence[ImageSetSummary]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keywords of study and of series in which an image set differs from the primary ones of its study."""
    of_series = [other for other in primary if other.tags.get(SERIES_UID) == item.tags.get(SERIES_UID)]
    return (
        tuple(keyword for keyword, tag in STUDY_ELEMENTS.items() if _differs(item, primary, tag)),
        tuple(keyword for keyword, tag in SERIES_ELEMENTS.items() if _differs(item, of_series, tag)),
    )


def _conflicts(item: ImageSetSummary, primary: Sequence[ImageSetSummary]) -> tuple[str, ...]:
    study, series = differing_elements(item, primary)
    return study + series


def _differs(item: ImageSetSummary, others: Sequence[ImageSetSummary], tag: str) -> bool:
    return any(_text(other.tags.get(tag)) != _text(item.tags.get(tag)) for other in others)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
