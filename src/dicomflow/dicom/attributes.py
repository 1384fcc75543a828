"""The table of indexed attributes: which elements the catalog holds, at which level, under which column and type.

This module is the standard's facts only: reading them out of an object is `dicom.header`'s, storing them the
catalog's. Columns are the keywords in snake_case. Importing it costs no pydicom.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = ["ATTRIBUTES", "BY_TAG", "Attribute", "Level", "ValueType", "column_name", "of_level"]


class Level(StrEnum):
    """The level of the Patient-Study-Series-Instance hierarchy (PS3.3 A.1.2) whose row holds an attribute."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


class ValueType(StrEnum):
    """The type of a column, free of any SQL dialect; JSON holds sequences and all values of attributes of VM > 1."""

    UID = "uid"
    TEXT = "text"
    DATE = "date"
    TIME = "time"
    DATETIME = "datetime"
    INTEGER = "integer"
    FLOAT = "float"
    JSON = "json"


def column_name(keyword: str) -> str:
    """Return the snake_case column of a keyword: `SOPInstanceUID` gives `sop_instance_uid`."""
    split = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", keyword)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", split).lower()


_SINGLE_TYPES: Final = {
    "DA": ValueType.DATE,
    "TM": ValueType.TIME,
    "DT": ValueType.DATETIME,
    "IS": ValueType.INTEGER,
    "US": ValueType.INTEGER,
    "DS": ValueType.FLOAT,
    "UI": ValueType.UID,
    "SQ": ValueType.JSON,
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One indexed attribute; `many` says that PS3.6 allows more than one value, `column` and `type` follow."""

    tag: int
    vr: str
    keyword: str
    level: Level
    many: bool = False
    column: str = field(init=False)
    type: ValueType = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", column_name(self.keyword))
        single = _SINGLE_TYPES.get(self.vr, ValueType.TEXT)
        object.__setattr__(self, "type", ValueType.JSON if self.many else single)


_PATIENT, _STUDY, _SERIES, _INSTANCE = Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE

# Tags, VRs and multiplicities are those of PS3.6 chapter 6 (0002,0010: PS3.10 7.1); the order is that of the columns.
ATTRIBUTES: Final = (
    Attribute(0x00100020, "LO", "PatientID", _PATIENT),
    Attribute(0x00100021, "LO", "IssuerOfPatientID", _PATIENT),
    Attribute(0x00100010, "PN", "PatientName", _PATIENT),
    Attribute(0x00100030, "DA", "PatientBirthDate", _PATIENT),
    Attribute(0x00100040, "CS", "PatientSex", _PATIENT),
    Attribute(0x0020000D, "UI", "StudyInstanceUID", _STUDY),
    Attribute(0x00080020, "DA", "StudyDate", _STUDY),
    Attribute(0x00080030, "TM", "StudyTime", _STUDY),
    Attribute(0x00200010, "SH", "StudyID", _STUDY),
    Attribute(0x00080050, "SH", "AccessionNumber", _STUDY),
    Attribute(0x00080051, "SQ", "IssuerOfAccessionNumberSequence", _STUDY),
    Attribute(0x00081030, "LO", "StudyDescription", _STUDY),
    Attribute(0x00080061, "CS", "ModalitiesInStudy", _STUDY, many=True),
    Attribute(0x00080090, "PN", "ReferringPhysicianName", _STUDY),
    Attribute(0x0008009C, "PN", "ConsultingPhysicianName", _STUDY, many=True),
    Attribute(0x00081060, "PN", "NameOfPhysiciansReadingStudy", _STUDY, many=True),
    Attribute(0x00081032, "SQ", "ProcedureCodeSequence", _STUDY),
    Attribute(0x00321033, "LO", "RequestingService", _STUDY),
    Attribute(0x00080005, "CS", "SpecificCharacterSet", _STUDY, many=True),
    Attribute(0x0020000E, "UI", "SeriesInstanceUID", _SERIES),
    Attribute(0x00200011, "IS", "SeriesNumber", _SERIES),
    Attribute(0x00080060, "CS", "Modality", _SERIES),
    Attribute(0x00080021, "DA", "SeriesDate", _SERIES),
    Attribute(0x00080031, "TM", "SeriesTime", _SERIES),
    Attribute(0x0008103E, "LO", "SeriesDescription", _SERIES),
    Attribute(0x0008103F, "SQ", "SeriesDescriptionCodeSequence", _SERIES),
    Attribute(0x00080015, "DT", "InstanceCoercionDateTime", _SERIES),
    Attribute(0x00081050, "PN", "PerformingPhysicianName", _SERIES, many=True),
    Attribute(0x00081052, "SQ", "PerformingPhysicianIdentificationSequence", _SERIES),
    Attribute(0x00102210, "CS", "AnatomicalOrientationType", _SERIES),
    Attribute(0x00180015, "CS", "BodyPartExamined", _SERIES),
    Attribute(0x00181030, "LO", "ProtocolName", _SERIES),
    Attribute(0x00185100, "CS", "PatientPosition", _SERIES),
    Attribute(0x00081010, "SH", "StationName", _SERIES),
    Attribute(0x00080080, "LO", "InstitutionName", _SERIES),
    Attribute(0x00080018, "UI", "SOPInstanceUID", _INSTANCE),
    Attribute(0x00080016, "UI", "SOPClassUID", _INSTANCE),
    Attribute(0x00020010, "UI", "TransferSyntaxUID", _INSTANCE),
    Attribute(0x00200013, "IS", "InstanceNumber", _INSTANCE),
    Attribute(0x00080008, "CS", "ImageType", _INSTANCE, many=True),
    Attribute(0x00080012, "DA", "InstanceCreationDate", _INSTANCE),
    Attribute(0x00080013, "TM", "InstanceCreationTime", _INSTANCE),
    Attribute(0x00080022, "DA", "AcquisitionDate", _INSTANCE),
    Attribute(0x00080032, "TM", "AcquisitionTime", _INSTANCE),
    Attribute(0x0008002A, "DT", "AcquisitionDateTime", _INSTANCE),
    Attribute(0x00080023, "DA", "ContentDate", _INSTANCE),
    Attribute(0x00200012, "IS", "AcquisitionNumber", _INSTANCE),
    Attribute(0x00200020, "CS", "PatientOrientation", _INSTANCE, many=True),
    Attribute(0x00200032, "DS", "ImagePositionPatient", _INSTANCE, many=True),
    Attribute(0x00200037, "DS", "ImageOrientationPatient", _INSTANCE, many=True),
    Attribute(0x00204000, "LT", "ImageComments", _INSTANCE),
    Attribute(0x00082218, "SQ", "AnatomicRegionSequence", _INSTANCE),
    Attribute(0x00080301, "US", "PrivateGroupReference", _INSTANCE),
    Attribute(0x00280302, "CS", "RecognizableVisualFeatures", _INSTANCE),
    Attribute(0x00280301, "CS", "BurnedInAnnotation", _INSTANCE),
    Attribute(0x20500020, "CS", "PresentationLUTShape", _INSTANCE),
    Attribute(0x00880200, "SQ", "IconImageSequence", _INSTANCE),
    Attribute(0x00280002, "US", "SamplesPerPixel", _INSTANCE),
    Attribute(0x00280004, "CS", "PhotometricInterpretation", _INSTANCE),
    Attribute(0x00280008, "IS", "NumberOfFrames", _INSTANCE),
    Attribute(0x00280010, "US", "Rows", _INSTANCE),
    Attribute(0x00280011, "US", "Columns", _INSTANCE),
    Attribute(0x00280100, "US", "BitsAllocated", _INSTANCE),
    Attribute(0x00280101, "US", "BitsStored", _INSTANCE),
    Attribute(0x00280102, "US", "HighBit", _INSTANCE),
    Attribute(0x00280103, "US", "PixelRepresentation", _INSTANCE),
    Attribute(0x00281050, "DS", "WindowCenter", _INSTANCE, many=True),
    Attribute(0x00281051, "DS", "WindowWidth", _INSTANCE, many=True),
    Attribute(0x00281052, "DS", "RescaleIntercept", _INSTANCE),
    Attribute(0x00281053, "DS", "RescaleSlope", _INSTANCE),
    Attribute(0x00280030, "DS", "PixelSpacing", _INSTANCE, many=True),
    Attribute(0x00180050, "DS", "SliceThickness", _INSTANCE),
)

BY_TAG: Final = {attribute.tag: attribute for attribute in ATTRIBUTES}


def of_level(level: Level) -> tuple[Attribute, ...]:
    """Return the attributes that the row of a level holds, in the order of its columns."""
    return tuple(attribute for attribute in ATTRIBUTES if attribute.level is level)
