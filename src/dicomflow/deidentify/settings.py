"""Profiles as settings name them: the options of PS3.15 E.3 that are in force, and what a site vouches for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["BASIC", "BUILT_IN", "DeviceRule", "Option", "ProfileSettings", "UnmaskedClass"]

BASIC: Final = "basic"
"""The name of the profile that is always there: the Basic Application Confidentiality Profile without options."""
Region = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]


class Option(StrEnum):
    """The options of the profile (PS3.15 E.3) that dicomflow has."""

    RETAIN_UIDS = "retain_uids"
    RETAIN_FULL_DATES = "retain_full_dates"
    SHIFT_DATES = "shift_dates"
    RETAIN_PATIENT_CHARACTERISTICS = "retain_patient_characteristics"
    RETAIN_DEVICE = "retain_device"
    RETAIN_INSTITUTION = "retain_institution"
    RETAIN_SAFE_PRIVATE = "retain_safe_private"
    CLEAN_DESCRIPTORS = "clean_descriptors"
    CLEAN_GRAPHICS = "clean_graphics"
    CLEAN_STRUCTURED_CONTENT = "clean_structured_content"


class UnmaskedClass(StrEnum):
    """Kinds of images that a site may vouch for: none of them has text burned in where they are ORIGINAL, PRIMARY."""

    CT = "CT"
    MR = "MR"
    PT = "PT"
    NM = "NM"
    RTDOSE = "RTDOSE"
    RTIMAGE = "RTIMAGE"
    CR = "CR"
    DX = "DX"
    MG = "MG"
    IO = "IO"
    XA = "XA"
    RF = "RF"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceRule(_Section):
    """What a site knows of one device's images: the regions that it writes into, or, with none, that it writes nowhere.

    Every value that is given must be equal; `image_type` as the object has it, parts joined by a backslash. A region
    is left, top, right and bottom in pixels from the image's left upper corner; right and bottom are outside of it.
    """

    manufacturer: str = Field(min_length=1)
    model: str = Field(min_length=1)
    rows: int = Field(ge=1, le=65535)
    columns: int = Field(ge=1, le=65535)
    sop_class: str | None = None
    image_type: str | None = None
    regions: tuple[Region, ...]

    @model_validator(mode="after")
    def _within_the_image(self) -> Self:
        for left, top, right, bottom in self.regions:
            if not (left < right <= self.columns and top < bottom <= self.rows):
                raise ValueError(
                    f"region {left},{top},{right},{bottom} is empty or leaves the image of"
                    f" {self.columns} columns and {self.rows} rows"
                )
        return self


class ProfileSettings(_Section):
    """One profile: the Basic Application Confidentiality Profile with `options`.

    `unmasked` names the kinds whose ORIGINAL, PRIMARY images pass without a device rule. With `lookup`, a CSV file of
    Patient ID and project ID, patients have the project's ID, and who is not in it is not sent. `words` stay in
    cleaned texts beside DICOM's own vocabulary. Dates are shifted by up to `most_shift_days` into the past.
    """

    options: frozenset[Option] = frozenset()
    unmasked: frozenset[UnmaskedClass] = frozenset(
        {UnmaskedClass.CT, UnmaskedClass.MR, UnmaskedClass.PT, UnmaskedClass.NM, UnmaskedClass.RTDOSE}
    )
    devices: tuple[DeviceRule, ...] = ()
    words: frozenset[str] = frozenset()
    lookup: Path | None = None
    most_shift_days: int = Field(365, ge=7, le=36_500)

    @field_validator("lookup")
    @classmethod
    def _wherever_it_is_read(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("lookup is the whole path of a file: the edge and its commands start in different folders")
        return value

    @model_validator(mode="after")
    def _dates_once(self) -> Self:
        if {Option.RETAIN_FULL_DATES, Option.SHIFT_DATES} <= self.options:
            raise ValueError("retain_full_dates and shift_dates exclude each other (PS3.15 E.3.6)")
        return self


BUILT_IN: Final = {BASIC: ProfileSettings()}
