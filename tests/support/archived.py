"""Generated studies of invented people in a catalog and its store, for whoever asks an archive."""

import io
import random
from collections.abc import Iterable, Sequence
from typing import Any

import obstore
from obstore.store import ObjectStore
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine

from dicomflow.bucket.keys import instance_key
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects

__all__ = ["CT", "MR", "SR", "a_study", "as_file", "fill", "invented_studies"]

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SR = "1.2.840.10008.5.1.4.1.1.88.11"
_CLASSES = {"CT": CT, "MR": MR, "SR": SR}
_NAMES = (
    "Invented^Anna Maria",
    "INVENTED^HANS",
    "Inventéd^Seán",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Demo^O'Brien-Łoś",
    "Demo",
    "",
    "de la Demo^José^^Dr.",
)


def a_study(number: int, *series: tuple[str, int], **values: Any) -> list[Dataset]:
    """Return the objects of one study: of each series its modality and how many; keywords are the study's."""
    study_uid = f"1.2.826.0.1.{number}"
    found = []
    for at, (modality, count) in enumerate(series, 1):
        for image in range(1, count + 1):
            data_set = Dataset()
            data_set.SpecificCharacterSet = "ISO_IR 192"
            data_set.SOPClassUID = _CLASSES.get(modality, CT)
            data_set.SOPInstanceUID = f"{study_uid}.{at}.{image}"
            data_set.StudyInstanceUID = study_uid
            data_set.SeriesInstanceUID = f"{study_uid}.{at}"
            data_set.PatientID = f"P{number}"
            data_set.Modality = modality
            data_set.SeriesNumber = at
            data_set.InstanceNumber = image
            for keyword, value in values.items():
                setattr(data_set, keyword, value)
            if modality != "SR":
                data_set.Rows = data_set.Columns = 2
                data_set.BitsAllocated = 8
                data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 8, 7, 0
                data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
                data_set.PixelSpacing = ["0.5", "0.25"]
                data_set.PixelData = bytes(4)
            found.append(data_set)
    return found


def invented_studies(count: int, seed: int = 0) -> list[Dataset]:
    """Return the objects of so many studies, of people who have names, dates and numbers of all kinds, or none."""
    source = random.Random(seed)
    found: list[Dataset] = []
    for number in range(1, count + 1):
        patient_id = source.choice([f"P{number:03}", f"P{number % 7:03}", f"p{number:03}", "Ü-1_%", ""])
        person = random.Random(patient_id or number)  # who has one number is one person
        values: dict[str, Any] = {
            "PatientID": patient_id,
            "PatientName": person.choice(_NAMES),
            "PatientSex": person.choice(["M", "F", "O", ""]),
            "PatientBirthDate": person.choice(["19600101", "19701231", ""]),
            "StudyDate": source.choice([f"2026{source.randint(1, 12):02}{source.randint(1, 28):02}", ""]),
            "StudyTime": source.choice(["0930", f"{source.randint(0, 23):02}15{source.randint(0, 59):02}.25", ""]),
            "AccessionNumber": source.choice([f"A{number}", f"A{number}*", "a%_1", ""]),
            "StudyID": source.choice([str(number), "0007", ""]),
            "StudyDescription": source.choice(["CT chest", "ct Chest", "Mrt [Knie] 100 %", "", "Übersicht"]),
            "ReferringPhysicianName": source.choice(["Hidden^Ärztin", "HIDDEN^ARZTIN", ""]),
        }
        if source.random() < 0.4:
            values["ProcedureCodeSequence"] = [_code(source), _code(source)]
        series = [(source.choice(["CT", "MR", "SR"]), source.randint(1, 3)) for _ in range(source.choice([1, 2, 3]))]
        found += a_study(number, *series, **values)
    for data_set in found:
        _vary(data_set, source)
    return found


def _code(source: random.Random) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodeMeaning = source.choice([("T-D1100", "Head"), ("T-D3000", "Chest"), ("T-D3000", "Head")])
    code.CodingSchemeDesignator = "SRT"
    return code


def _vary(data_set: Dataset, source: random.Random) -> None:
    series = random.Random(data_set.SeriesInstanceUID)
    if series.random() < 0.7:
        data_set.SeriesDescription = series.choice(["Thorax 1.0", "thorax 5.0", "T1*"])
    if source.random() < 0.5:
        data_set.ImageType = source.choice([["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "MIP"]])
    if source.random() < 0.5:
        data_set.AcquisitionDateTime = source.choice(["20260101120000+0100", "20260101", "202603021530", ""])


def as_file(data_set: Dataset) -> bytes:
    """Return an object as a Part 10 file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    data_set.file_meta = meta
    data_set.save_as(file, enforce_file_format=True)
    return file.getvalue()


def fill(engine: Engine, store: ObjectStore, data_sets: Iterable[Dataset | bytes]) -> Sequence[str]:
    """Store and index objects, as a delivery of an edge would; return their keys."""
    keys = []
    for each in data_sets:
        encoded = each if isinstance(each, bytes) else as_file(each)
        told = dcmread(io.BytesIO(encoded), stop_before_pixels=True)
        key = instance_key("edge", "delivery", told.StudyInstanceUID, told.SeriesInstanceUID, told.SOPInstanceUID)
        obstore.put(store, key, encoded)
        keys.append(key)
    events = [StoredObjectEvent(str(number), "bucket", key) for number, key in enumerate(keys)]
    result = index_objects(engine, store, events)
    assert (len(set(keys)), 0, {}) == (result.indexed, result.problems, result.failed)
    return keys
