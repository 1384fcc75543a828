"""Objects with a marker in every row of PS3.15 Table E.1-1, and studies whose objects refer to one another.

The rows are the package's data: whoever tests it against the standard's table does so elsewhere.
"""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from io import BytesIO
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomflow import samples
from dicomflow.deidentify.tables import actions

__all__ = ["Planter", "encoded", "reading", "rt_structure_set", "segmentation", "structured_report"]

_UNIQUE = 20_000
_NOT_IN_DATA_SETS = frozenset({0x0000, 0x0002, 0x0004, 0xFFFA, 0xFFFC})
_FIRST_DAY = date(1700, 1, 1)
_RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


class Planter:
    """Plants values that stand nowhere else, and remembers them: none may be in a copy."""

    def __init__(self) -> None:
        self.markers: dict[bytes, str] = {}
        self._number = _UNIQUE

    def text(self, where: str, prefix: str = "Zq") -> str:
        """Return a new text, which is remembered."""
        self._number += 1
        return self._remembered(f"{prefix}{self._number}", where)

    def value(self, tag: int, vr: str) -> Any:
        """Return a new value of a VR."""
        where = f"{tag:08X} {vr}"
        self._number += 1
        if vr in {"DA", "TM", "DT"}:
            day = (_FIRST_DAY + timedelta(self._number % 100_000)).strftime("%Y%m%d")
            clock = f"1{self._number % 10}5931.{self._number:06}"
            return self._remembered({"DA": day, "TM": clock, "DT": day + clock}[vr], where)
        if vr == "UI":
            return self._remembered(f"1.9.876543.{self._number}", where)
        if vr in {"DS", "IS"}:
            return self._remembered(f"{self._number}77", where)
        if vr == "AS":
            return self._remembered(f"{self._number % 1000:03}M", where) if self._number % 1000 else "013M"
        if vr == "CS":
            return self._remembered(f"ZQ{self._number}", where)
        if vr in {"OB", "UN", "OW"}:
            return self._remembered(f"zqBytes{self._number}", where).encode()
        if vr in {"US", "UL", "FD", "FL", "SL", "SS"}:
            return self._number
        return self._remembered(f"Zq{self._number}", where)

    def _remembered(self, text: str, where: str) -> str:
        self.markers[text.encode()] = where
        return text

    def plant(self, into: Dataset, *, rows: Iterable[int] | None = None) -> Dataset:
        """Plant a value into every row that a data set can have, or those of `rows`; a sequence gets one item."""
        for tag in sorted(actions() if rows is None else rows):
            if tag >> 16 in _NOT_IN_DATA_SETS or tag in into:
                continue
            try:
                vr = dictionary_VR(tag)
            except KeyError:
                vr = "LO"  # rows that pydicom does not know yet
            if vr == "SQ":
                into.add_new(tag, vr, [self._item(tag)])
            else:
                into.add_new(tag, vr, self.value(tag, vr))
        return into

    def _item(self, tag: int) -> Dataset:
        item = Dataset()
        item.PatientName = self.text(f"{tag:08X} > PatientName")
        item.CodeValue = self.text(f"{tag:08X} > CodeValue")
        item.CodingSchemeDesignator = "99LOCAL"
        item.CodeMeaning = self.text(f"{tag:08X} > CodeMeaning")
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.ReferencedSOPInstanceUID = self.value(0x00081155, "UI")
        return item

    def left_in(self, copy: bytes) -> list[str]:
        """Return where the markers were planted that stand in a copy's bytes, as they are or in UTF-16."""
        return [
            where
            for marker, where in self.markers.items()
            if marker in copy or marker.decode().encode("utf-16-le") in copy
        ]


def reading(number: int = 1, slices: int = 3) -> list[Dataset]:
    """Return a CT series, what is drawn on it, what is segmented in it, and what is said of it."""
    images = list(samples.ct_study(number, series=1, slices=slices, side=16))
    for image in images:
        image.StudyID = "7"
        image.AcquisitionDate = image.StudyDate
    return [*images, rt_structure_set(images), segmentation(images), structured_report(images)]


def encoded(data_set: Dataset, *, is_implicit: bool = False) -> bytes:
    """Return a Part 10 file."""
    data_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True, implicit_vr=is_implicit, little_endian=True)
    return buffer.getvalue()


def _derived(image: Dataset, sop_class: str, modality: str, number: int) -> Dataset:
    made = Dataset()
    for keyword in (
        *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
        *("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
    ):
        if keyword in image:
            made.add(image[keyword])
    made.SOPClassUID = UID(sop_class)
    made.SOPInstanceUID = UID(f"{image.SOPInstanceUID}.{number}"[:64])
    made.SeriesInstanceUID = UID(f"{image.SeriesInstanceUID}.{number}"[:64])
    made.Modality = modality
    made.SeriesNumber = str(90 + number)
    made.InstanceNumber = "1"
    made.Manufacturer = "dicomflow"
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def rt_structure_set(images: list[Dataset]) -> Dataset:
    """Return a structure set with one region, drawn on each image."""
    made = _derived(images[0], _RT_STRUCTURE_SET, "RTSTRUCT", 1)
    made.StructureSetLabel = "Plan of Zqwert"
    made.StructureSetDate, made.StructureSetTime = "20260131", "111500"
    frame = Dataset()
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = Sequence([_reference(image) for image in images])
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.RTReferencedStudySequence = Sequence([study])
    made.ReferencedFrameOfReferenceSequence = Sequence([frame])
    roi = Dataset()
    roi.ROINumber, roi.ReferencedFrameOfReferenceUID = "1", images[0].FrameOfReferenceUID
    roi.ROIName, roi.ROIGenerationAlgorithm = "liver Zqwert", "MANUAL"
    made.StructureSetROISequence = Sequence([roi])
    contour = Dataset()
    contour.ContourImageSequence = Sequence([_reference(images[0])])
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", "3"
    contour.ContourData = ["0", "0", "0", "5", "0", "0", "5", "5", "0"]
    drawn = Dataset()
    drawn.ROIDisplayColor, drawn.ReferencedROINumber = ["255", "0", "0"], "1"
    drawn.ContourSequence = Sequence([contour])
    made.ROIContourSequence = Sequence([drawn])
    seen = Dataset()
    seen.ObservationNumber, seen.ReferencedROINumber = "1", "1"
    seen.RTROIInterpretedType, seen.ROIInterpreter = "ORGAN", "Zqwert^Doctor"
    made.RTROIObservationsSequence = Sequence([seen])
    made.ApprovalStatus = "UNAPPROVED"
    return made


def segmentation(images: list[Dataset]) -> Dataset:
    """Return a segmentation with one segment, a frame an image."""
    made = _derived(images[0], _SEGMENTATION, "SEG", 2)
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    made.ManufacturerModelName, made.DeviceSerialNumber, made.SoftwareVersions = "model", "SN Zqwert 9", "1"
    made.ContentDate, made.ContentTime = "20260131", "113000"
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "SEG", "liver of Zqwert", "Zqwert^Doctor"
    made.PositionReferenceIndicator = ""
    made.SegmentationType, made.LossyImageCompression = "BINARY", "00"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    made.Rows = made.Columns = 16
    made.NumberOfFrames = str(len(images))
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = 1, "liver Zqwert", "MANUAL"
    segment.SegmentedPropertyCategoryCodeSequence = _code("123037004", "SCT", "Anatomical Zqwert")
    segment.SegmentedPropertyTypeCodeSequence = _code("10200004", "SCT", "Liver Zqwert")
    made.SegmentSequence = Sequence([segment])
    organization = Dataset()
    organization.DimensionOrganizationUID = UID("1.9.8.7.1")
    made.DimensionOrganizationSequence = Sequence([organization])
    index = Dataset()
    index.DimensionOrganizationUID = UID("1.9.8.7.1")
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00200032, 0x00209113
    made.DimensionIndexSequence = Sequence([index])
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = Sequence([_reference(image) for image in images])
    made.ReferencedSeriesSequence = Sequence([series])
    made.SharedFunctionalGroupsSequence = Sequence([_shared_groups(images[0])])
    made.PerFrameFunctionalGroupsSequence = Sequence([_frame_groups(image, n) for n, image in enumerate(images, 1)])
    made.PixelData = bytes(32 * len(images))
    made["PixelData"].VR = "OB"
    return made


def _shared_groups(image: Dataset) -> Dataset:
    group, orientation, measures, identified = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = image.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    identified.ReferencedSegmentNumber = 1
    group.PlaneOrientationSequence = Sequence([orientation])
    group.PixelMeasuresSequence = Sequence([measures])
    group.SegmentIdentificationSequence = Sequence([identified])
    return group


def _frame_groups(image: Dataset, number: int) -> Dataset:
    group, content, position, derivation = Dataset(), Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = number
    position.ImagePositionPatient = image.ImagePositionPatient
    source = _reference(image)
    source.PurposeOfReferenceCodeSequence = _code("121322", "DCM", "Source image for image processing operation")
    derivation.SourceImageSequence = Sequence([source])
    derivation.DerivationCodeSequence = _code("113076", "DCM", "Segmentation")
    group.FrameContentSequence = Sequence([content])
    group.PlanePositionSequence = Sequence([position])
    group.DerivationImageSequence = Sequence([derivation])
    return group


def structured_report(images: list[Dataset]) -> Dataset:
    """Return a comprehensive report: observer, finding, measurement, date, image and a text of each kind."""
    made = _derived(images[0], _COMPREHENSIVE_SR, "SR", 3)
    made.ContentDate, made.ContentTime = "20260131", "120000"
    made.CompletionFlag, made.VerificationFlag = "COMPLETE", "UNVERIFIED"
    made.PerformedProcedureCodeSequence = Sequence([])
    made.ReferencedPerformedProcedureStepSequence = Sequence([])
    evidence, series = Dataset(), Dataset()
    evidence.StudyInstanceUID = images[0].StudyInstanceUID
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedSOPSequence = Sequence([_reference(images[0])])
    evidence.ReferencedSeriesSequence = Sequence([series])
    made.CurrentRequestedProcedureEvidenceSequence = Sequence([evidence])
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = _code("126000", "DCM", "Imaging Measurement Report")
    made.ContentSequence = Sequence(list(_content(images[0])))
    return made


def _content(image: Dataset) -> Iterator[Dataset]:
    def item(value_type: str, code: tuple[str, str, str], relation: str = "CONTAINS", **values: Any) -> Dataset:
        made = Dataset()
        made.RelationshipType, made.ValueType = relation, value_type
        made.ConceptNameCodeSequence = _code(*code)
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    yield item("PNAME", ("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT", PersonName="Zqwert^Doctor")
    yield item("TEXT", ("121071", "DCM", "Finding"), TextValue="liver of Mr Zqwert is enlarged")
    yield item("TEXT", ("121106", "DCM", "Comment"), TextValue="Zqwert has called")
    yield item("TEXT", ("4711", "99LOCAL", "Note Zqwert"), TextValue="a note by Zqwert")
    yield item("DATE", ("111060", "DCM", "Study Date"), Date="20260131")
    yield item("UIDREF", ("110180", "DCM", "Study Instance UID"), UID=image.StudyInstanceUID)
    yield item("CODE", ("121058", "DCM", "Procedure reported"), ConceptCodeSequence=_code("1", "99LOCAL", "Zqwert"))
    yield item(
        "CODE", ("363698007", "SCT", "Site Zqwert"), ConceptCodeSequence=_code("10200004", "SCT", "Liver Zqwert")
    )
    measured = Dataset()
    measured.NumericValue = "42"
    measured.MeasurementUnitsCodeSequence = _code("mm", "UCUM", "millimeter")
    yield item("NUM", ("410668003", "SCT", "Length"), MeasuredValueSequence=Sequence([measured]))
    yield item("IMAGE", ("121233", "DCM", "Source image"), ReferencedSOPSequence=Sequence([_reference(image)]))
    nested = item("CONTAINER", ("125007", "DCM", "Measurement Group"), ContinuityOfContent="SEPARATE")
    nested.ContentSequence = Sequence([item("TEXT", ("121106", "DCM", "Comment"), TextValue="deep Zqwert")])
    yield nested
