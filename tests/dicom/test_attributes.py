"""The table of indexed attributes agrees with the standard's dictionary."""

import subprocess
import sys

import pytest
from pydicom.datadict import dictionary_keyword, dictionary_VM, dictionary_VR

from dicomflow.dicom.attributes import ATTRIBUTES, BY_TAG, Attribute, Level, ValueType, column_name, of_level

# What the first users' index held, and what HealthImaging groups by, by keyword.
REQUIRED = """
InstanceCreationDate ImageType InstanceCreationTime SOPClassUID SOPInstanceUID InstanceNumber ImageOrientationPatient
ImagePositionPatient AcquisitionTime AcquisitionDate ContentDate AnatomicRegionSequence AcquisitionNumber
PatientOrientation ImageComments PrivateGroupReference RecognizableVisualFeatures PresentationLUTShape IconImageSequence
SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated HighBit PixelRepresentation RescaleIntercept
RescaleSlope SeriesInstanceUID SeriesTime SeriesDate SeriesDescription SeriesDescriptionCodeSequence SeriesNumber
InstanceCoercionDateTime Modality PerformingPhysicianName PerformingPhysicianIdentificationSequence
AnatomicalOrientationType BodyPartExamined ProtocolName PatientPosition StudyInstanceUID ModalitiesInStudy
AccessionNumber NameOfPhysiciansReadingStudy StudyDate StudyTime ReferringPhysicianName ConsultingPhysicianName
StudyDescription SpecificCharacterSet IssuerOfAccessionNumberSequence ProcedureCodeSequence RequestingService
PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex StudyID BitsStored NumberOfFrames
TransferSyntaxUID AcquisitionDateTime WindowCenter WindowWidth PixelSpacing SliceThickness BurnedInAnnotation
StationName InstitutionName
"""


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.keyword)
def test_attribute_agrees_with_the_dictionary(attribute: Attribute):
    """Keyword, VR and multiplicity are those of PS3.6."""
    expected = (dictionary_keyword(attribute.tag), dictionary_VR(attribute.tag), dictionary_VM(attribute.tag) != "1")
    assert expected == (attribute.keyword, attribute.vr, attribute.many)


def test_required_attributes_are_all_there():
    """No attribute of the first index is lost."""
    assert set(REQUIRED.split()) == {attribute.keyword for attribute in ATTRIBUTES}


def test_tags_and_columns_are_unique():
    """Each tag has one column, and no two levels share a column's name."""
    assert len(ATTRIBUTES) == len(BY_TAG) == len({attribute.column for attribute in ATTRIBUTES})


@pytest.mark.parametrize(
    ("keyword", "column"),
    [
        ("SOPInstanceUID", "sop_instance_uid"),
        ("PresentationLUTShape", "presentation_lut_shape"),
        ("IssuerOfPatientID", "issuer_of_patient_id"),
        ("InstanceCoercionDateTime", "instance_coercion_date_time"),
        ("Rows", "rows"),
    ],
)
def test_column_name_is_the_keyword_in_snake_case(keyword: str, column: str):
    """Acronyms stay whole."""
    assert column == column_name(keyword)


def test_of_level_gives_each_attribute_once():
    """The four levels together are the table."""
    assert sorted(BY_TAG) == sorted(attribute.tag for level in Level for attribute in of_level(level))


def test_type_of_many_values_is_json():
    """An attribute that may have several values keeps all of them."""
    assert ValueType.JSON is BY_TAG[0x00200037].type
    assert ValueType.DATE is BY_TAG[0x00080020].type


def test_import_costs_no_pydicom():
    """The table is read by programs that never open an object."""
    code = "import sys, dicomflow.dicom.header; sys.exit('pydicom' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
