"""Whose object it is: the patient's pseudonym and shift, and the words by which a text would name somebody."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicomflow.deidentify.profile import Profile
from dicomflow.deidentify.settings import Option
from dicomflow.deidentify.texts import words_of
from dicomflow.deidentify.walk import Subject
from dicomflow.dicom.charsets import character_sets
from dicomflow.dicom.fields import Field, first_value
from dicomflow.errors import PeerError

__all__ = ["Patient", "patient_of"]

_CHARACTER_SET: Final = 0x00080005
_PATIENT_ID: Final = 0x00100020
_ISSUER: Final = 0x00100021
_DELIMITERS: Final = frozenset(b"\\")
_STUDY: Final = 0x0020000D
# Names, identifiers, addresses and the date of birth: no text keeps a word of theirs.
_NAMING: Final = (
    *(0x00100010, 0x00100020, 0x00100030, 0x00101000, 0x00101001, 0x00101005, 0x00101040, 0x00101060, 0x00102154),
    *(0x00080050, 0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00200010, 0x00321032, 0x00380010),
)


@dataclass(frozen=True, slots=True)
class Patient:
    """What stands in the place of name and ID, and what the walk must know."""

    pseudonym: str
    subject: Subject


def patient_of(fields: Sequence[Field], profile: Profile) -> Patient:
    """Return the patient of an object by issuer and Patient ID; without a Patient ID, each study is one of its own.

    Raises:
        PeerError: the profile has a lookup table, and the patient is not in it.
    """
    identifier = _trimmed(fields, _PATIENT_ID)
    issuer = _trimmed(fields, _ISSUER)
    key = b"\0".join((b"patient", issuer, identifier) if identifier else (b"study", _trimmed(fields, _STUDY)))
    pseudonyms, settings = profile.pseudonyms, profile.settings
    shifts = Option.SHIFT_DATES in settings.options
    names = words_of(value for tag in _NAMING if (value := first_value(fields, tag)))
    subject = Subject(pseudonyms.shift_days(key, settings.most_shift_days) if shifts else 0, names)
    if profile.projects is None:
        return Patient(pseudonyms.patient(key), subject)
    declared = _trimmed(fields, _CHARACTER_SET).decode("ascii", "replace")
    text = unicodedata.normalize("NFC", character_sets(declared).decode(identifier, _DELIMITERS)[0].strip())
    project = profile.projects.get(text)
    if project is None:
        raise PeerError("the patient is not in the profile's lookup table")
    return Patient(project, subject)


def _trimmed(fields: Sequence[Field], tag: int) -> bytes:
    return (first_value(fields, tag) or b"").strip(b" \0")
