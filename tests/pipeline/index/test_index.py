"""Events become index rows: any order, any number of times, on both databases."""

import datetime as dt
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from data_sets import identifying
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import Engine

from dicomflow.catalog.conflicts import list_problems
from dicomflow.catalog.report import count_everything
from dicomflow.catalog.tables import instance, metadata, patient, series, stored_object, study
from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.pipeline.index import IndexResult, index_objects
from dicomflow.pipeline.rebuild import rebuild_catalog

NOW = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)
DELIVERY = "6a1b7a52-6a6a-4c7e-9f39-0d1c8c1f2f11"


def test_index_one_object_fills_all_levels(engine: Engine, bucket: Any, rows: Any, counts: Any):
    """One image makes a patient, a study, a series, an instance and an object."""
    event = bucket.put_instance(
        StudyDate="20261101", StudyTime="101112.5", SeriesNumber="4", PatientBirthDate="19700102", Rows=512
    )
    assert IndexResult(indexed=1, problems=0, failed={}) == bucket.index(engine)
    assert [1, 1, 1, 1, 1] == counts(engine)
    assert [("123", "site", "Demo^Patient", dt.date(1970, 1, 2))] == rows(
        engine, patient, "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date"
    )
    assert [(dt.date(2026, 11, 1), dt.time(10, 11, 12, 500000))] == rows(engine, study, "study_date", "study_time")
    assert [(4, "CT")] == rows(engine, series, "series_number", "modality")
    assert [(512, event.key, event.size_bytes, ExplicitVRLittleEndian)] == rows(
        engine, instance, "rows", "object_key", "bytes", "transfer_syntax_uid"
    )
    assert [(event.key, "site", DELIVERY, NOW, None, None, "1.2.3.1")] == rows(
        engine,
        stored_object,
        *("object_key", "edge", "delivery_id", "indexed_at", "problem", "sha256", "sop_instance_uid"),
    )


def test_replayed_batch_changes_no_count(engine: Engine, bucket: Any, counts: Any, contents: Any):
    """A batch that comes again leaves every row as it was."""
    for number in range(5):
        bucket.put_instance(f"1.2.3.{number}")
    bucket.index(engine)
    before = contents(engine)
    bucket.index(engine, bucket.events * 2)
    assert before == contents(engine)
    assert [1, 1, 1, 5, 5] == counts(engine)


def test_events_in_any_order_and_twice_give_the_same_rows(engine: Engine, bucket: Any, contents: Any):
    """The catalog is a function of the objects: not of order, batches or repeats."""
    chance = random.Random(3)
    for number in range(60):
        bucket.put_instance(
            f"1.2.3.{number // 2}",
            edge=f"site{number % 2}",
            StudyInstanceUID=f"1.2.{number % 4}",
            SeriesInstanceUID=f"1.2.{number % 4}.0",
            StudyDescription=f"description {number}",
            PatientID=f"{number % 3}",
            PatientName=f"Demo^{number}",
            StudyDate=f"202001{number % 9 + 1:02}",
        )
    bucket.index(engine)
    expected = contents(engine)
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    shuffled = bucket.events * 2
    chance.shuffle(shuffled)
    for start in range(0, len(shuffled), 7):
        bucket.index(engine, shuffled[start : start + 7])
    assert expected == contents(engine)


def test_concurrent_first_objects_make_one_patient_study_and_series(engine: Engine, bucket: Any, counts: Any):
    """Batches at work at once neither deadlock nor make anybody twice."""
    for number in range(80):
        bucket.put_instance(f"1.2.3.{number}", SeriesInstanceUID=f"1.2.3.0.{number % 4}")
    barrier = threading.Barrier(8)

    def work(part: int) -> IndexResult:
        barrier.wait()
        return bucket.index(engine, bucket.events[part::8] + bucket.events[::9])

    with ThreadPoolExecutor(8) as threads:
        assert all(not result.failed for result in threads.map(work, range(8)))
    assert [1, 1, 4, 80, 80] == counts(engine)


def test_configured_issuer_makes_two_edges_one_site(engine: Engine, bucket: Any, rows: Any):
    """Two edges of one hospital can share its issuer."""
    bucket.put_instance("1.1", StudyInstanceUID="1", edge="north")
    bucket.put_instance("2.1", StudyInstanceUID="2", SeriesInstanceUID="2.0", edge="south")
    index_objects(engine, bucket.store, bucket.events, issuers={"north": "hospital", "south": "hospital"})
    assert [("hospital", "123")] == rows(engine, patient, "issuer_of_patient_id", "patient_id")


@pytest.mark.parametrize(
    ("issuers", "issuer"),
    [
        ({}, "site"),
        ({"site": "hospital"}, "hospital"),
        ({"site": "hospital", "site/CT1": "radiology"}, "radiology"),
        ({"site": "hospital", "site/MR1": "radiology", "other/CT1": "other"}, "hospital"),
    ],
)
def test_configured_issuer_of_the_calling_ae_title_goes_before_the_edges(
    engine: Engine, bucket: Any, rows: Any, issuers: dict[str, str], issuer: str
):
    """Several sites behind one edge are told apart by who calls, as the object's file meta information says."""
    event = bucket.put_instance()
    encoded = (bucket.folder / event.key).read_bytes()
    data_set = encoded[encoded.index(b"\x08\x00\x16\x00UI") :]
    meta = encode_file_meta(CTImageStorage, "1.2.3.1", ExplicitVRLittleEndian, "CT1", "DICOMFLOW")
    bucket.put(event.key, meta + data_set)
    index_objects(engine, bucket.store, [event], issuers=issuers)
    assert [(issuer,)] == rows(engine, patient, "issuer_of_patient_id")


@pytest.mark.parametrize(
    ("character_sets", "name"),
    [
        ({}, "\xcd\xf5"),
        ({"site": "GBK"}, "\u738b"),
        ({"site": "ISO_IR 144", "site/CT1": "GBK"}, "\u738b"),
        ({"other": "GBK", "site/MR1": "GBK"}, "\xcd\xf5"),
    ],
)
def test_character_set_of_a_silent_device_is_its_sites(
    engine: Engine, bucket: Any, rows: Any, character_sets: dict[str, str], name: str
):
    """By who calls, then by edge; in a rebuild as from the event; what is a guess keeps its bytes."""
    event = bucket.put_instance(SpecificCharacterSet=None, PatientName="XX")
    encoded = (bucket.folder / event.key).read_bytes()
    data_set = encoded[encoded.index(b"\x08\x00\x16\x00UI") :].replace(b"XX", "\u738b".encode("gbk"))
    meta = encode_file_meta(CTImageStorage, "1.2.3.1", ExplicitVRLittleEndian, "CT1", "DICOMFLOW")
    bucket.put(event.key, meta + data_set)
    index_objects(engine, bucket.store, [event], character_sets=character_sets)
    raw = None if name == "\u738b" else {"PatientName": "\\xcd\\xf5"}
    assert [(name, raw)] == rows(engine, patient, "patient_name", "raw_values")
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    rebuild_catalog(engine, bucket.store, "dicom", issuers={}, character_sets=character_sets)
    assert [(name, raw)] == rows(engine, patient, "patient_name", "raw_values")


def test_encoding_that_is_not_the_declared_one_is_a_problem_of_an_indexed_object(
    engine: Engine, bucket: Any, rows: Any
):
    """It is found by its UIDs, listed with its problem, and not counted as unreadable."""
    meta = encode_file_meta(CTImageStorage, "1.2.3.4", ExplicitVRLittleEndian, "CT1", "DICOMFLOW")
    bucket.put("site/d/1.2.5/1.2.6/1.2.3.4.dcm", meta + identifying(ImplicitVRLittleEndian))
    assert 1 == bucket.index(engine).indexed
    (found,) = rows(engine, stored_object, "sop_instance_uid", "problem")
    assert ("1.2.3.4", True) == (found[0], "in Implicit VR" in found[1])
    with engine.connect() as connection:
        assert [found[1]] == [each.reason for each in list_problems(connection)]
    assert 0 == count_everything(engine)["unreadable"]


def test_empty_dates_and_times_become_null(engine: Engine, bucket: Any, rows: Any):
    """An empty value is no value."""
    bucket.put_instance(StudyDate="", StudyTime="", AcquisitionDateTime="", InstanceNumber="")
    bucket.index(engine)
    assert [(None, None, None)] == rows(engine, study, "study_date", "study_time", "raw_values")
    assert [(None, None, None)] == rows(engine, instance, "acquisition_date_time", "instance_number", "raw_values")


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_unparsable_values_are_null_with_the_raw_text_kept(
    engine: Engine, bucket: Any, rows: Any, encode_data_set: Any
):
    """What is no date or number stays readable for people."""
    data_set = dcmread(io.BytesIO((bucket.folder / bucket.put_instance().key).read_bytes()))
    encoded = encode_with(
        encode_data_set, data_set, StudyDate=b"2026-11-", InstanceNumber=b"five", SeriesTime=b"256099"
    )
    bucket.index(engine, [bucket.put("site/x/1/2/3.dcm", encoded)])
    assert [(None, {"StudyDate": "2026-11-"})] == rows(engine, study, "study_date", "raw_values")
    assert [(None, {"SeriesTime": "256099"})] == rows(engine, series, "series_time", "raw_values")
    assert [(None, {"InstanceNumber": "five"})] == rows(engine, instance, "instance_number", "raw_values")


def encode_with(encode_data_set: Any, data_set: Dataset, **raw: bytes) -> bytes:
    """Encode a data set with values that pydicom would not write: each goes in as long as another that it replaces."""
    for keyword, value in raw.items():
        placeholder = {"StudyDate": "20000101", "SeriesTime": "000000"}.get(keyword, "1234")
        setattr(data_set, keyword, placeholder[: len(value)])
    encoded = bytearray(encode_data_set(data_set))
    for keyword, value in raw.items():
        tag = data_set.data_element(keyword).tag
        start = encoded.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")) + 8
        encoded[start : start + len(value)] = value
    return bytes(encoded)


def test_multi_valued_attributes_keep_their_values(engine: Engine, bucket: Any, rows: Any):
    """Several values are a JSON list, in order and of their type."""
    bucket.put_instance(
        ImageType=["ORIGINAL", "PRIMARY", "", "AXIAL"], PixelSpacing=["0.5", "0.25"], ModalitiesInStudy=["CT", "SR"]
    )
    bucket.index(engine)
    assert [(["ORIGINAL", "PRIMARY", "", "AXIAL"], [0.5, 0.25])] == rows(
        engine, instance, "image_type", "pixel_spacing"
    )
    assert [(["CT", "SR"],)] == rows(engine, study, "modalities_in_study")


def test_sequences_are_kept_as_dicom_json(engine: Engine, bucket: Any, rows: Any):
    """A sequence is its DICOM JSON."""
    code = Dataset()
    code.CodeValue = "T-A0100"
    code.CodeMeaning = "Brain"
    bucket.put_instance(AnatomicRegionSequence=[code])
    bucket.index(engine)
    expected = {"00080100": {"vr": "SH", "Value": ["T-A0100"]}, "00080104": {"vr": "LO", "Value": ["Brain"]}}
    assert [([expected],)] == rows(engine, instance, "anatomic_region_sequence")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("chrGerm.dcm", "Äneas^Rüdiger"),
        ("chrH31.dcm", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("chrI2.dcm", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("chrX1.dcm", "Wang^XiaoDong=王^小東"),
        ("chrX2.dcm", "Wang^XiaoDong=王^小东"),
        ("chrArab.dcm", "قباني^لنزار"),
    ],
)
def test_names_in_other_character_sets_are_decoded(engine: Engine, bucket: Any, file: str, name: str, rows: Any):
    """Names are text that people can search, whatever the object's character set."""
    bucket.put("a.dcm", Path(get_charset_files(file)[0]).read_bytes())
    bucket.index(engine)
    assert [(name,)] == rows(engine, patient, "patient_name")


def test_long_values_are_whole_and_hide_no_object(engine: Engine, bucket: Any, rows: Any, problems: Any):
    """Nothing is cut: long text is held; without an identity too long for a key the object is found by all else."""
    comments = "long " * 10_000 + "end"
    bucket.put_instance("1.2.3.1", ImageComments=comments[:10240])
    long_id = bucket.put_instance("1.2.3.2")
    encoded = (bucket.folder / long_id.key).read_bytes()
    encoded = encoded.replace(b"LO\x04\x00123 ", b"LO" + (300).to_bytes(2, "little") + b"9" * 300)
    bucket.put(long_id.key, encoded)
    assert IndexResult(2, 0, {}) == bucket.index(engine)
    assert {(comments[:10240].strip(),), (None,)} == set(rows(engine, instance, "image_comments"))
    assert ["PatientID (0010,0020) of 300 characters exceeds 256: indexed without it"] == problems(engine)
    assert {"PatientID": "9" * 300} in [raw for (raw,) in rows(engine, patient, "raw_values")]
