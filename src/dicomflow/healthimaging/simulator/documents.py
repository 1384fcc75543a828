"""A data set as the service stores it: by level, keyed by keyword, in plain JSON; and the tags that are searched."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.valuerep import IS, DSdecimal, DSfloat

__all__ = [
    "Elements",
    "Levels",
    "Warnings",
    "dataset_warnings",
    "document_of",
    "elements_of",
    "levels_of",
    "search_tags",
]

Elements = list[str]  # study and series elements that make an image set primary, in the order below
Warnings = list[tuple[int, str, str]]  # code, type, message
Document = dict[str, Any]  # one level of a data set, keyed by keyword

STUDY_ELEMENTS: Final = ("StudyDate", "AccessionNumber", "PatientID", "StudyInstanceUID", "StudyID")
SERIES_ELEMENTS: Final = ("SeriesInstanceUID", "SeriesNumber")
PATIENT_KEYWORDS: Final = frozenset(
    {
        "EthnicGroup",
        "IssuerOfPatientID",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "OtherPatientNames",
        "PatientAddress",
        "PatientBirthDate",
        "PatientBirthName",
        "PatientBirthTime",
        "PatientComments",
        "PatientID",
        "PatientIdentityRemoved",
        "PatientName",
        "PatientSex",
        "PatientSpeciesDescription",
        "PatientBreedDescription",
        "ResponsiblePerson",
        "ResponsibleOrganization",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
    }
)
STUDY_KEYWORDS: Final = frozenset(
    {
        "AccessionNumber",
        "AdditionalPatientHistory",
        "AdmissionID",
        "AdmittingDiagnosesDescription",
        "IssuerOfAccessionNumberSequence",
        "NameOfPhysiciansReadingStudy",
        "NumberOfStudyRelatedInstances",
        "NumberOfStudyRelatedSeries",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "PhysiciansOfRecord",
        "ProcedureCodeSequence",
        "ReferencedStudySequence",
        "ReferringPhysicianName",
        "StudyComments",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "StudyTime",
    }
)
SERIES_KEYWORDS: Final = frozenset(
    {
        "BodyPartExamined",
        "FrameOfReferenceUID",
        "InstitutionAddress",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "Laterality",
        "Manufacturer",
        "ManufacturerModelName",
        "Modality",
        "OperatorsName",
        "PatientPosition",
        "PerformedProcedureStepDescription",
        "PerformedProcedureStepID",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformingPhysicianName",
        "PositionReferenceIndicator",
        "ProtocolName",
        "RequestAttributesSequence",
        "SeriesDate",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesTime",
        "SoftwareVersions",
        "StationName",
    }
)
MAX_LENGTHS: Final[Mapping[str, int]] = {
    "PatientName": 256,
    "PatientID": 256,
    "StudyID": 256,
    "StudyDescription": 256,
    "AccessionNumber": 256,
    "PatientBirthDate": 18,
    "PatientSex": 16,
    "StudyDate": 18,
    "StudyTime": 28,
}
BINARY_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
MAX_INLINE_BYTES: Final = 1_000_000  # larger binary values are bulk data and not in the metadata


def elements_of(dataset: Dataset) -> Elements:
    """Return the seven elements that decide whether an instance is primary; missing ones are empty."""
    return [_text(dataset, keyword) for keyword in STUDY_ELEMENTS + SERIES_ELEMENTS]


@dataclass(frozen=True, slots=True)
class Levels:
    """A data set as documents of its four levels."""

    patient: Document
    study: Document
    series: Document
    instance: Document


def levels_of(dataset: Dataset) -> Levels:
    """Return the data set as documents of patient, study, series and instance."""
    levels = Levels({}, {}, {}, {})
    for keyword, value in document_of(dataset).items():
        if keyword in PATIENT_KEYWORDS:
            levels.patient[keyword] = value
        elif keyword in STUDY_KEYWORDS:
            levels.study[keyword] = value
        elif keyword in SERIES_KEYWORDS:
            levels.series[keyword] = value
        else:
            levels.instance[keyword] = value
    return levels


def document_of(dataset: Dataset) -> Document:
    """Return a data set as JSON keyed by keyword (by tag where there is none); empty values are None.

    A value that its VR does not allow is kept as text.
    """
    document = {}
    for tag in dataset.keys():  # noqa: SIM118  # a data set iterates over its elements
        raw = dataset.get_item(tag).value
        try:
            element = dataset[tag]
            if element.VR in BINARY_VRS and element.value and len(element.value) > MAX_INLINE_BYTES:
                continue
            document[element.keyword or f"{element.tag:08X}"] = _value(element)
        except (ValueError, TypeError, OverflowError):
            text = raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)
            document[keyword_for_tag(tag) or f"{tag:08X}"] = text.strip()
    return document


def search_tags(
    patient: Mapping[str, Any], study: Mapping[str, Any], series: Mapping[str, Any]
) -> dict[str, str | int]:
    """Return what SearchImageSets shows as DICOMTags."""
    found = {
        "DICOMPatientId": patient.get("PatientID"),
        "DICOMPatientName": patient.get("PatientName"),
        "DICOMPatientBirthDate": patient.get("PatientBirthDate"),
        "DICOMPatientSex": patient.get("PatientSex"),
        "DICOMStudyInstanceUID": study.get("StudyInstanceUID"),
        "DICOMStudyId": study.get("StudyID"),
        "DICOMStudyDescription": study.get("StudyDescription"),
        "DICOMNumberOfStudyRelatedSeries": study.get("NumberOfStudyRelatedSeries"),
        "DICOMNumberOfStudyRelatedInstances": study.get("NumberOfStudyRelatedInstances"),
        "DICOMAccessionNumber": study.get("AccessionNumber"),
        "DICOMSeriesInstanceUID": series.get("SeriesInstanceUID"),
        "DICOMSeriesModality": series.get("Modality"),
        "DICOMSeriesBodyPart": series.get("BodyPartExamined"),
        "DICOMSeriesNumber": series.get("SeriesNumber"),
        "DICOMStudyDate": study.get("StudyDate"),
        "DICOMStudyTime": study.get("StudyTime"),
    }
    return {name: value for name, value in found.items() if isinstance(value, (str, int))}


def dataset_warnings(dataset: Dataset) -> Warnings:
    """Return code, type and message of what the service would warn of in a file it imports."""
    warnings = []
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        value = _text(dataset, keyword)
        if any(part.startswith("0") and part != "0" for part in value.split(".")):
            warnings.append((45570, "INVALID_UID_FORMAT", f"DICOM attribute {keyword} has an invalid format"))
    for keyword, most in MAX_LENGTHS.items():
        size = len(_text(dataset, keyword))
        if size > most:
            text = f"DICOM attribute {keyword} has {size} characters, more than {most}"
            warnings.append((45571, "INVALID_DICOM_VALUE_LENGTH", text))
    return warnings


def _text(dataset: Dataset, keyword: str) -> str:
    """Return a value as trimmed text, multiple values joined by a backslash."""
    try:
        value = dataset.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return ""
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(item).strip() for item in values)


def _value(element: DataElement) -> Any:
    if element.VR == "SQ":
        return [document_of(item) for item in element.value]
    if isinstance(element.value, MultiValue):
        return [_scalar(item) for item in element.value]
    return _scalar(element.value)


def _scalar(value: Any) -> Any:
    if value is None or value in {"", b""}:
        return None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, IS):
        return int(value)
    if isinstance(value, (DSfloat, DSdecimal)):
        return float(value)
    if isinstance(value, (int, float)):
        return value
    return str(value)
