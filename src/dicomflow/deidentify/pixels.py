"""Whether an object's pixels may have text burned in: what is not known is not sent (PS3.15 E.3.1).

Decided by class, then by the site's device rules, then by signs in the header. A rule is the site's word for one
device's images of one size; nothing else lets images of a class pass in which devices write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicomflow.deidentify.settings import DeviceRule, Option, ProfileSettings, UnmaskedClass
from dicomflow.dicom.encoding import Encoding
from dicomflow.dicom.fields import PIXEL_DATA, PIXELS, Field
from dicomflow.dicom.uids import is_private

__all__ = ["Clean", "Masked", "Refused", "Verdict", "judge_pixels"]

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
# Classes whose ORIGINAL, PRIMARY images pass if the site vouches for their kind.
_KINDS: Final = {
    _STORAGE + last: kind
    for kind, classes in {
        UnmaskedClass.CT: "2 2.1 2.2",
        UnmaskedClass.MR: "4 4.1 4.2 4.3 4.4",
        UnmaskedClass.PT: "128 128.1 130",
        UnmaskedClass.NM: "20",
        UnmaskedClass.RTDOSE: "481.2",
        UnmaskedClass.RTIMAGE: "481.1",
        UnmaskedClass.CR: "1",
        UnmaskedClass.DX: "1.1 1.1.1",
        UnmaskedClass.MG: "1.2 1.2.1 13.1.3 13.1.4 13.1.5",
        UnmaskedClass.IO: "1.3 1.3.1",
        UnmaskedClass.XA: "12.1 12.1.1 13.1.1",
        UnmaskedClass.RF: "12.2 12.2.1 13.1.2",
    }.items()
    for last in classes.split()
}
# In projections one class is used for another's modality: a mammogram of a CR reader is a Computed Radiography Image.
_PROJECTIONS: Final = frozenset({"CR", "DX", "MG", "IO", "PX", "XA", "RF", "RG"})
# Without pixels, or with those of a segmentation, which no device writes into: RT structure sets, plans, records and
# registrations; fiducials, meshes; and presentation states, whose graphics the walk drops.
_WITHOUT_TEXT: Final = frozenset(
    _STORAGE + last
    for last in """
    66.1 66.2 66.3 66.4 66.5 66.6 68.1 68.2 481.3 481.4 481.5 481.6 481.7 481.8 481.9 481.10 481.11 481.12 481.13
    481.14 481.15 481.16 481.17 481.18 67 11.1 11.2 11.3 11.4 11.5 11.6 11.7 11.8 11.9 11.10 11.11 11.12
    """.split()  # noqa: SIM905  # reads as the list
)
_ENCAPSULATED: Final = _STORAGE + "104."
_REPORTS: Final = _STORAGE + "88."
# Classes in which devices write, and what they are called.
_WRITTEN_INTO: Final = {
    _STORAGE + last: name
    for name, classes in {
        "ultrasound": "6 6.1 6.2 6.3 3 3.1",
        "secondary capture": "7 7.1 7.2 7.3 7.4",
        "ophthalmic or visible light": "77",
    }.items()
    for last in classes.split()
}
_VISIBLE_LIGHT: Final = _STORAGE + "77."
_WHOLE_SLIDE: Final = _STORAGE + "77.1.6"
_NEVER_IN_SLIDES: Final = frozenset({"LABEL", "OVERVIEW"})
_MODALITY: Final = 0x00080060
_SOP_CLASS: Final = 0x00080016
_IMAGE_TYPE: Final = 0x00080008
_BURNED_IN: Final = 0x00280301
_CAPTURED: Final = {
    0x00080064: "Conversion Type",
    0x00181012: "Date of Secondary Capture",
    0x00181016: "Secondary Capture Device Manufacturer",
    0x00181018: "Secondary Capture Device Manufacturer's Model Name",
    0x00181019: "Secondary Capture Device Software Versions",
}
_SCREENS: Final = ("SAVE", "SCREEN", "DOSE", "VOLREN")
_GREY_KINDS: Final = frozenset({UnmaskedClass.CT, UnmaskedClass.MR})
_OVERLAY_BITS: Final = 0x0100
_OVERLAY_DATA: Final = 0x3000


@dataclass(frozen=True, slots=True)
class Clean:
    """The pixels may go as they are."""


@dataclass(frozen=True, slots=True)
class Masked:
    """The pixels may go when these regions are black in every frame."""

    rule: DeviceRule


@dataclass(frozen=True, slots=True)
class Refused:
    """The object may not go, and why: in words, without a value of its."""

    reason: str


Verdict = Clean | Masked | Refused


def judge_pixels(fields: Sequence[Field], encoding: Encoding, settings: ProfileSettings) -> Verdict:
    """Decide on an object by the elements of its top level."""
    found = _Texts(fields, encoding)
    sop_class = found.text(_SOP_CLASS)
    if (refused := _refused_class(sop_class, settings)) is not None:
        return refused
    if any(_is_embedded(field) for field in fields):
        return Refused("an overlay stands in the unused bits of the pixels")
    if sum(field.tag in PIXELS for field in fields) > 1:
        return Refused("it has more than one kind of pixel data")
    if sop_class in _WITHOUT_TEXT or sop_class.startswith(_REPORTS):
        return Clean()
    image_type = [part.strip().upper() for part in found.text(_IMAGE_TYPE).split("\\")]
    if sop_class.startswith(_WHOLE_SLIDE) and _NEVER_IN_SLIDES & set(image_type):
        return Refused("a label or overview of a slide shows who it is of")
    rule = next((rule for rule in settings.devices if _fits(rule, found)), None)
    if rule is not None and rule.regions:
        return Masked(rule)
    if found.text(_BURNED_IN).upper() == "YES":
        return Refused("Burned In Annotation (0028,0301) is YES, and no device rule has regions for it")
    if rule is not None:
        return Clean()
    return _by_signs(found, sop_class, image_type, settings)


def _refused_class(sop_class: str, settings: ProfileSettings) -> Refused | None:
    """Name what no device rule lets pass."""
    if is_private(sop_class):
        return Refused("the SOP class is private, and what it holds is not known")
    if sop_class.startswith(_ENCAPSULATED):
        return Refused("an encapsulated document cannot be cleaned")
    if sop_class.startswith(_REPORTS) and Option.CLEAN_STRUCTURED_CONTENT not in settings.options:
        return Refused("a structured report goes only with clean_structured_content")
    return None


def _by_signs(found: "_Texts", sop_class: str, image_type: list[str], settings: ProfileSettings) -> Verdict:
    """Decide on images that no device rule knows."""
    if sop_class in _WRITTEN_INTO or sop_class.startswith(_VISIBLE_LIGHT):
        name = _WRITTEN_INTO.get(sop_class, "ophthalmic or visible light")
        return Refused(f"devices write into {name} images, and no device rule knows this one")
    kind = _KINDS.get(sop_class)
    if kind is None:
        return Refused("whether text is burned into images of this SOP class is not known")
    if kind not in settings.unmasked:
        return Refused(f"{kind} is not among the kinds that the profile vouches for (unmasked)")
    if found.text(_MODALITY).upper() not in (_PROJECTIONS if kind in _PROJECTIONS else {kind}):
        return Refused(f"Modality (0008,0060) is not that of a {kind} image, and no device rule knows this one")
    for tag, name in _CAPTURED.items():
        if tag in found:
            return Refused(f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X}) is there: captured from a screen, perhaps")
    if any(screen in part for part in image_type[2:] for screen in _SCREENS):
        return Refused("Image Type (0008,0008) tells of a saved screen, a dose report or a rendering")
    if kind is UnmaskedClass.RTDOSE and not any(image_type):
        return Clean()  # its IOD has no Image Type
    if image_type[:2] != ["ORIGINAL", "PRIMARY"]:
        return Refused("Image Type (0008,0008) is not ORIGINAL, PRIMARY, and no device rule knows this one")
    if kind in _GREY_KINDS and found.text(0x00280002) not in {"", "1"}:
        return Refused(f"a {kind} in colour is no image as it was acquired, and no device rule knows this one")
    return Clean()


def _fits(rule: DeviceRule, found: "_Texts") -> bool:
    """Tell whether a rule is about this object: every test is exact."""
    return (
        PIXEL_DATA in found
        and found.text(0x00080070) == rule.manufacturer
        and found.text(0x00081090) == rule.model
        and found.text(0x00280010) == str(rule.rows)
        and found.text(0x00280011) == str(rule.columns)
        and rule.sop_class in {None, found.text(_SOP_CLASS)}
        and rule.image_type in {None, found.text(_IMAGE_TYPE)}
    )


def _is_embedded(field: Field) -> bool:
    """Tell whether an overlay has no data of its own: it is drawn in the bits above those of the pixels (retired)."""
    group, element = field.tag >> 16, field.tag & 0xFFFF
    if not 0x6000 <= group <= 0x60FF or element != _OVERLAY_BITS:
        return False
    return field.value not in {b"\x01\x00", b"\x00\x01"}


class _Texts:
    """The elements of one level, as text."""

    def __init__(self, fields: Sequence[Field], encoding: Encoding) -> None:
        self._fields = {field.tag: field for field in fields}
        self._is_little_endian = encoding.is_little_endian

    def __contains__(self, tag: int) -> bool:
        return tag in self._fields

    def text(self, tag: int) -> str:
        """Return a value as text, "" where there is none; of a US its number."""
        field = self._fields.get(tag)
        if field is None or field.value is None:
            return ""
        if field.vr == "US" and len(field.value) == 2:
            return str(int.from_bytes(field.value, "little" if self._is_little_endian else "big"))
        return field.value.decode("utf-8", "replace").strip(" \0")
