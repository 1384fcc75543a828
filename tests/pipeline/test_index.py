"""Events become index rows: any order, any number of times, on both databases."""

import datetime as dt
import io
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, S3Store
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from sqlalchemy import Engine, Row, func, select
from sqlalchemy.exc import DBAPIError

from dicomflow.catalog.engine import begin_read, create_engine_for
from dicomflow.catalog.tables import instance, metadata, patient, series, stored_object, study
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import IndexResult, index_objects

NOW = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)
DELIVERY = "6a1b7a52-6a6a-4c7e-9f39-0d1c8c1f2f11"


class Bucket:
    """A folder as a bucket, and the events of what was put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalStore(folder)
        self.events: list[StoredObjectEvent] = []

    def put(self, key: str, data: bytes) -> StoredObjectEvent:
        """Put an object and return its event."""
        obstore.put(self.store, key, data)
        event = StoredObjectEvent(f"message {len(self.events)}", "dicom", key, len(data))
        self.events.append(event)
        return event

    def put_instance(self, uid: str = "1.2.3.1", *, edge: str = "site", **attributes: Any) -> StoredObjectEvent:
        """Put a small CT image; keyword arguments are its attributes, None leaves one out."""
        data_set = Dataset()
        values = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": uid,
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.3.0",
            "PatientID": "123",
            "PatientName": "Demo^Patient",
            "Modality": "CT",
        }
        for keyword, value in (values | attributes).items():
            if value is not None:
                setattr(data_set, keyword, value)
        parts = (data_set.get("StudyInstanceUID", "0"), data_set.get("SeriesInstanceUID", "0"), uid)
        return self.put(f"{edge}/{DELIVERY}/{'/'.join(parts)}.dcm", encode(data_set))

    def index(self, engine: Engine, events: list[StoredObjectEvent] | None = None) -> IndexResult:
        """Index these events, or all."""
        return index_objects(engine, self.store, self.events if events is None else events, clock=lambda: NOW)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """Give an empty bucket."""
    folder = tmp_path / "objects"
    folder.mkdir()
    return Bucket(folder)


def encode(data_set: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Encode a data set as a Part 10 file."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = transfer_syntax
    data_set.file_meta.MediaStorageSOPClassUID = data_set.get("SOPClassUID", CTImageStorage)
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.get("SOPInstanceUID", "1.2")
    encoded = io.BytesIO()
    data_set.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


def rows(engine: Engine, table: Any, *columns: str) -> list[Row[Any]]:
    """Return a table's rows, sorted."""
    with begin_read(engine) as connection:
        found = connection.execute(select(*(table.c[name] for name in columns) if columns else [table])).all()
    return sorted(found, key=repr)


def counts(engine: Engine) -> list[int]:
    """Return the number of patients, studies, series, instances and objects."""
    tables = (patient, study, series, instance, stored_object)
    with begin_read(engine) as connection:
        return [connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def contents(engine: Engine) -> dict[str, list[list[Any]]]:
    """Return all rows without what the order of writing decides: the surrogate keys, replaced by what they name."""
    uid_of: dict[str, dict[int, str]] = {"": {}}
    found = {}
    names = {patient: "patient_id", study: "study_instance_uid", series: "series_instance_uid"}
    for table in (patient, study, series, instance, stored_object):
        key, parents = table.name + "_key", {"study": "patient", "series": "study", "instance": "series"}
        table_rows = [row._asdict() for row in rows(engine, table)]
        if table in names:
            uid_of[key] = {row[key]: row[names[table]] for row in table_rows}
        parent = parents.get(table.name, "") + "_key"
        for row in table_rows:
            row.pop(key, None)
            if parent in row:
                row[parent] = uid_of[parent][row[parent]]
        found[table.name] = sorted(map(repr, table_rows))
    return found


def test_index_one_object_fills_all_levels(engine: Engine, bucket: Bucket):
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


def test_replayed_batch_changes_no_count(engine: Engine, bucket: Bucket):
    """A batch that comes again leaves every row as it was."""
    for number in range(5):
        bucket.put_instance(f"1.2.3.{number}")
    bucket.index(engine)
    before = contents(engine)
    bucket.index(engine, bucket.events * 2)
    assert before == contents(engine)
    assert [1, 1, 1, 5, 5] == counts(engine)


def test_events_in_any_order_and_twice_give_the_same_rows(engine: Engine, bucket: Bucket):
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


def test_concurrent_first_objects_make_one_patient_study_and_series(engine: Engine, bucket: Bucket):
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


def test_configured_issuer_makes_two_edges_one_site(engine: Engine, bucket: Bucket):
    """Two edges of one hospital can share its issuer."""
    bucket.put_instance("1.1", StudyInstanceUID="1", edge="north")
    bucket.put_instance("2.1", StudyInstanceUID="2", SeriesInstanceUID="2.0", edge="south")
    index_objects(engine, bucket.store, bucket.events, issuers={"north": "hospital", "south": "hospital"})
    assert [("hospital", "123")] == rows(engine, patient, "issuer_of_patient_id", "patient_id")


def test_empty_dates_and_times_become_null(engine: Engine, bucket: Bucket):
    """An empty value is no value."""
    bucket.put_instance(StudyDate="", StudyTime="", AcquisitionDateTime="", InstanceNumber="")
    bucket.index(engine)
    assert [(None, None, None)] == rows(engine, study, "study_date", "study_time", "raw_values")
    assert [(None, None, None)] == rows(engine, instance, "acquisition_date_time", "instance_number", "raw_values")


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_unparsable_values_are_null_with_the_raw_text_kept(engine: Engine, bucket: Bucket):
    """What is no date or number stays readable for people."""
    data_set = dcmread(io.BytesIO((bucket.folder / bucket.put_instance().key).read_bytes()))
    encoded = encode_with(data_set, StudyDate=b"2026-11-", InstanceNumber=b"five", SeriesTime=b"256099")
    bucket.index(engine, [bucket.put("site/x/1/2/3.dcm", encoded)])
    assert [(None, {"StudyDate": "2026-11-"})] == rows(engine, study, "study_date", "raw_values")
    assert [(None, {"SeriesTime": "256099"})] == rows(engine, series, "series_time", "raw_values")
    assert [(None, {"InstanceNumber": "five"})] == rows(engine, instance, "instance_number", "raw_values")


def encode_with(data_set: Dataset, **raw: bytes) -> bytes:
    """Encode a data set with values that pydicom would not write: each goes in as long as another that it replaces."""
    for keyword, value in raw.items():
        placeholder = {"StudyDate": "20000101", "SeriesTime": "000000"}.get(keyword, "1234")
        setattr(data_set, keyword, placeholder[: len(value)])
    encoded = bytearray(encode(data_set))
    for keyword, value in raw.items():
        tag = data_set.data_element(keyword).tag
        start = encoded.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")) + 8
        encoded[start : start + len(value)] = value
    return bytes(encoded)


def test_multi_valued_attributes_keep_their_values(engine: Engine, bucket: Bucket):
    """Several values are a JSON list, in order and of their type."""
    bucket.put_instance(
        ImageType=["ORIGINAL", "PRIMARY", "", "AXIAL"], PixelSpacing=["0.5", "0.25"], ModalitiesInStudy=["CT", "SR"]
    )
    bucket.index(engine)
    assert [(["ORIGINAL", "PRIMARY", "", "AXIAL"], [0.5, 0.25])] == rows(
        engine, instance, "image_type", "pixel_spacing"
    )
    assert [(["CT", "SR"],)] == rows(engine, study, "modalities_in_study")


def test_sequences_are_kept_as_dicom_json(engine: Engine, bucket: Bucket):
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
def test_names_in_other_character_sets_are_decoded(engine: Engine, bucket: Bucket, file: str, name: str):
    """Names are text that people can search, whatever the object's character set."""
    bucket.put("a.dcm", Path(get_charset_files(file)[0]).read_bytes())
    bucket.index(engine)
    assert [(name,)] == rows(engine, patient, "patient_name")


def test_long_values_are_whole_or_refused_with_their_tag(engine: Engine, bucket: Bucket):
    """Nothing is cut: long text is held, an identity too long for a key is a problem that names its tag."""
    comments = "long " * 10_000 + "end"
    bucket.put_instance("1.2.3.1", ImageComments=comments[:10240])
    long_id = bucket.put_instance("1.2.3.2")
    encoded = (bucket.folder / long_id.key).read_bytes()
    encoded = encoded.replace(b"LO\x04\x00123 ", b"LO" + (300).to_bytes(2, "little") + b"9" * 300)
    bucket.put(long_id.key, encoded)
    assert IndexResult(1, 1, {}) == bucket.index(engine)
    assert [(comments[:10240].strip(),)] == rows(engine, instance, "image_comments")
    assert ["PatientID (0010,0020) of 300 characters exceeds 256"] == problems(engine)


def problems(engine: Engine) -> list[str]:
    """Return the recorded reasons."""
    return [row.problem for row in rows(engine, stored_object, "problem") if row.problem]


def test_non_dicom_object_is_recorded_and_fails_nothing(engine: Engine, bucket: Bucket):
    """What is no DICOM is a row with its reason, and the rest of the batch is indexed."""
    bucket.put("site/report.pdf", b"%PDF-1.7" * 40)
    bucket.put("site/empty.dcm", b"")
    bucket.put_instance()
    bucket.put_instance("1.2.3.9", StudyInstanceUID=None)
    missing = StoredObjectEvent("gone", "dicom", "site/gone.dcm", 5)
    outside = StoredObjectEvent("outside", "dicom", "../../etc/passwd", 5)
    assert IndexResult(1, 5, {}) == bucket.index(engine, [*bucket.events, missing, outside])
    assert [
        "no Part 10 file: 'DICM' does not stand at offset 128",
        "no StudyInstanceUID (0020,000D)",
        "the key is no path that the store can hold",
        "the object is empty",
        "the object is not in the store",
    ] == sorted(problems(engine))
    assert [1, 1, 1, 1, 6] == counts(engine)


def test_object_repaired_after_a_problem_loses_it(engine: Engine, bucket: Bucket):
    """A problem goes when its object can be indexed, and a lost object keeps what was indexed of it."""
    event = bucket.put_instance()
    good = (bucket.folder / event.key).read_bytes()
    bucket.put(event.key, b"broken" * 40)
    bucket.index(engine)
    assert 1 == len(problems(engine))
    bucket.put(event.key, good)
    bucket.index(engine)
    assert [] == problems(engine)
    (bucket.folder / event.key).unlink()
    bucket.index(engine)
    assert [] == problems(engine)
    assert [1, 1, 1, 1, 1] == counts(engine)


def test_manifests_and_import_output_are_passed_over(engine: Engine, bucket: Bucket):
    """Our own objects and the service's are no problems."""
    bucket.put("manifests/site/x.json", b"{}")
    bucket.put("imports/1/job-output-manifest.json", b"{}")
    assert IndexResult(0, 0, {}) == bucket.index(engine)
    assert [0, 0, 0, 0, 0] == counts(engine)


@pytest.fixture
def failing_s3(bucket: Bucket) -> Iterator[S3Store]:
    """Serve the bucket over HTTP as S3 does, but for keys with `unavailable` in them, which are answered 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = bucket.folder / self.path.removeprefix("/dicom/")
            if "unavailable" in self.path or not path.exists():
                self.send_response(503 if "unavailable" in self.path else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, stop = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            part = path.read_bytes()[start : stop + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{path.stat().st_size}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Last-Modified", "Sun, 01 Nov 2026 12:00:00 GMT")
            self.send_header("ETag", '"x"')
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield S3Store(
        "dicom",
        endpoint=f"http://127.0.0.1:{server.server_port}",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        access_key_id="x",
        secret_access_key="x",
        region="us-east-1",
    )
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_bad_record_fails_alone(engine: Engine, bucket: Bucket, failing_s3: S3Store):
    """What the store does not give now is tried again, what it has not is a problem, and the rest is indexed."""
    bucket.put_instance("1.2.3.1")
    bad = [StoredObjectEvent(f"m{number}", "dicom", f"site/unavailable{number}.dcm", 5) for number in range(2)]
    gone = StoredObjectEvent("gone", "dicom", "site/gone.dcm", 5)
    result = index_objects(engine, failing_s3, [bad[0], *bucket.events, gone, bad[1]])
    assert (1, 1, {"m0", "m1"}) == (result.indexed, result.problems, set(result.failed))
    assert ["the object is not in the store"] == problems(engine)


def test_database_error_is_raised_not_printed(tmp_path: Path, bucket: Bucket):
    """A batch that the database did not take is not reported as done."""
    bucket.put_instance()
    engine = create_engine_for(f"sqlite:///{tmp_path / 'without-tables.db'}")
    with pytest.raises(DBAPIError):
        bucket.index(engine)
    engine.dispose()


@pytest.mark.parametrize("size_bytes", [100_000, 3_000_000])
def test_attributes_beyond_the_first_read_are_found(engine: Engine, bucket: Bucket, size_bytes: int):
    """A long private element in front of an attribute costs another read, not the attribute."""
    data_set = Dataset()
    data_set.private_block(0x0009, "TEST", create=True).add_new(1, "OB", bytes(size_bytes))
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1", "2", "3"
    data_set.Rows = 77
    bucket.put("a.dcm", encode(data_set))
    assert IndexResult(1, 0, {}) == bucket.index(engine)
    assert [(77,)] == rows(engine, instance, "rows")


def test_deflated_object_is_indexed(engine: Engine, bucket: Bucket):
    """A deflated data set is inflated."""
    data_set = Dataset()
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1", "2", "3"
    data_set.Rows = 77
    bucket.put("a.dcm", encode(data_set, DeflatedExplicitVRLittleEndian))
    assert IndexResult(1, 0, {}) == bucket.index(engine)
    assert [(77,)] == rows(engine, instance, "rows")


def test_header_read_is_bounded_for_a_gigabyte_object(engine: Engine, bucket: Bucket, memory_limit: Callable[[], None]):
    """An object of any size costs the same memory, wherever in it the attributes stand."""
    data_set = Dataset()
    data_set.private_block(0x0009, "TEST", create=True).add_new(1, "OB", b"\0\0")
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1", "2", "3"
    encoded = encode(data_set)
    value = encoded.index(b"\x09\x00\x01\x10OB\0\0") + 8
    gigabyte = 1 << 30
    path = bucket.folder / "a.dcm"
    with path.open("wb") as file:
        file.write(encoded[:value] + gigabyte.to_bytes(4, "little"))
        file.seek(value + 4 + gigabyte)
        file.write(encoded[value + 6 :])
    event = StoredObjectEvent("m", "dicom", "a.dcm", path.stat().st_size)
    memory_limit()
    assert IndexResult(1, 0, {}) == bucket.index(engine, [event])


@pytest.fixture
def memory_limit() -> Any:
    """Give a function after whose call Python may not allocate 64 MiB more by the end of the test."""
    import tracemalloc

    yield tracemalloc.start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20, f"{peak:,} bytes at the peak"
