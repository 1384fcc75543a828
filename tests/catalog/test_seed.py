"""The AWS sample's tables and columns, over our catalog, on both databases: every question its users' programs ask."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text

from dicomflow.catalog.buckets import remember_bucket
from dicomflow.catalog.engine import migrate
from dicomflow.catalog.index import IndexedObject
from dicomflow.catalog.report import create_read_only_engine, run_read_only
from dicomflow.catalog.seed import SCHEMA
from dicomflow.catalog.tables import image_set, import_job, series_image_set, series_import

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
# The columns of the sample's tables, and of its view, in their order.
COLUMNS = {
    "Ahlidatastore": "datastoreid ahlidatastoreid ahlidatastorename ahlidatastorearn",
    "Ahlijob": "jobid importjobid ahlidatastoreid status importlocation resultlocation submittedat endedat insertedat",
    "Ahliimageset": "seriesid imagesetid datastoreid",
    "Instance": "instanceid seriesid d00080012 d00080008 d00080013 d00080016 d00080018 d00200013 d00200037 d00200032"
    " d00080032 d00080022 d00080023 d00082218 d00200012 d00200020 d00204000 d00080301 d00280302 d20500020 d00880200"
    " d00280002 d00280004 d00280010 d00280011 d00280100 d00280102 d00280103 d00281052 d00281053",
    "Instancelocation": "locationid instanceid bucketname region filekey",
    "Patient": "patientid d00100010 d00100020 d00100021 d00100030 d00100040",
    "Series": "seriesid studyid d0020000e d00080031 d00080021 d0008103e d0008103f d00200011 d00080015 d00080060"
    " d00081050 d00081052 d00102210 d00180015 d00181030 d00185100 imagecount",
    "Study": "studyid patientid d0020000d d00080061 d00080050 d00081060 d00080020 d00080030 d00080032 d00080090"
    " d0008009c d00081030 d00080005 d00080051 d00081032 d00321033 seriescount totalimagecount inferenced",
}
STUDY_COLUMNS = [name for name in COLUMNS["Study"].split() if name != "patientid"]
COLUMNS["Studylist"] = " ".join([*STUDY_COLUMNS, COLUMNS["Patient"]])

Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def reader(engine: Engine) -> Iterator[Engine]:
    """Give what `dicomflow query --seed` asks."""
    opened = create_read_only_engine(engine.url.render_as_string(hide_password=False), is_seed=True)
    yield opened
    opened.dispose()


@pytest.fixture
def ask(reader: Engine) -> Ask:
    """Ask in the sample's names."""
    return lambda sql: run_read_only(reader, sql)[1]


@pytest.fixture
def two_modalities(write: Callable[..., None], an_object: Callable[..., IndexedObject], engine: Engine) -> None:
    """Give a study of three images, CT and MR, and one of a single image of another patient."""
    study = {
        "PatientID": "P1",
        "PatientName": "Invented^Anna",
        "PatientBirthDate": date(1970, 5, 1),
        "StudyDate": date(2026, 1, 31),
        "StudyTime": time(10, 15),
        "AccessionNumber": "A1",
    }
    ct = study | {"SeriesInstanceUID": "1.2.3.1", "Modality": "CT", "SeriesDate": date(2026, 1, 31)}
    ct |= {"SeriesTime": time(10, 15, 0, 250000), "SeriesNumber": 1, "Rows": 512, "Columns": 256}
    write(
        an_object(1, **ct, InstanceNumber=1, ImagePositionPatient=[-64.0, 0.5, 5.0], AcquisitionTime=time(10, 17)),
        an_object(2, **ct, InstanceNumber=2, ImageType=["ORIGINAL", None, "AXIAL"], RescaleIntercept=-1024.0),
        an_object(3, **study, SeriesInstanceUID="1.2.3.2", Modality="MR", AcquisitionTime=time(10, 16)),
        an_object(4, StudyInstanceUID="1.9", PatientID="P2", Modality="US", StudyDate=date(2025, 1, 1)),
    )
    remember_bucket(engine, "images", "eu-west-1")
    with engine.begin() as connection:
        connection.execute(insert(image_set).values(datastore_id="d", image_set_id="i", updated_at=NOW))
        values = {"datastore_id": "d", "image_set_id": "i", "study_instance_uid": "1.2.3"}
        connection.execute(insert(series_image_set).values(**values, series_instance_uid="1.2.3.1"))
        _queue(connection)


def _queue(connection: Any) -> None:
    values = {"input_s3_uri": "s3://images/site/", "output_s3_uri": "s3://images/imports/", "client_token": "t"}
    times = {"created_at": NOW, "updated_at": NOW, "submitted_at": NOW}
    job = {"import_job_id": 1, "job_name": "j", "datastore_id": "d", "job_id": "7", "state": "completed"}
    connection.execute(insert(import_job).values(**job, **values, **times))
    delivery = (
        "INSERT INTO delivery (delivery_id, edge, manifest_key, opened_at, closed_at, instance_count, bytes)"
        " VALUES ('d', 'site', 'm', '2026-11-01 12:00:00', '2026-11-01 12:00:00', 3, 1)"
    )
    connection.execute(text(delivery))
    for number, (state, status, job_id) in enumerate([("completed", 3, 1), ("queued", 1, None)], 1):
        row = {"series_import_id": number, "delivery_id": "d", "study_instance_uid": "1.2.3", "object_count": 1}
        row |= {"series_instance_uid": f"1.2.3.{number}", "input_prefix": "site/d/", "bytes": 1, "state": state}
        row |= {"status": status, "import_job_id": job_id, "created_at": NOW, "updated_at": NOW}
        connection.execute(insert(series_import).values(row))


@pytest.mark.parametrize("table", COLUMNS)
def test_table_of_the_sample_has_its_columns(reader: Engine, table: str):
    """Each of its tables, and its view, has its columns in its order."""
    assert COLUMNS[table].split() == run_read_only(reader, f"SELECT * FROM {table}")[0]


@pytest.mark.parametrize("name", ["studylist", "instancelocation"])
def test_view_that_no_table_is_called_as_is_there_without_seed(engine: Engine, name: str):
    """Its two other names mean the same without `--seed`."""
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT * FROM {name}")).keys()
    assert COLUMNS[name.capitalize()].split() == list(found)


@pytest.mark.usefixtures("two_modalities")
@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("Study.d0020000d = '1.2.3'", 3),
        ("Series.d0020000e = '1.2.3.1'", 2),
        ("Instance.d00080018 = '1.2.3.3'", 1),
        ("Study.d0020000d = '9'", 0),
    ],
)
def test_locations_of_a_study_series_and_instance_are_all_there(ask: Ask, where: str, count: int):
    """Bucket, region and key of each image."""
    rows = ask(
        "SELECT bucketname, region, filekey FROM Instancelocation"
        " JOIN Instance ON Instance.instanceid = Instancelocation.instanceid"
        " JOIN Series ON Series.seriesid = Instance.seriesid JOIN Study ON Study.studyid = Series.studyid"
        f" WHERE {where} ORDER BY filekey"
    )
    assert count == len(rows)
    assert {("images", "eu-west-1")} >= {row[:2] for row in rows}
    assert all(row[2].startswith("site/") and row[2].endswith(".dcm") for row in rows)


@pytest.mark.usefixtures("two_modalities")
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("d00100010 LIKE 'Invented^%'", ["1.2.3"]),
        ("d00100020 = 'P2'", ["1.9"]),
        ("d00080020 BETWEEN '2026-01-01' AND '2026-12-31'", ["1.2.3"]),
        ("d00080050 = 'A1'", ["1.2.3"]),
        ("d00080061 LIKE '%MR%'", ["1.2.3"]),
        ("d00080061 = 'US'", ["1.9"]),
        ("d00080061 LIKE '%PT%'", []),
    ],
)
def test_studies_with_patient_columns_are_found(ask: Ask, where: str, expected: list[str]):
    """By name, ID, range of dates, accession number and modality."""
    assert expected == [row[0] for row in ask(f"SELECT d0020000d FROM Studylist WHERE {where} ORDER BY 1")]


@pytest.mark.usefixtures("two_modalities")
def test_study_has_its_counts_and_its_modalities(ask: Ask):
    """Counts and modalities are those of the series, the time that of the first image."""
    columns = "d00100010, seriescount, totalimagecount, d00080061, d00080032, inferenced"
    (row,) = ask(f"SELECT {columns} FROM Studylist WHERE d0020000d = '1.2.3'")
    *counted, at, inferenced = row
    assert (["Invented^Anna", 2, 3, "CT/MR"], "10:16:00", None) == (counted, str(at)[:8], inferenced)


@pytest.mark.usefixtures("two_modalities")
def test_series_of_a_study_and_its_instances_have_their_values(ask: Ask):
    """A series has its count, dates and numbers are as DICOM writes them, several values have a backslash between."""
    study = "(SELECT studyid FROM Study WHERE d0020000d = '1.2.3')"
    columns = "d0020000e, imagecount, d00080060, d00080021, d00080031, d00200011"
    series = ask(f"SELECT {columns} FROM Series WHERE studyid = {study} ORDER BY d0020000e")
    assert [("1.2.3.1", 2, "CT", "20260131", "101500.25", "1"), ("1.2.3.2", 1, "MR", None, None, None)] == series
    images = ask(
        "SELECT d00200013, d00280010, d00280011, d00200032, d00080008, d00281052 FROM Instance"
        " JOIN Series ON Series.seriesid = Instance.seriesid WHERE d0020000e = '1.2.3.1' ORDER BY d00200013"
    )
    first = ("1", "512", "256", "-64.0\\0.5\\5.0", None, None)
    assert [first, ("2", "512", "256", None, "ORIGINAL\\\\AXIAL", "-1024")] == images


@pytest.mark.usefixtures("two_modalities")
def test_series_have_their_image_sets(ask: Ask):
    """Series joins Ahliimageset by the Series Instance UID."""
    rows = ask(
        "SELECT Series.d0020000e, imagesetid, datastoreid FROM Series"
        " LEFT JOIN Ahliimageset ON Series.d0020000e = Ahliimageset.seriesid"
        " JOIN Study ON Study.studyid = Series.studyid WHERE d0020000d = '1.2.3' ORDER BY 1"
    )
    assert [("1.2.3.1", "i", "d"), ("1.2.3.2", None, None)] == rows


@pytest.mark.usefixtures("two_modalities")
def test_jobs_are_listed_and_counted_by_status(ask: Ask):
    """With their id and locations; a time is in UTC and does not say so."""
    listed = "SELECT importjobid, importlocation, resultlocation, submittedat FROM Ahlijob WHERE status = 3"
    (row,) = ask(listed)
    assert ("7", "s3://images/site/", "s3://images/imports/") == row[:3]
    assert str(row[3]).startswith("2026-11-01 12:00:00")
    assert "+" not in str(row[3])
    assert [(1, 1), (3, 1)] == ask("SELECT status, count(*) FROM Ahlijob GROUP BY status ORDER BY status")
    assert [(1, "d", None, None)] == ask("SELECT * FROM Ahlidatastore")


@pytest.mark.parametrize(
    ("table", "column"),
    [("Study", "d0020000d"), ("Studylist", "d0020000d"), ("Series", "d0020000e"), ("Instance", "d00080018")],
)
def test_what_is_asked_by_its_uid_is_found_by_an_index(reader: Engine, table: str, column: str):
    """Of a million instances one is not searched for: the view gives the column itself."""
    question = f"SELECT * FROM {table} WHERE {column} = '1.2.3'"
    own = table.lower().removesuffix("list")
    with reader.connect() as connection:
        if reader.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
            plan = "\n".join(connection.scalars(text(f"EXPLAIN {question}")))
            assert f"Seq Scan on {own}" not in plan
        else:
            plan = "\n".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {question}")))
            assert f"SCAN {own}" not in plan, plan
            assert f"SEARCH {own} " in plan, plan


def test_value_that_could_not_be_parsed_is_its_text(
    ask: Ask, write: Callable[..., None], an_object: Callable[..., IndexedObject]
):
    """What is no number or date to us is there as the device wrote it."""
    described = an_object(1, InstanceNumber=None, IconImageSequence=[{"00280010": {"vr": "US", "Value": [1]}}])
    described.raw_values.update({"instance": {"InstanceNumber": "2a"}})
    write(described)
    ((number, icon),) = ask("SELECT d00200013, d00880200 FROM Instance")
    assert "2a" == number
    assert [{"00280010": {"vr": "US", "Value": [1]}}] == json.loads(icon)


def test_bucket_is_remembered_once_and_changes(engine: Engine):
    """The newest bucket is the one that there is."""
    for name, region in (("a", None), ("a", None), ("b", "us-east-1"), ("b", None)):
        remember_bucket(engine, name, region)
        with engine.connect() as connection:
            assert [(1, name, region)] == [
                tuple(row) for row in connection.execute(text("SELECT * FROM object_bucket"))
            ]


def test_readers_see_the_schema_and_nothing_else(engine: Engine, ask: Ask):
    """On PostgreSQL members of a role read the sample's views and no table; another migration leaves them that."""
    if engine.dialect.name != "postgresql":
        assert [] == ask("SELECT * FROM Patient")
        return
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE dicomflow_seed_reader"))
        for table in COLUMNS:
            assert [] == connection.execute(text(f"SELECT * FROM {SCHEMA}.{table}")).all()
        may = "SELECT has_table_privilege('public.patient', 'SELECT'), has_schema_privilege('seed', 'CREATE')"
        assert (False, False) == tuple(connection.execute(text(may)).one())
