"""`dicomflow status` counts what is there."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from dicomflow.catalog import tables
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.edge.progress import PROGRESS_FILE, Progress
from dicomflow.edge.spool.names import stem_of

EMPTY = {
    "instances": 0,
    "series": 0,
    "studies": 0,
    "patients": 0,
    "image_sets": 0,
    "hidden_image_sets": 0,
    "unreadable": 0,
    "imports": {"queued": 0, "in_progress": 0, "completed": 0, "hidden": 0, "failed": 0},
    "spool": {"received": 0, "delivering": 0, "quarantined": 0},
}

Run = Callable[..., tuple[int, str, str]]


def test_status_of_empty_catalog_is_all_zero(run: Run, data: Path):
    """A catalog without rows and a spool that was never used count as zero."""
    code, output, _ = run("status", "--data", data, "--json")
    assert 0 == code
    assert EMPTY == json.loads(output)


def test_status_counts_the_files_of_the_spool(run: Run, data: Path):
    """Files that are received, being delivered and quarantined are counted; others are not."""
    names = [stem_of("a1", number, "10.0.0.1", "0" * 64) for number in range(5)]
    for name in (
        f"received/0/{names[0]}.dcm",
        f"received/1/{names[1]}.dcm",
        "received/0/a.json",
        "received/0/rescued.dcm",
        "received/0/x.part",
        f"delivering/d1/{names[2]}.dcm",
        f"delivering/d2/{names[3]}.dcm",
        f"delivering/d2/{names[4]}.dcm",
        "quarantined/f.dcm",
    ):
        path = data / "spool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    _, output, _ = run("status", "--data", data, "--json")
    assert {"received": 2, "delivering": 3, "quarantined": 1} == json.loads(output)["spool"]


def test_status_counts_rows_by_import_status(run: Run, empty_database_url: str, monkeypatch: pytest.MonkeyPatch):
    """Each import is counted once, hidden ones apart, objects with a problem as unreadable, on both databases."""
    engine = create_engine_for(empty_database_url)
    migrate(engine)
    now = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(
            insert(tables.delivery).values(
                delivery_id="d", edge="e", manifest_key="m", opened_at=now, closed_at=now, instance_count=1, bytes=1
            )
        )
        for number, (state, status) in enumerate(
            [("queued", 1), ("in_progress", 2), ("completed", 3), ("hidden", 3), ("partial", 4), ("failed", 4)]
        ):
            connection.execute(
                insert(tables.series_import).values(
                    delivery_id="d",
                    study_instance_uid="1",
                    series_instance_uid=f"1.{number}",
                    input_prefix="p/",
                    object_count=1,
                    bytes=1,
                    state=state,
                    status=status,
                    created_at=now,
                    updated_at=now,
                )
            )
        connection.execute(insert(tables.image_set).values(datastore_id="d", image_set_id="i", updated_at=now))
        connection.execute(insert(tables.stored_object).values(object_key="a", problem="not DICOM"))
        connection.execute(insert(tables.stored_object).values(object_key="b"))
    engine.dispose()
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", empty_database_url)
    code, output, _ = run("status", "--json")
    assert 0 == code
    counts = json.loads(output)
    assert {"queued": 1, "in_progress": 1, "completed": 1, "hidden": 1, "failed": 2} == counts["imports"]
    assert (1, 1) == (counts["image_sets"], counts["unreadable"])
    assert "spool" not in counts


def test_status_as_text_names_every_count(run: Run, data: Path):
    """The table for people has the same names as the JSON."""
    code, output, _ = run("status", "--data", data)
    assert 0 == code
    for name in EMPTY:
        assert name.replace("_", " ") in output


def test_status_shows_the_backlog_and_the_forecast(run: Run, data: Path):
    """What the deliverer says is there: what waits, when it is level, how the store is, and the last error."""
    progress = Progress(data / "spool" / PROGRESS_FILE, time.monotonic)
    (data / "spool").mkdir()
    progress.queued(5_000_000)
    progress.failed("GenericError: 503 SlowDown")
    progress.write(is_store_failing=True)
    _, output, _ = run("status", "--data", data, "--json")
    delivery = json.loads(output)["delivery"]
    assert (1, 5_000_000, None) == tuple(
        delivery[name] for name in ("waiting_files", "waiting_bytes", "level_in_seconds")
    )
    _, output, _ = run("status", "--data", data)
    for text in ("waiting bytes 5,000,000", "level in seconds -", "store failing", "503 SlowDown"):
        assert text in " ".join(output.split())


def test_status_of_catalog_without_schema_says_what_to_do(run: Run, tmp_path: Path):
    """A catalog that was never migrated is named as such."""
    (tmp_path / "catalog.db").write_bytes(b"")
    code, _, errors = run("status", "--data", tmp_path)
    assert 1 == code
    assert "dicomflow migrate" in errors


def test_status_with_database_away_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    """A PostgreSQL that does not answer is a failure in one line."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, _, errors = run("status")
    assert 1 == code
    assert 1 == len(errors.splitlines())
    assert errors.startswith("dicomflow: the catalog does not answer: ")


@pytest.mark.parametrize("options", [("--json",), ()])
def test_status_changes_no_file(run: Run, data: Path, options: tuple[str, ...]):
    """Asking for counts writes nothing but SQLite's own shared memory."""
    before = (data / "catalog.db").read_bytes()
    assert 0 == run("status", "--data", data, *options)[0]
    assert before == (data / "catalog.db").read_bytes()
