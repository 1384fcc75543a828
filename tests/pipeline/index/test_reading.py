"""Objects of any kind and size are read from any store, and what cannot be read fails alone."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from dicomflow.catalog.engine import create_engine_for
from dicomflow.catalog.tables import instance
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import IndexResult, index_objects

NOW = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)
DELIVERY = "6a1b7a52-6a6a-4c7e-9f39-0d1c8c1f2f11"


def test_non_dicom_object_is_recorded_and_fails_nothing(engine: Engine, bucket: Any, counts: Any, problems: Any):
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


def test_object_repaired_after_a_problem_loses_it(engine: Engine, bucket: Any, counts: Any, problems: Any):
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


def test_manifests_and_import_output_are_passed_over(engine: Engine, bucket: Any, counts: Any):
    """Our own objects and the service's are no problems."""
    bucket.put("manifests/site/x.json", b"{}")
    bucket.put("imports/1/job-output-manifest.json", b"{}")
    assert IndexResult(0, 0, {}) == bucket.index(engine)
    assert [0, 0, 0, 0, 0] == counts(engine)


@pytest.fixture
def failing_s3(bucket: Any) -> Iterator[S3Store]:
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


def test_one_bad_record_fails_alone(engine: Engine, bucket: Any, failing_s3: S3Store, problems: Any):
    """What the store does not give now is tried again, what it has not is a problem, and the rest is indexed."""
    bucket.put_instance("1.2.3.1")
    bad = [StoredObjectEvent(f"m{number}", "dicom", f"site/unavailable{number}.dcm", 5) for number in range(2)]
    gone = StoredObjectEvent("gone", "dicom", "site/gone.dcm", 5)
    result = index_objects(engine, failing_s3, [bad[0], *bucket.events, gone, bad[1]])
    assert (1, 1, {"m0", "m1"}) == (result.indexed, result.problems, set(result.failed))
    assert ["the object is not in the store"] == problems(engine)


def test_database_error_is_raised_not_printed(tmp_path: Path, bucket: Any):
    """A batch that the database did not take is not reported as done."""
    bucket.put_instance()
    engine = create_engine_for(f"sqlite:///{tmp_path / 'without-tables.db'}")
    with pytest.raises(DBAPIError):
        bucket.index(engine)
    engine.dispose()


@pytest.mark.parametrize("size_bytes", [100_000, 3_000_000])
def test_attributes_beyond_the_first_read_are_found(
    engine: Engine, bucket: Any, size_bytes: int, rows: Any, encode_data_set: Any
):
    """A long private element in front of an attribute costs another read, not the attribute."""
    data_set = Dataset()
    data_set.private_block(0x0009, "TEST", create=True).add_new(1, "OB", bytes(size_bytes))
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1", "2", "3"
    data_set.Rows = 77
    bucket.put("a.dcm", encode_data_set(data_set))
    assert IndexResult(1, 0, {}) == bucket.index(engine)
    assert [(77,)] == rows(engine, instance, "rows")


def test_deflated_object_is_indexed(engine: Engine, bucket: Any, rows: Any, encode_data_set: Any):
    """A deflated data set is inflated."""
    data_set = Dataset()
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1", "2", "3"
    data_set.Rows = 77
    bucket.put("a.dcm", encode_data_set(data_set, DeflatedExplicitVRLittleEndian))
    assert IndexResult(1, 0, {}) == bucket.index(engine)
    assert [(77,)] == rows(engine, instance, "rows")


def test_header_read_is_bounded_for_a_gigabyte_object(
    engine: Engine, bucket: Any, memory_limit: Callable[[], None], encode_data_set: Any
):
    """An object of any size costs the same memory, wherever in it the attributes stand."""
    data_set = Dataset()
    data_set.private_block(0x0009, "TEST", create=True).add_new(1, "OB", b"\0\0")
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1", "2", "3"
    encoded = encode_data_set(data_set)
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
