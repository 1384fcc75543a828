"""Objects as the index takes them: where one lies, what it says of itself, or why it says nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dicomflow.catalog.tables import UID_LENGTH
from dicomflow.dicom.attributes import Level
from dicomflow.errors import PermanentError

__all__ = ["MAX_KEY_CHARACTERS", "UIDS", "IndexedObject", "ObjectLocation", "ObjectProblem", "without_long_identity"]

MAX_KEY_CHARACTERS: Final = 256
"""What an index holds of a text: a row of one takes 2,704 bytes on PostgreSQL. LO allows 64 characters (PS3.5 6.2)."""

UIDS: Final = {
    "StudyInstanceUID": "(0020,000D)",
    "SeriesInstanceUID": "(0020,000E)",
    "SOPInstanceUID": "(0008,0018)",
    "SOPClassUID": "(0008,0016)",
}
_IDENTITIES: Final = {"PatientID": "(0010,0020)", "IssuerOfPatientID": "(0010,0021)"}
_UID_CHARACTERS: Final = frozenset("0123456789.")


@dataclass(frozen=True, slots=True)
class ObjectLocation:
    """Where an object lies, and what its key says of its way; `stored_at` is the store's time of the object.

    `sha256`, lower-case hex, is what the store or the object's own bytes say; None where neither could be asked.
    """

    object_key: str
    edge: str
    delivery_id: str | None
    bytes: int
    stored_at: datetime
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class IndexedObject:
    """An object with its indexed attributes.

    `values` are by DICOM keyword, `raw_values` the texts of those that did not parse; `site_issuer` is the issuer of
    Patient IDs that name none; `problem` what is wrong with the object although it can be indexed.
    """

    location: ObjectLocation
    site_issuer: str
    values: Mapping[str, Any]
    raw_values: Mapping[Level, Mapping[str, str]]
    problem: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot have a place in the index.

        Raises:
            PermanentError: a UID is missing, too long or no UID, or the patient's identity is too long.
        """
        for keyword, tag in UIDS.items():
            uid = self.values.get(keyword)
            if not uid:
                raise PermanentError(f"no {keyword} {tag}")
            if len(uid) > UID_LENGTH:
                raise PermanentError(f"{keyword} {tag} of {len(uid)} characters exceeds {UID_LENGTH}")
            if not _UID_CHARACTERS.issuperset(uid):
                raise PermanentError(f"{keyword} {tag} is no UID")
        for keyword, tag in _IDENTITIES.items():
            length = len(self.values.get(keyword) or "")
            if length > MAX_KEY_CHARACTERS:
                raise PermanentError(f"{keyword} {tag} of {length} characters exceeds {MAX_KEY_CHARACTERS}")


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """An object that will never be indexed, and why; the reason holds no patient data."""

    object_key: str
    edge: str
    delivery_id: str | None
    bytes: int | None
    reason: str


def without_long_identity(indexed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], str | None]:
    """Take out what is too long to be a patient's identity, so that the object is found by all else.

    Returns the values that stay, the texts that were taken out by keyword, and the problem to tell, or None.
    """
    values = dict(indexed)
    long = {
        keyword: values.pop(keyword) for keyword in _IDENTITIES if len(values.get(keyword) or "") > MAX_KEY_CHARACTERS
    }
    told = (
        f"{keyword} {_IDENTITIES[keyword]} of {len(text)} characters exceeds {MAX_KEY_CHARACTERS}: indexed without it"
        for keyword, text in long.items()
    )
    return values, long, "; ".join(told) or None
