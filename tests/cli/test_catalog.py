"""`dicomflow catalog`: searching, listing what is wrong, deleting."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicomflow import samples
from dicomflow.catalog.engine import create_engine_for
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def indexed(data: Path) -> dict[str, Any]:
    """Index the demonstration's studies and one broken object; give the first study's UID and keys."""
    from obstore.store import LocalStore

    folder = data / "objects"
    paths = samples.write(samples.demo_studies(), folder)
    (folder / "broken.dcm").write_bytes(b"no DICOM at all")
    events = [StoredObjectEvent(path.name, "bucket", path.name) for path in (*paths, folder / "broken.dcm")]
    engine = create_engine_for(f"sqlite:///{data / 'catalog.db'}")
    index_objects(engine, LocalStore(folder), events, clock=lambda: datetime(2026, 2, 1, tzinfo=UTC))
    engine.dispose()
    first = next(samples.demo_studies())
    return {"uid": str(first.StudyInstanceUID), "folder": folder, "patient_id": first.PatientID}


def test_studies_by_name_prints_what_fits(run: Run, data: Path, indexed: dict[str, Any]):
    """A name is found by the beginning of its words, without its accents."""
    code, out, _ = run("catalog", "studies", "--data", data, "--name", "zoe dem", "--json")
    (found,) = json.loads(out)
    assert (0, "US thyroid", ["US"], 1) == (
        code,
        found["study_description"],
        found["modalities"],
        found["instance_count"],
    )


def test_studies_by_each_option_narrows(run: Run, data: Path, indexed: dict[str, Any]):
    """Options are conditions that all hold."""
    for options, count in (
        ((), 3),
        (("--patient-id", indexed["patient_id"]), 2),
        (("--modality", "MR", "--first", "2026-01-31", "--last", "2026-01-31"), 1),
        (("--first", "2026-02-01"), 0),
        (("--status", "failed"), 0),
        (("--limit", "1"), 1),
    ):
        code, out, _ = run("catalog", "studies", "--data", data, "--json", *options)
        assert (0, count) == (code, len(json.loads(out))), options


def test_studies_unknown_status_is_called_wrongly(run: Run, data: Path):
    """A status that there is not is named."""
    code, _, err = run("catalog", "studies", "--data", data, "--status", "lost")
    assert (2, True) == (code, "'lost' is not one of queued, in_progress, completed, failed" in err)


def test_problems_names_the_object_and_the_reason(run: Run, data: Path, indexed: dict[str, Any]):
    """What could not be indexed is listed with why."""
    code, out, _ = run("catalog", "problems", "--data", data)
    assert 0 == code
    assert "broken.dcm" in out
    assert "no Part 10 file" in out


def test_conflicts_of_a_clean_catalog_is_empty(run: Run, data: Path, indexed: dict[str, Any]):
    """Nothing wrong, nothing listed."""
    assert (0, "[]\n", "") == run("catalog", "conflicts", "--data", data, "--json")


def test_delete_study_without_yes_deletes_nothing(run: Run, data: Path, indexed: dict[str, Any]):
    """The command says what would go, and that it did not."""
    code, out, _ = run("catalog", "delete-study", indexed["uid"], "--data", data)
    assert (2, True) == (code, "13 stored objects; nothing is deleted without --yes" in out)
    assert 3 == len(json.loads(run("catalog", "studies", "--data", data, "--json")[1]))


def test_delete_study_with_objects_removes_both_and_tells_the_audit(run: Run, data: Path, indexed: dict[str, Any]):
    """Rows and objects go, also when some objects had gone before; the trail says who did it."""
    before = set(indexed["folder"].iterdir())
    lost = next(path for path in sorted(before) if path.name == f"{next(samples.demo_studies()).SOPInstanceUID}.dcm")
    lost.unlink()
    code, out, _ = run("catalog", "delete-study", indexed["uid"], "--data", data, "--yes", "--objects")
    assert (0, True) == (code, "13 instance" in out), out
    assert 13 == len(before) - len(set(indexed["folder"].iterdir()))
    trail = json.loads(run("catalog", "audit", "--data", data, "--uid", indexed["uid"], "--json")[1])
    assert ["delete_study", "delete_objects"] == [event["action"] for event in trail]
    assert all(event["actor"].startswith("cli:") for event in trail)


def test_delete_study_unknown_fails_in_one_line(run: Run, data: Path):
    """A UID that is nowhere is an error."""
    assert (1, "", "dicomflow: the catalog has no study 9.9\n") == run(
        "catalog", "delete-study", "9.9", "--data", data, "--yes"
    )
