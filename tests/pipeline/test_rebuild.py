"""A catalog that was lost is built again from the bucket, and knows what HealthImaging holds."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from dicomflow.catalog import tables
from dicomflow.catalog.conflicts import list_problems
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.removal import delete_study
from dicomflow.errors import PermanentError
from dicomflow.healthimaging.simulator import FileFault
from dicomflow.pipeline.rebuild import Rebuilt, rebuild_catalog
from dicomflow.pipeline.settings import load_issuers

ISSUERS = {"edge": "HOSPITAL"}


def fill(deployment: Any) -> None:
    """Import a study with a file that fails and one that is warned of, again with one more, and again unchanged."""
    deployment.faults.fail_files(FileFault("d1/1.2/1.2.1/1.2.1.2.dcm", "customer", "simulated"))
    deployment.faults.fail_files(FileFault("1.2.2.1.dcm", "warning", "simulated"))
    for delivery, sizes in (("d1", {"1.2.1": 3, "1.2.2": 1}), ("d2", {"1.2.1": 4}), ("d3", {"1.2.2": 1})):
        key = deployment.deliver(sizes, delivery=delivery)
        keys = [each for each in deployment.keys(f"edge/{delivery}") if each.endswith(".dcm")]
        deployment.handle("index", *map(deployment.object_event, keys))
        deployment.plan(key)
        deployment.drive()
        deployment.finish()
    deployment.store.put("edge/d1/1.2/1.2.9/broken.dcm", b"no DICOM")
    deployment.handle("index", deployment.object_event("edge/d1/1.2/1.2.9/broken.dcm"))


def contents(deployment: Any) -> dict[str, list[str]]:
    """Return what readers see: rows without the catalog's own numbers and times."""
    own = {"patient_key", "study_key", "series_key", "instance_key", "indexed_at", "client_token", "attempts"}
    shown = {}
    for name in (
        "patient",
        "study",
        "series",
        "instance",
        "stored_object",
        "delivery",
        "image_set",
        "series_image_set",
    ):
        rows = deployment.rows(name)
        kept = [
            {key: value for key, value in row.items() if key not in {*own, "updated_at", "planned_at"}} for row in rows
        ]
        for row in kept:
            row.pop("series_changes", None), row.pop("reported_changes", None)
        shown[name] = sorted(map(repr, kept))
    series, outcome = tables.series_import, tables.import_outcome
    statements = {
        "imports": select(series.c.delivery_id, series.c.series_instance_uid, series.c.state, series.c.status),
        "outcomes": select(
            outcome.c.object_key, outcome.c.outcome, outcome.c.image_set_id, outcome.c.reason
        ).distinct(),
        "tree": select(
            tables.patient.c.issuer_of_patient_id,
            tables.patient.c.patient_id,
            tables.study.c.study_instance_uid,
            tables.series.c.series_instance_uid,
            tables.instance.c.sop_instance_uid,
        )
        .join(tables.study, tables.study.c.patient_key == tables.patient.c.patient_key)
        .join(tables.series, tables.series.c.study_key == tables.study.c.study_key)
        .join(tables.instance, tables.instance.c.series_key == tables.series.c.series_key),
    }
    with deployment.deps.engine.begin() as connection:
        for name, statement in statements.items():
            shown[name] = sorted(repr(tuple(row)) for row in connection.execute(statement))
    return shown


def lose_catalog(deployment: Any) -> None:
    """Remove every row."""
    with deployment.deps.engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))


def test_catalog_rebuilt_from_the_bucket_is_the_same(deployment: Any) -> None:
    """Index, deliveries, outcomes and image sets are as they were, also after an interruption; nothing is imported."""
    deployment = deployment.variant(issuers=ISSUERS)
    fill(deployment)
    expected = contents(deployment)
    assert ["'completed'", "'completed'", "'completed'", "'partial'"] == sorted(
        row.split(", ")[2] for row in expected["imports"]
    )
    lose_catalog(deployment)
    deps = deployment.deps

    def interrupt(_done: Rebuilt) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers=ISSUERS, tell=interrupt)
    told: list[int] = []
    done = rebuild_catalog(
        deps.engine, deps.store, deps.bucket, issuers=ISSUERS, tell=lambda done: told.append(done.jobs)
    )
    assert (0, 0, 3, 3, 10, 0) == (
        done.indexed,
        done.problems,
        done.deliveries,
        done.jobs,
        done.passed_over,
        done.not_imported,
    )
    assert told == sorted(told)
    found = contents(deployment)
    for name, rows in expected.items():
        assert rows == found[name], name
    assert deployment.drive().due_at is None, "something is to be imported again"

    done = rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers=ISSUERS)
    assert (0, 0, 0, 0) == (done.indexed, done.problems, done.deliveries, done.jobs)
    assert found == contents(deployment)


def test_rebuilt_series_without_a_result_waits_for_the_operator(deployment: Any) -> None:
    """What no job's output tells of is not queued by itself, and is counted."""
    deployment.deliver({"1.2.1": 2}, delivery="d1")
    deps = deployment.deps
    done = rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers={})
    assert (2, 1, 1, {"1.2.1": "disabled"}) == (
        done.indexed,
        done.deliveries,
        done.not_imported,
        deployment.states(),
    )


def test_issuers_that_are_no_json_object_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named; an absent one is no issuers."""
    monkeypatch.delenv("DICOMFLOW_ISSUERS", raising=False)
    assert {} == load_issuers()
    monkeypatch.setenv("DICOMFLOW_ISSUERS", '{"edge": "HOSPITAL"}')
    assert ISSUERS == load_issuers()
    monkeypatch.setenv("DICOMFLOW_ISSUERS", "edge=HOSPITAL")
    with pytest.raises(PermanentError, match="DICOMFLOW_ISSUERS"):
        load_issuers()


def test_rebuilt_series_that_needed_no_job_is_completed_as_it_was(deployment: Any) -> None:
    """A, the same bytes again, and then others: the second was in when it came, whatever came later."""
    for delivery, name in (("d1", "A"), ("d2", "A"), ("d3", "B")):
        key = deployment.deliver({"1.2.1": 2}, delivery=delivery, PatientName=name)
        deployment.handle("index", *map(deployment.object_event, deployment.keys(f"edge/{delivery}")))
        deployment.plan(key)
        deployment.offset[0] += timedelta(seconds=5)
        deployment.drive()
        deployment.finish()
    lose_catalog(deployment)
    deps = deployment.deps
    done = rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers={})
    assert 0 == done.not_imported
    assert ["completed"] * 3 == [row["state"] for row in deployment.rows("series_import")]


@pytest.mark.parametrize("is_catalog_lost", [False, True])
@pytest.mark.parametrize("are_objects_deleted", [False, True])
def test_rebuild_after_a_study_was_deleted_knows_what_is_there(
    deployment: Any, *, is_catalog_lost: bool, are_objects_deleted: bool
) -> None:
    """Imports of objects that stay come back as they ended; those of objects that are gone do not, and that is told."""
    key = deployment.deliver({"1.2.1": 2}, delivery="d1")
    objects = deployment.keys("edge/d1")
    deployment.handle("index", *map(deployment.object_event, objects))
    deployment.plan(key)
    deployment.drive()
    deployment.finish()
    deps = deployment.deps
    with deps.engine.begin() as connection:
        delete_study(connection, "1.2", deployment.now(), actor="test")
    if are_objects_deleted:
        deployment.store.delete(objects)
    if is_catalog_lost:
        lose_catalog(deployment)
    for _ in range(2):
        done = rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers={})
        assert ({} if are_objects_deleted else {"1.2.1": "completed"}) == deployment.states()
        assert (0 if are_objects_deleted else 2) == len(deployment.rows("import_outcome"))
        assert (0 if are_objects_deleted else 1) == len(deployment.rows("series_image_set"))
        assert int(are_objects_deleted) == done.gone
    deployment.plan(key) if not are_objects_deleted else None
    deployment.drive()
    assert 1 == len(deployment.service_jobs())


def test_odd_names_in_a_folder_are_problems_and_hide_nothing(deployment: Any) -> None:
    """What no key can name is listed until it is gone; what lies beside it is indexed, planned and restored."""
    deps, root = deployment.deps, Path(deployment.store.prefix)
    deployment.deliver({"1.2.1": 2}, delivery="d1")
    for name in (b"edge/d1/a\nb.dcm", b"edge/\xff.dcm", b"manifests/edge/\x01.json", b"imports/a\x7f", b"\xfe"):
        path = root / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (root / "edge/loop").symlink_to("..")
    expected = ["name:%FE", "name:edge/%FF.dcm", "name:edge/d1/a%0Ab.dcm", "name:edge/loop"]
    expected += ["name:imports/a%7F", "name:manifests/edge/%01.json"]
    for indexed in (2, 0):
        done = rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers={})
        assert (indexed, 6, 2 - indexed) == (done.indexed, done.problems, done.passed_over - (2 - indexed) // 2)
        with begin_read(deps.engine) as connection:
            assert expected == [problem.object_key for problem in list_problems(connection)]
    assert {"1.2.1": "disabled"} == deployment.states()
    (root / "edge/loop").unlink()
    assert 5 == rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers={}).problems
