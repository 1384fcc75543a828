"""`dicomflow catalog`: searching, listing what is wrong, deleting."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicomflow import samples
from dicomflow.catalog.engine import create_engine_for
from dicomflow.catalog.outcomes import StoredImageSet, record_image_sets
from dicomflow.healthimaging.client import build_client, create_datastore, search_image_sets, start_import_job
from dicomflow.healthimaging.simulator import SimulatorSettings, create_app, serve
from dicomflow.pipeline.connect import build_store
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
    assert (2, True) == (code, "'lost' is not one of queued, in_progress, completed, hidden, failed" in err)


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
    assert (2, True) == (code, "13 stored objects and 0 image sets; nothing is deleted without --yes" in out)
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
    assert ["delete_study", "delete_objects", "delete_objects_begun"] == [event["action"] for event in trail]
    assert all(event["actor"].startswith("cli:") for event in trail)


def test_deletion_that_is_not_possible_is_audited_as_failed(
    run: Run, data: Path, indexed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """The trail never says that something is gone that is there; what was tried is told as that."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(data / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", "http://127.0.0.1:9")
    build_client.cache_clear()
    code, _, error = run("catalog", "delete-study", indexed["uid"], "--data", data, "--yes", "--image-sets")
    assert (1, True) == (code, "no AWS region" in error), error
    trail = json.loads(run("catalog", "audit", "--data", data, "--uid", indexed["uid"], "--json")[1])
    assert ["delete_image_sets_failed", "delete_image_sets_begun"] == [event["action"] for event in trail]


def test_delete_study_unknown_fails_in_one_line(run: Run, data: Path):
    """A UID that is nowhere is an error."""
    assert (1, "", "dicomflow: the catalog has no study 9.9\n") == run(
        "catalog", "delete-study", "9.9", "--data", data, "--yes"
    )


def test_rebuild_of_a_lost_catalog_finds_everything_again(run: Run, data: Path, indexed: dict[str, Any]):
    """Without its catalog a data folder is indexed anew; a second call finds it done; the trail tells of both."""
    before = json.loads(run("catalog", "studies", "--data", data, "--json")[1])
    for path in data.glob("catalog.db*"):
        path.unlink()
    code, out, _ = run("catalog", "rebuild", "--data", data)
    stored = len(set(indexed["folder"].iterdir()))
    assert (0, True) == (code, f"{stored - 1} objects indexed, 1 problems" in out), out
    assert before == json.loads(run("catalog", "studies", "--data", data, "--json")[1])
    code, out, _ = run("catalog", "rebuild", "--data", data)
    assert (0, True) == (
        code,
        f"0 objects indexed, 0 problems, 0 deliveries, 0 import jobs; {stored} were known" in out,
    )
    trail = json.loads(run("catalog", "audit", "--data", data, "--json")[1])
    assert ["rebuild", "rebuild"] == [event["action"] for event in trail]


def test_rebuild_with_a_wrong_setting_fails_in_one_line(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch):
    """Before anything is written."""
    monkeypatch.setenv("DICOMFLOW_ISSUERS", "site=HOSPITAL")
    (data / "objects").mkdir()
    code, out, errors = run("catalog", "rebuild", "--data", data)
    assert (1, "", True) == (code, out, errors.startswith("dicomflow: DICOMFLOW_ISSUERS: "))
    monkeypatch.setenv("DICOMFLOW_ISSUERS", "{}")
    monkeypatch.setenv("DICOMFLOW_CHARACTER_SETS", '{"site": "KLINGON"}')
    code, out, errors = run("catalog", "rebuild", "--data", data)
    assert (1, "", True) == (code, out, "DICOMFLOW_CHARACTER_SETS: " in errors and "'KLINGON' is no defined" in errors)


def test_delete_study_with_image_sets_removes_them_from_the_service(
    run: Run, data: Path, indexed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Image sets that hold the study's series go, one that was gone before is no error, and the trail names them."""
    settings = SimulatorSettings(state_path=tmp_path / "simulator.db", submit_seconds=0, run_seconds=0)
    app = create_app(settings, {"local-bucket": build_store(indexed["folder"].as_uri())[1]})
    server = serve(app)
    for name, value in {
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": server.url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        client = build_client()
        datastore_id = create_datastore(client, "test", "test").datastore_id
        app.state.runner.run_due()
        uri = "s3://local-bucket/"
        role = "arn:aws:iam::123456789012:role/test"
        start_import_job(
            client,
            datastore_id=datastore_id,
            job_name="test",
            client_token="test",
            data_access_role_arn=role,
            input_s3_uri=uri,
            output_s3_uri=f"{uri}imports/",
        )
        app.state.runner.run_due()
        found = search_image_sets(client, datastore_id, "DICOMStudyInstanceUID", indexed["uid"])
        others = client.search_image_sets(datastoreId=datastore_id)["imageSetsMetadataSummaries"]
        sets = [
            StoredImageSet(
                indexed["uid"],
                each.tags["DICOMSeriesInstanceUID"],
                each.image_set_id,
                each.version,
                each.is_primary,
            )
            for each in found
        ]
        sets.append(StoredImageSet(indexed["uid"], sets[0].series_instance_uid, "0" * 32, 1, False))  # gone before
        engine = create_engine_for(f"sqlite:///{data / 'catalog.db'}")
        with engine.begin() as connection:
            record_image_sets(connection, datastore_id, sets, datetime(2026, 2, 1, tzinfo=UTC))
        engine.dispose()
        code, out, _ = run("catalog", "delete-study", indexed["uid"], "--data", data, "--yes", "--image-sets")
        assert (0, True) == (code, f"{len(sets)} image sets" in out), out
        assert [] == search_image_sets(client, datastore_id, "DICOMStudyInstanceUID", indexed["uid"])
        left = client.search_image_sets(datastoreId=datastore_id)["imageSetsMetadataSummaries"]
        assert len(others) - len(found) == len(left) > 0
        trail = json.loads(run("catalog", "audit", "--data", data, "--uid", indexed["uid"], "--json")[1])
        assert ["delete_study", "delete_image_sets", "delete_image_sets_begun"] == [event["action"] for event in trail]
    finally:
        server.close()
