"""What a copy says of itself: that, how and by which options it was de-identified (PS3.15 E.1.1, PS3.3 C.7.1.1)."""

from collections.abc import Sequence
from typing import Final

from dicomflow.deidentify.profile import Profile
from dicomflow.deidentify.settings import Option
from dicomflow.deidentify.tables import EDITION
from dicomflow.dicom.fields import Field, Item, first_value
from dicomflow.dicom.uids import IMPLEMENTATION_VERSION_NAME

__all__ = ["with_marks"]

_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_REMOVED: Final = 0x00120062
_METHOD: Final = 0x00120063
_METHOD_CODES: Final = 0x00120064
_BURNED_IN: Final = 0x00280301
_DATES: Final = 0x00280303
# Smallest and largest pixel value: of an image before it was masked.
_EXTREMES: Final = frozenset({0x00280106, 0x00280107, 0x00280108, 0x00280109})
_BASIC: Final = ("113100", "Basic Application Confidentiality Profile")
_CLEAN_PIXELS: Final = ("113101", "Clean Pixel Data Option")
# PS3.16 CID 7050.
_CODES: Final = {
    Option.CLEAN_GRAPHICS: ("113103", "Clean Graphics Option"),
    Option.CLEAN_STRUCTURED_CONTENT: ("113104", "Clean Structured Content Option"),
    Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.RETAIN_FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.SHIFT_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.RETAIN_PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    Option.RETAIN_DEVICE: ("113109", "Retain Device Identity Option"),
    Option.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
    Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.RETAIN_INSTITUTION: ("113112", "Retain Institution Identity Option"),
}
_MOST_TEXT: Final = 64


def with_marks(fields: Item, pseudonym: str, profile: Profile, *, is_masked: bool) -> Item:
    """Return a data set's elements, ordered by tag, with the patient's pseudonym and what was done."""
    options = profile.settings.options
    dates = "MODIFIED" if Option.SHIFT_DATES in options else "UNMODIFIED"
    is_dated = options & {Option.SHIFT_DATES, Option.RETAIN_FULL_DATES}
    ours = {
        _PATIENT_NAME: _text(_PATIENT_NAME, "PN", pseudonym),
        _PATIENT_ID: _text(_PATIENT_ID, "LO", pseudonym),
        _REMOVED: _text(_REMOVED, "CS", "YES"),
        _METHOD: _method(fields, profile.name),
        _METHOD_CODES: _method_codes(fields, options, is_masked=is_masked),
        _DATES: _text(_DATES, "CS", dates if is_dated else "REMOVED"),
    }
    if is_masked:
        ours[_BURNED_IN] = _text(_BURNED_IN, "CS", "NO")
    by_tag: dict[int, Field] = {}
    for field in fields:
        if not (is_masked and field.tag in _EXTREMES):
            by_tag.setdefault(field.tag, field)
    by_tag.update(ours)
    return tuple(by_tag[tag] for tag in sorted(by_tag))


def _method(fields: Sequence[Field], name: str) -> Field:
    """Add to what an earlier de-identifier wrote, a value a method."""
    ours = f"{IMPLEMENTATION_VERSION_NAME} PS3.15 {EDITION} {name}"[:_MOST_TEXT].encode("ascii", "replace")
    before = (first_value(fields, _METHOD) or b"").rstrip(b" \0")
    parts = [part for part in before.split(b"\\") if part and part.strip() != ours]
    value = b"\\".join((*parts, ours))
    return Field(_METHOD, "LO", 0, len(value), 0, value)


def _method_codes(fields: Sequence[Field], options: frozenset[Option], *, is_masked: bool) -> Field:
    before = next((field.items for field in fields if field.tag == _METHOD_CODES), None) or ()
    codes = [
        _BASIC,
        *([_CLEAN_PIXELS] if is_masked else []),
        *(_CODES[option] for option in _CODES if option in options),
    ]
    there = {(first_value(item, 0x00080100) or b"").strip(b" \0").decode("ascii", "replace") for item in before}
    added = tuple(
        (
            _text(0x00080100, "SH", value),
            _text(0x00080102, "SH", "DCM"),
            _text(0x00080104, "LO", meaning),
        )
        for value, meaning in codes
        if value not in there
    )
    return Field(_METHOD_CODES, "SQ", 0, 0, 0, None, (*before, *added))


def _text(tag: int, vr: str, text: str) -> Field:
    value = text.encode("ascii")
    return Field(tag, vr, 0, len(value), 0, value)
