"""`dicomflow imports`: what an operator sees of the import queue, and can do about it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from obstore.store import LocalStore
from sqlalchemy import Engine, select, update

from dicomflow import samples
from dicomflow.bucket.keys import instance_key, manifest_key
from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.catalog import queue
from dicomflow.catalog.deliveries import record_delivery, record_problem
from dicomflow.catalog.engine import create_engine_for
from dicomflow.catalog.outcomes import StoredImageSet, record_image_sets
from dicomflow.catalog.states import SeriesState
from dicomflow.catalog.tables import series_image_set, series_import
from dicomflow.healthimaging.client import build_client
from dicomflow.healthimaging.simulator import SimulatorSettings, create_app, serve
from dicomflow.local_address import forget_addresses, note_addresses

Run = Callable[..., tuple[int, str, str]]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def engine(data: Path):
    """Open the catalog of the data folder."""
    opened = create_engine_for(f"sqlite:///{data / 'catalog.db'}")
    yield opened
    opened.dispose()


def plan(engine: Engine, state: str, *series_uids: str, size: int = 100) -> None:
    """Record series of one instance in a state."""
    series = tuple(
        Series(
            uid,
            (
                Instance(
                    f"{uid}.1",
                    "1.2.840.10008.5.1.4.1.1.2",
                    "1.2.840.10008.1.2.1",
                    instance_key("edge", "d1", "1.2", uid, f"{uid}.1"),
                    size,
                    "ab" * 32,
                    NOW.isoformat(),
                    "1",
                ),
            ),
        )
        for uid in series_uids
    )
    manifest = Manifest("edge", "d1", NOW, NOW, (), (Study("1.2", series),))
    with engine.begin() as connection:
        record_delivery(connection, manifest, manifest_key("edge", "d1"), SeriesState.QUEUED, NOW)
        connection.execute(update(series_import).values(state=state, message="simulated reason"))


def test_list_shows_state_and_reason(run: Run, data: Path, engine: Engine):
    """Each series is listed with its state and message; a state can be asked for."""
    plan(engine, "failed", "1.2.1", "1.2.2")
    code, output, _ = run("imports", "list", "--data", data, "--json")
    assert 0 == code
    assert [("failed", "simulated reason")] * 2 == [(row["state"], row["message"]) for row in json.loads(output)]
    assert [] == json.loads(run("imports", "list", "--data", data, "--state", "queued", "--json")[1])
    assert "simulated reason" in run("imports", "list", "--data", data)[1]


def test_list_foretells_a_refusal(run: Run, data: Path, engine: Engine):
    """What no job can take, and what is no DICOM, is told before it is tried."""
    plan(engine, "queued", "1.2.1", size=11 * 10**9)
    with engine.begin() as connection:
        record_problem(connection, instance_key("edge", "d1", "1.2", "1.2.1", "1.2.1.1"), "simulated")
    (row,) = json.loads(run("imports", "list", "--data", data, "--json")[1])
    for reason in ("exceed a job's limit of 10000000000", "exceeds the limit of", "1 of 1 objects cannot be read"):
        assert reason in row["forecast"]


def test_show_finds_an_import_by_number_and_by_uid(run: Run, data: Path, engine: Engine):
    """A number, a series and a study lead to the same instances."""
    plan(engine, "failed", "1.2.1")
    for name in ("1", "1.2.1", "1.2"):
        document = json.loads(run("imports", "show", name, "--data", data, "--json")[1])
        assert ["edge/d1/1.2/1.2.1/1.2.1.1.dcm"] == [item["object_key"] for item in document["instances"]]


def test_show_unknown_import_fails(run: Run, data: Path):
    """What does not exist is said so."""
    code, _, errors = run("imports", "show", "1.2.3", "--data", data)
    assert 1 == code
    assert "there is no import 1.2.3" in errors


def test_retry_queues_again_and_wakes_the_driver(run: Run, data: Path, engine: Engine):
    """The series is queued and a message is in the driver's queue; what is not asked for stays."""
    plan(engine, "failed", "1.2.1", "1.2.2")
    assert (0, "1 series queued again\n") == run("imports", "retry", "1", "--data", data)[:2]
    with engine.begin() as connection:
        states = connection.execute(select(series_import.c.state).order_by(series_import.c.series_import_id)).scalars()
        assert ["queued", "failed"] == list(states)
        assert 1 == queue.count(connection, "drive", datetime.now(UTC)).visible


def test_retry_all_takes_every_failed_series(run: Run, data: Path, engine: Engine):
    """With --all none has to be named; what was not to be imported needs its state."""
    plan(engine, "disabled", "1.2.1", "1.2.2")
    assert "0 series queued again\n" == run("imports", "retry", "--all", "--data", data)[1]
    arguments = ("imports", "retry", "--all", "--state", "disabled", "--data", data)
    assert "2 series queued again\n" == run(*arguments)[1]
    assert {"queued": []} == json.loads(run(*arguments, "--json")[1])


def test_retry_of_what_has_not_failed_fails(run: Run, data: Path, engine: Engine):
    """A series that is queued or imported is not queued again, and the operator is told."""
    plan(engine, "completed", "1.2.1")
    code, _, errors = run("imports", "retry", "1", "--data", data)
    assert 1 == code
    assert "not failed or partial: 1" in errors


@pytest.mark.parametrize(
    "arguments",
    [[], ["1", "--all"], ["1", "--state", "completed"], ["1", "--state", "queued"], ["1", "--state", "unknown"]],
    ids=str,
)
def test_retry_called_wrongly_exits_2(run: Run, data: Path, arguments: list[str]):
    """Nothing, both, or a state that cannot be retried is a wrong call."""
    assert 2 == run("imports", "retry", *arguments, "--data", data)[0]


def test_retry_of_another_data_stores_series_needs_the_one_of_now(run: Run, data: Path, engine: Engine):
    """What is completed is queued where the data store of now lacks it."""
    plan(engine, "completed", "1.2.1", "1.2.2")
    given = ("--state", "completed", "--state", "hidden", "--data", data)
    code, _, errors = run("imports", "retry", "--all", *given)
    assert (2, True) == (code, "give the data store that imports go to now" in " ".join(errors.split()))
    asked = run("imports", "retry", "2", *given, "--datastore-id", "0" * 32, "--json")
    assert (0, {"queued": [2]}) == (asked[0], json.loads(asked[1]))
    code, _, errors = run("imports", "retry", "2", *given, "--datastore-id", "0" * 32)
    assert (1, True) == (code, "or in the data store already: 2" in errors)


@pytest.fixture
def hidden(engine: Engine, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the id of an image set that a service hides, for another Patient ID, and that the catalog knows."""
    (image,) = samples.ct_study(7, series=1, slices=1)
    samples.write(iter([image]), tmp_path / "images" / "1")
    image.PatientID = "ANOTHER"
    image.SeriesInstanceUID = image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.2"
    samples.write(iter([image]), tmp_path / "images" / "2")
    app = create_app(
        SimulatorSettings(state_path=tmp_path / "service.db", submit_seconds=0, run_seconds=0),
        {"images": LocalStore(tmp_path / "images")},
    )
    server = serve(app)
    client = build_client(server.url, "us-east-1", "x", "y")
    datastore_id = client.create_datastore(datastoreName="test", clientToken="t")["datastoreId"]
    app.state.runner.run_due()
    for number in ("1", "2"):
        client.start_dicom_import_job(
            datastoreId=datastore_id,
            jobName=number,
            clientToken=number,
            dataAccessRoleArn="arn:aws:iam::123456789012:role/import",
            inputS3Uri=f"s3://images/{number}/",
            outputS3Uri="s3://images/out/",
        )
        app.state.runner.run_due()
        app.state.runner.run_due()
    found = client.search_image_sets(datastoreId=datastore_id)["imageSetsMetadataSummaries"]
    (image_set_id,) = [item["imageSetId"] for item in found if not item["isPrimary"]]
    with engine.begin() as connection:
        known = StoredImageSet(str(image.StudyInstanceUID), "1.2.2", image_set_id, 1, is_primary=False)
        record_image_sets(connection, datastore_id, [known], NOW)
    (data / "objects").mkdir()
    note_addresses(data, {"healthimaging": server.url})
    monkeypatch.setattr(time, "sleep", lambda _: app.state.runner.run_due())  # no second is waited for
    build_client.cache_clear()
    yield image_set_id
    build_client.cache_clear()
    server.close()


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have neither region nor credentials nor endpoint of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def test_repair_says_what_it_would_do(run: Run, data: Path, hidden: str):
    """A dry run names image sets and elements, and no value; as JSON too."""
    arguments = ("imports", "repair", hidden, "--keep", "primary", "--dry-run", "--data", data)
    code, output, errors = run(*arguments)
    assert (0, "") == (code, errors)
    elements = ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"]
    assert [f"would update image set {hidden}: {', '.join(elements)}", f"would promote image set {hidden}"] == (
        output.splitlines()
    )
    told = json.loads(run(*arguments, "--json")[1])
    assert ({"image_set": hidden, "keep": "primary", "dry_run": True}, elements) == (
        {name: told[name] for name in ("image_set", "keep", "dry_run")},
        told["steps"][0]["elements"],
    )
    assert "ANOTHER" not in output + json.dumps(told)


def test_repair_of_an_unknown_image_set_fails(run: Run, data: Path):
    """The line says where the known ones are listed; without --keep nobody decides."""
    (data / "objects").mkdir()
    code, _, errors = run("imports", "repair", "0" * 32, "--keep", "this", "--data", data)
    assert (1, True) == (code, "see `dicomflow catalog conflicts`" in errors)
    assert 2 == run("imports", "repair", "0" * 32, "--data", data)[0]


def study_of(engine: Engine) -> str:
    """Return the study of the hidden image set."""
    with engine.begin() as connection:
        return str(connection.scalar(select(series_image_set.c.study_instance_uid)))


def test_repair_of_a_local_study_needs_no_credentials(run: Run, data: Path, engine: Engine, hidden: str):
    """By its Study Instance UID all that is hidden of a study becomes visible, in the simulator of the data folder."""
    study = study_of(engine)
    listed = json.loads(run("catalog", "conflicts", "--kind", "hidden", "--data", data, "--json")[1])
    assert [(f"image set {hidden}", "hidden")] == [(each["details"][0], each["kind"]) for each in listed]
    code, output, _ = run("imports", "repair", study, "--keep", "this", "--data", data, "--json")
    assert (0, [(hidden, True)]) == (
        code,
        [(each["image_set"], bool(each["primary_image_set_id"])) for each in json.loads(output)],
    )
    assert [] == json.loads(run("catalog", "conflicts", "--kind", "hidden", "--data", data, "--json")[1])
    code, _, errors = run("imports", "repair", study, "--keep", "this", "--data", data)
    assert (1, True) == (code, f"no hidden image set of study {study}" in errors)


def test_repair_where_no_local_system_runs_says_so(run: Run, data: Path, hidden: str):
    """It is not AWS's HealthImaging that has what the folder's images became."""
    forget_addresses(data)
    code, _, errors = run("imports", "repair", hidden, "--keep", "this", "--data", data)
    assert (1, True) == (code, f"no `dicomflow local` runs on {data}" in errors)


def test_repair_without_credentials_says_so_at_once(run: Run, data: Path, hidden: str, monkeypatch: pytest.MonkeyPatch):
    """Waiting helps nobody: the reason is the line that it ends with."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(data / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    code, _, errors = run("imports", "repair", hidden, "--keep", "this", "--data", data)
    assert (1, True) == (code, "HealthImaging cannot be asked: Unable to locate credentials" in errors), errors


def test_repair_that_waits_says_why(run: Run, data: Path, hidden: str, monkeypatch: pytest.MonkeyPatch):
    """Each wait has its reason in the log, and the last one is the line that it ends with."""
    note_addresses(data, {"healthimaging": "http://127.0.0.1:9"})
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    code, _, errors = run("imports", "repair", hidden, "--keep", "this", "--data", data)
    reason = "HealthImaging cannot be reached: EndpointConnectionError"
    assert (1, len(waits)) == (code, errors.count(f"repair_waits reason={reason}"))
    assert waits
    assert f"dicomflow: {reason}" in errors


def test_conflicts_of_a_kind_that_is_none_is_called_wrongly(run: Run, data: Path):
    """The line lists those that there are."""
    code, _, errors = run("catalog", "conflicts", "--kind", "nonsense", "--data", data)
    assert (2, True) == (code, "demographics" in errors)
