"""Studies are found however they are asked for, page by page, without reading whole tables."""

import os
import re
from collections.abc import Callable
from datetime import date, time
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.search import StudyFilter, page_statement, search_studies
from dicomflow.catalog.states import SeriesState

Build = Callable[..., Any]
Write = Callable[..., None]

PEOPLE = (
    ("Müller^Anna Maria", "CT", date(2026, 1, 1), time(9)),
    ("MULLER^HANS", "MR", date(2026, 1, 2), time(8)),
    ("O'Brien^Seán", "CT", date(2026, 1, 2), time(10)),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", "US", date(2026, 3, 1), None),
    ("Hong^Gildong=洪^吉洞=홍^길동", "CT", None, None),
    ("Wang^XiaoDong=王^小东", "CT", date(2025, 1, 1), time(1)),
)
EXPLAINED = int(os.environ.get("DICOMFLOW_TEST_INSTANCES", "80000"))
"""Rows of `instance` for the query plans; 1000000 shows them at the size of a large hospital's year."""

# How many instances a row stands for, and the row.
INVENTED = """
4|INSERT INTO patient (patient_key, patient_id, issuer_of_patient_id, as_of) SELECT n, 'P' || n, 'site', 'x';
4|INSERT INTO patient_word (word, patient_key) SELECT 'word' || n, n;
4|INSERT INTO patient_word (word, patient_key) SELECT 'hans' || n % 50, n;
4|INSERT INTO study (study_key, patient_key, study_instance_uid, accession_number, sort_at, as_of)
   SELECT n, n, '1.' || n, 'A' || n, {day} || 'T00:00:00', 'x';
2|INSERT INTO series (series_key, study_key, series_instance_uid, modality, as_of)
  SELECT n, (n - 1) / 2 + 1, '2.' || n, CASE WHEN n % 5000 = 0 THEN 'RARE' ELSE 'CT' END, 'x';
1|INSERT INTO instance (instance_key, series_key, sop_instance_uid, sop_class_uid, object_key, bytes, as_of)
  SELECT n, (n - 1) / 2 + 1, '3.' || n, '1.2', 'key' || n, 1, 'x';
1000000000|INSERT INTO delivery (delivery_id, edge, manifest_key, opened_at, closed_at, instance_count, bytes)
  SELECT 'd', 'e', 'm', '2026-01-01 00:00:00', '2026-01-01 00:00:00', 1, 1;
2|INSERT INTO series_import (delivery_id, study_instance_uid, series_instance_uid, input_prefix, object_count, bytes,
  state, status, created_at, updated_at)
  SELECT 'd', '1.' || ((n - 1) / 2 + 1), '2.' || n, 'p/', 25, 1, 'x', CASE WHEN n % 5000 = 0 THEN 4 ELSE 3 END,
  '2026-01-01 00:00:00', '2026-01-01 00:00:00'
"""


@pytest.fixture
def people(engine: Engine, an_object: Build, write: Write) -> Engine:
    """Index one study each of some people; study 1.0 is the first person's."""
    objects = []
    for number, (name, modality, day, clock) in enumerate(PEOPLE):
        for image in range(2):
            values = {"PatientID": f"P{number}", "PatientName": name, "Modality": modality, "StudyDate": day}
            values |= {"StudyTime": clock, "AccessionNumber": f"A{number}", "StudyInstanceUID": f"1.{number}"}
            objects.append(an_object(number * 2 + image, **values))
    write(*objects)
    return engine


def found(engine: Engine, **wanted: Any) -> list[str]:
    """Return the UIDs of the studies that a filter lets through."""
    with begin_read(engine) as connection:
        return [each.study_instance_uid for each in search_studies(connection, StudyFilter(**wanted)).studies]


@pytest.mark.parametrize(
    ("name", "uids"),
    [
        ("muller", ["1.1", "1.0"]),
        ("MÜLLER hans", ["1.1"]),
        ("mari mül", ["1.0"]),
        ("Müller^Anna", ["1.0"]),
        ("obrien", ["1.2"]),
        ("o'brien sean", ["1.2"]),
        ("山田", ["1.3"]),
        ("やまだ", ["1.3"]),
        ("홍", ["1.4"]),
        ("王 小", ["1.5"]),
        ("nobody", []),
        ("anna hans", []),
    ],
)
def test_search_by_name_is_blind_to_case_and_accents(people: Engine, name: str, uids: list[str]):
    """Words of a name in any order and script, by their beginning."""
    assert uids == found(people, patient_name=name)


@pytest.mark.parametrize(
    ("wanted", "uids"),
    [
        ({}, ["1.3", "1.2", "1.1", "1.0", "1.5", "1.4"]),
        ({"patient_id": "P2"}, ["1.2"]),
        ({"patient_id": "p2"}, []),
        ({"accession_number": "A3"}, ["1.3"]),
        ({"study_instance_uid": "1.4"}, ["1.4"]),
        ({"modality": "MR"}, ["1.1"]),
        ({"first_date": date(2026, 1, 2)}, ["1.3", "1.2", "1.1"]),
        ({"first_date": date(2026, 1, 1), "last_date": date(2026, 1, 2)}, ["1.2", "1.1", "1.0"]),
        ({"last_date": date(2026, 1, 1)}, ["1.0", "1.5"]),
        ({"patient_name": "muller", "modality": "CT", "last_date": date(2026, 1, 1)}, ["1.0"]),
        ({"status": SeriesState.COMPLETED}, []),
    ],
)
def test_search_filters_narrow_together_and_the_latest_is_first(
    people: Engine, wanted: dict[str, Any], uids: list[str]
):
    """Each filter holds, all hold at once, studies without a date come last."""
    assert uids == found(people, **wanted)


def test_search_pages_give_every_study_once(people: Engine):
    """Pages joined are the whole list, also where dates are equal or missing."""
    seen: list[str] = []
    after = None
    with begin_read(people) as connection:
        while True:
            page = search_studies(connection, StudyFilter(), after=after, limit=2)
            seen += [each.study_instance_uid for each in page.studies]
            after = page.next_key
            if after is None:
                break
    assert ["1.3", "1.2", "1.1", "1.0", "1.5", "1.4"] == seen


def test_search_finds_a_patient_by_a_former_name(engine: Engine, an_object: Build, write: Write):
    """A corrected name hides nobody."""
    write(an_object(1, PatientName="Before^Anna", StudyDate=date(2025, 1, 1)))
    write(an_object(2, StudyInstanceUID="1.2.4", PatientName="After^Anna", StudyDate=date(2026, 1, 1)))
    assert ["1.2.4", "1.2.3"] == found(engine, patient_name="before")


def test_search_shows_counts_and_modalities(people: Engine):
    """A row of the list has what a reader decides by."""
    with begin_read(people) as connection:
        (study,) = search_studies(connection, StudyFilter(study_instance_uid="1.0")).studies
    assert (("CT",), 1, 2, "P0", {}) == (
        study.modalities,
        study.series_count,
        study.instance_count,
        study.patient_id,
        study.imports,
    )


@pytest.mark.timeout(1200)
def test_query_time_does_not_grow_with_the_table(engine: Engine):
    """No page of a search is found by reading a whole table of the index."""
    with engine.begin() as connection:
        _fill(connection, EXPLAINED)
    with begin_read(engine) as connection:
        end = search_studies(connection, StudyFilter(), limit=20).next_key
        for wanted, after in (
            (StudyFilter(), None),
            (StudyFilter(), end),
            (StudyFilter(patient_name="word777 hans"), None),
            (StudyFilter(patient_id="P7"), None),
            (StudyFilter(accession_number="A7"), None),
            (StudyFilter(study_instance_uid="1.7"), None),
            (StudyFilter(first_date=date(2020, 5, 5), last_date=date(2020, 5, 6)), None),
            (StudyFilter(modality="CT"), end),
            (StudyFilter(modality="RARE"), None),
            (StudyFilter(status=SeriesState.COMPLETED), None),
            (StudyFilter(status=SeriesState.FAILED), None),
        ):
            plan = _explain(connection, page_statement(wanted, after=after, limit=21))
            assert not re.search(r"Seq Scan|SCAN (?!page\b|.*USING)", plan), f"{wanted}\n{plan}"


def _explain(connection: Connection, statement: Any) -> str:
    """Return the plan of a statement, without the steps that read the few rows another has found."""
    compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})
    prefix = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(prefix + str(compiled).replace("%", "%%")))


def _fill(connection: Connection, instances: int) -> None:
    """Invent studies of two series of two images; one series in 5,000 is rare, and one import in 5,000 failed."""
    is_postgresql = connection.dialect.name == "postgresql"
    day = "CAST(DATE '2000-01-01' + n % 9000 AS TEXT)" if is_postgresql else "date('2000-01-01', (n % 9000) || ' days')"
    counter = (
        "generate_series(1, {count}) AS counter(n)"
        if is_postgresql
        else "(WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < {count})"
        " SELECT n FROM counter)"
    )
    for statement in INVENTED.split(";"):
        per_row, sql = statement.strip().split("|", 1)
        rows = max(1, instances // int(per_row))
        connection.execute(text(f"{sql.format(day=day)} FROM {counter.format(count=rows)}"))
    connection.execute(text("ANALYZE"))
