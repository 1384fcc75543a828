"""Trouble with one job, series or delivery is its own: it is shown with its series, tried again, and delays nobody."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from obstore.exceptions import GenericError, PermissionDeniedError
from sqlalchemy import update

from dicomflow.bucket.keys import feedback_key
from dicomflow.catalog import imports, tables

GOOD = "1.9.1"
# Where an error is caught is the same on both.
ONE_DATABASE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
STORE_FAULTS: tuple[Any, ...] = (
    GenericError("503 simulated"),
    PermissionDeniedError("403 simulated"),
    ValueError("simulated: a path that is none"),
    RuntimeError("simulated"),
)
ERROR_CODES = ("AccessDeniedException", "ConflictException", "ResourceNotFoundException", "ValidationException")
GARBAGE: tuple[Any, ...] = ({}, {"jobProperties": {"jobId": 7}}, 7)


METHODS = ("start_dicom_import_job", "get_dicom_import_job", "get_image_set", "search_image_sets")


def service_faults(method: str) -> list[Any]:
    """Return what a call of the service may end in: its error, another, and an answer that is none.

    Each method has others of them, so that all have had all kinds: each series costs a job in the simulator.
    """
    turn = METHODS.index(method)
    code = ERROR_CODES[turn]
    error = ClientError({"Error": {"Code": code, "Message": "simulated \x00"}}, "Simulated")  # type: ignore[typeddict-item]
    other = (KeyError("simulated"), ReadTimeoutError(endpoint_url="x"))[turn % 2]
    return [error, other, GARBAGE[turn % len(GARBAGE)]]


def store_faults(turn: int) -> list[Any]:
    """Return two of what a call of the store may end in, others for each turn."""
    return [STORE_FAULTS[turn % 2], STORE_FAULTS[2 + turn % 2]]


class Faulty:
    """Stands for a store or a client of which one method fails as `fault` says: an error, an answer, or not (None)."""

    def __init__(self, target: Any, method: str, fault: Callable[..., Any]) -> None:
        self._target, self._method, self._fault = target, method, fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != self._method:
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            fault = self._fault(*arguments, **named)
            if isinstance(fault, BaseException):
                raise fault
            return found(*arguments, **named) if fault is None else fault

        return call


def series_of(faults: Any) -> dict[str, Any]:
    """Give each fault a series of its own."""
    return {f"1.2.{number + 1}": fault for number, fault in enumerate(faults)}


def deliver(deployment: Any, *series: str, size: int = 1, delivery: str = "d") -> None:
    """Deliver series, each by itself."""
    for uid in series:
        number = uid.replace(".", "_")
        deployment.plan(deployment.deliver({uid: size}, delivery=f"{delivery}{number}", study=uid.rpartition(".")[0]))


def start_all(deployment: Any, count: int) -> None:
    """Let the driver come so often that it can start so many jobs: two at once."""
    for _ in range(count // 2 + 1):
        assert {"batchItemFailures": []} == deployment.handle("drive", "{}")
        deployment.offset[0] += timedelta(seconds=0.1)


def rounds(deployment: Any, count: int = 1, seconds: float = 61) -> None:
    """Let time pass with the driver coming as it is woken; it never fails, and is woken while something is open."""
    for _ in range(count):
        end = deployment.now() + timedelta(seconds=seconds)
        for _ in range(40):
            deployment.app.state.runner.run_due()
            due = sorted(deployment.messages.get("drive", []))[:1]
            if not due or due[0][0] > end:
                break
            deployment.messages["drive"].remove(due[0])
            deployment.offset[0] += max(due[0][0] - deployment.now(), timedelta())
            assert {"batchItemFailures": []} == deployment.handle("drive", due[0][1])
        deployment.offset[0] += max(end - deployment.now(), timedelta())
        is_open = not {"queued", "in_progress"}.isdisjoint(deployment.states().values())
        assert not is_open or deployment.messages["drive"]


def retry(deployment: Any) -> None:
    """Queue again what has failed, as an operator does."""
    with deployment.deps.engine.begin() as connection:
        imports.retry_series(connection, deployment.now())
    assert {"batchItemFailures": []} == deployment.handle("drive", "{}")


def check(bad: Any, whole: Any, faults: dict[str, Any]) -> None:
    """Hold the good series to its end whatever the others do, and these to what is right once their fault is over."""
    rounds(bad, 6)
    assert "completed" == bad.states()[GOOD]
    assert all(row["message"] for row in bad.rows("series_import") if row["state"] != "completed")
    rounds(whole, 6, seconds=301)
    retry(whole)
    rounds(whole, 4)
    assert dict.fromkeys([*faults, GOOD], "completed") == {
        row["series_instance_uid"]: row["state"] for row in whole.rows("series_import")
    }


@pytest.fixture
def quick(deploy: Callable[..., Any]) -> Any:
    """Return a deployment that starts all it has at once."""
    return deploy(manifest_extras=False).variant(start_rate=1000.0)


@ONE_DATABASE
@pytest.mark.parametrize(("turn", "name"), [(0, "job-output-manifest.json"), (1, "success.ndjson")])
def test_results_that_cannot_be_read_stop_no_other_import(quick: Any, name: str, turn: int) -> None:
    """Whatever the store answers to the read of one job's results; and a job that has ended holds no slot."""
    faults = series_of(store_faults(turn))
    of_job: dict[str, Any] = {}

    def fault(key: str, *_: Any, **__: Any) -> Any:
        found = [fault for job_id, fault in of_job.items() if job_id and job_id in key and key.endswith(name)]
        return found[0] if found else None

    deliver(quick, *faults)
    start_all(quick, len(faults))
    jobs = {row["import_job_id"]: row["job_id"] for row in quick.rows("import_job")}
    of_job |= {jobs[row["import_job_id"]]: faults[row["series_instance_uid"]] for row in quick.rows("series_import")}
    bad = quick.variant(store=Faulty(quick.store, "get", fault), concurrent_imports=1)
    rounds(bad, 2)
    deliver(bad, GOOD)
    check(bad, quick, faults)


@ONE_DATABASE
@pytest.mark.parametrize("method", METHODS[:2])
def test_call_of_the_service_that_fails_for_one_job_stops_no_other(quick: Any, method: str) -> None:
    """Whatever the service answers for one job: it waits or fails with the reason, and the others go on."""
    faults = series_of(service_faults(method))
    of_job: dict[str, str] = {}

    def fault(**named: Any) -> Any:
        if "inputS3Uri" in named:
            return faults.get(named["inputS3Uri"].rstrip("/").rpartition("/")[2])
        return faults.get(of_job[named["jobId"]])

    bad = quick.variant(client=Faulty(quick.deps.client, method, fault))
    deliver(bad, *faults)
    start_all(bad, 2 * len(faults))
    deliver(bad, GOOD)
    start_all(bad, 6)
    series = {row["import_job_id"]: row["series_instance_uid"] for row in quick.rows("series_import")}
    of_job |= {row["job_id"]: series.get(row["import_job_id"], "") for row in quick.rows("import_job")}
    check(bad, quick, faults)


@ONE_DATABASE
@pytest.mark.parametrize("method", METHODS[2:])
def test_image_set_that_cannot_be_asked_for_is_recorded_all_the_same(quick: Any, method: str) -> None:
    """What a job has imported is recorded, whether or not the service tells more of its image sets."""
    faults = series_of(service_faults(method))
    client = quick.deps.client
    series: dict[str, str] = {}

    def fault(**named: Any) -> Any:
        if "searchCriteria" in named:
            study = named["searchCriteria"]["filters"][0]["values"][0]["DICOMStudyInstanceUID"]
            return RuntimeError("simulated") if study == "1.2" else None
        if named["imageSetId"] not in series:
            found = client.search_image_sets(datastoreId=quick.deps.datastore_id, searchCriteria={})
            for each in found["imageSetsMetadataSummaries"]:
                series[each["imageSetId"]] = each["DICOMTags"]["DICOMSeriesInstanceUID"]
        return faults.get(series[named["imageSetId"]])

    bad = quick.variant(client=Faulty(client, method, fault))
    deliver(bad, *faults)
    deliver(bad, GOOD)
    start_all(bad, len(faults) + 1)
    rounds(bad, 3)
    assert "completed" == bad.states()[GOOD]
    rounds(bad, 12, seconds=301)
    assert dict.fromkeys([*faults, GOOD], "completed") == bad.states()
    assert len(faults) + 1 == len(bad.rows("image_set"))


@ONE_DATABASE
def test_copies_that_fail_stop_no_other_import(quick: Any) -> None:
    """Whatever the store answers to a copy for one job."""
    faults = series_of(store_faults(0))
    deliver(quick, *faults)
    start_all(quick, len(faults))
    rounds(quick, 4)
    assert {"completed"} == set(quick.states().values())

    def fault(source: str, *_: Any) -> Any:
        return faults.get(source.split("/")[3])

    deliver(quick, *faults, size=3, delivery="e")
    bad = quick.variant(store=Faulty(quick.store, "copy", fault))
    start_all(bad, 2 * len(faults))
    deliver(bad, GOOD)
    check(bad, quick, faults)
    assert [] == quick.keys("staging")


@ONE_DATABASE
def test_feedback_that_cannot_be_put_delays_no_other(quick: Any) -> None:
    """One edge's feedback fails for ever: the others get theirs, and in the end it is listed with the problems."""
    faults = series_of(store_faults(1))
    keys = {feedback_key("edge", "d" + uid.replace(".", "_")): fault for uid, fault in faults.items()}
    bad = quick.variant(store=Faulty(quick.store, "put", lambda key, *_: keys.get(key)))
    deliver(bad, *faults)
    start_all(bad, len(faults))
    rounds(bad, 2)
    deliver(bad, GOOD)
    rounds(bad, 4)
    assert [feedback_key("edge", "d1_9_1")] == bad.keys("feedback")
    rounds(bad, 50, seconds=301)
    assert bad.drive().due_at is None
    assert sorted(keys) == [row["object_key"] for row in bad.rows("stored_object") if row["problem"]]
    with quick.deps.engine.begin() as connection:
        connection.execute(update(tables.delivery).values(series_changes=tables.delivery.c.series_changes + 1))
    assert {"batchItemFailures": []} == quick.handle("drive", "{}")
    assert [*sorted(keys), feedback_key("edge", "d1_9_1")] == quick.keys("feedback")
    assert [] == [row["object_key"] for row in quick.rows("stored_object") if row["problem"]]


@ONE_DATABASE
def test_series_that_cannot_be_claimed_stops_no_other_import(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that no statement expects: its claim fails, is shown with it and tried again, and the others go on."""
    from dicomflow.pipeline import claim

    count_in = claim.outcomes.count_in

    def failing(connection: Any, row: Any, datastore_id: str) -> int:
        if row.series_instance_uid == "1.2.1":
            raise TypeError("simulated")
        return count_in(connection, row, datastore_id)

    deliver(quick, "1.2.1", GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(claim.outcomes, "count_in", failing)
        start_all(quick, 2)
        assert {"1.2.1": "queued", GOOD: "in_progress"} == quick.states()
        assert "TypeError" in quick.rows("series_import")[0]["message"]
        rounds(quick, 15, seconds=301)
        assert "failed" == quick.states()["1.2.1"]
    retry(quick)
    rounds(quick, 3)
    assert {"1.2.1": "completed", GOOD: "completed"} == quick.states()


def test_object_of_unknown_size_is_imported(quick: Any) -> None:
    """The rest of a series is copied and imported although nobody knows how large one of its objects is."""
    deliver(quick, "1.2.1")
    quick.drive()
    rounds(quick, 4)
    deliver(quick, "1.2.1", size=3, delivery="e")
    with quick.deps.engine.begin() as connection:
        connection.execute(update(tables.stored_object).values(bytes=None))
    quick.drive()
    rounds(quick, 4)
    assert ["completed", "completed"] == [row["state"] for row in quick.rows("series_import")]
    assert [1, 2] == [job["scanned"] for job in quick.rows("import_job")]
