"""The driver against the simulator, on both databases."""

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from dicomflow.healthimaging.limits import MAX_BYTES
from dicomflow.pipeline import claim as claim_module


def test_series_planned_is_started_once_and_completed(deployment: Any) -> None:
    """A planned series becomes one job, its instances have outcomes, and the series is mapped to its image set."""
    deployment.plan(deployment.deliver({"1.2.1": 3}, delivery="d1"))
    result = deployment.drive()
    assert (1, "in_progress") == (result.started, deployment.states()["1.2.1"])
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    assert ["imported"] * 3 == [row["outcome"] for row in deployment.rows("import_outcome")]
    (job,) = deployment.rows("import_job")
    assert ("completed", 3, 3, 0, 0) == (
        job["state"],
        job["scanned"],
        job["imported"],
        job["customer_errors"],
        job["server_errors"],
    )
    (image_set,) = deployment.rows("image_set")
    (mapping,) = deployment.rows("series_image_set")
    assert (1, True) == (image_set["version"], image_set["is_primary"])
    assert ("1.2.1", image_set["image_set_id"]) == (mapping["series_instance_uid"], mapping["image_set_id"])


def test_input_prefix_ends_with_a_slash(deployment: Any) -> None:
    """The prefix of a job cannot match a neighbour whose UID begins alike."""
    deployment.plan(deployment.deliver({"1.2.1": 1, "1.2.11": 1}, delivery="d1"))
    deployment.drive()
    uris = [row["input_s3_uri"] for row in deployment.rows("import_job")]
    assert ["s3://images/edge/d1/1.2/1.2.1/", "s3://images/edge/d1/1.2/1.2.11/"] == uris


def test_start_rate_and_concurrency_follow_the_service_limits(deploy: Callable[..., Any]) -> None:
    """Two calls at once, then one a second; never more jobs at once than the setting says."""
    deployment = deploy(concurrent_jobs=3).variant(concurrent_imports=3)
    deployment.plan(deployment.deliver({f"1.2.{number}": 1 for number in range(1, 6)}, delivery="d1"))
    first = deployment.drive()
    assert (2, deployment.now() + timedelta(seconds=2)) == (first.started, first.due_at)
    assert 0 == deployment.drive().started
    deployment.offset[0] += timedelta(seconds=2)
    assert 1 == deployment.drive().started
    deployment.offset[0] += timedelta(seconds=2)
    assert 0 == deployment.drive().started
    deployment.finish()
    assert 2 == deployment.drive().started


def test_crash_between_claim_and_call_is_made_good(deployment: Any) -> None:
    """A job that was claimed and never started is started after its time, once."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    prepared = claim_module.Prepared()
    assert claim_module.claim_next(deployment.deps, prepared) is not None
    assert 0 == deployment.drive().started
    deployment.advance(claim_module.CLAIM_SECONDS)
    assert 1 == deployment.drive().started
    assert 1 == len(deployment.service_jobs())


def test_crash_between_start_and_update_does_not_start_twice(deployment: Any) -> None:
    """A start whose answer was lost is repeated with the same token, and the service has one job."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", when="after")
    assert 0 == deployment.drive().started
    assert "claimed" == deployment.rows("import_job")[0]["state"]
    deployment.offset[0] += timedelta(seconds=5)
    assert 1 == deployment.drive().started
    assert 1 == len(deployment.service_jobs())
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()


def test_event_before_the_answer_is_recorded_finds_its_job(deployment: Any) -> None:
    """The service's events may be faster than the answer to the start: the job's name says whose they are."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", when="after")
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    assert 0 == deployment.drive().started


@pytest.mark.parametrize("error", ["ThrottlingException", "ServiceQuotaExceededException", "ConflictException"])
def test_start_refused_for_now_backs_off(deployment: Any, error: str) -> None:
    """Throttling, quota and conflict are repeated later, with the same token."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", error)
    result = deployment.drive()
    assert (0, deployment.now() + timedelta(seconds=2)) == (result.started, result.due_at)
    deployment.offset[0] += timedelta(seconds=2)
    assert 1 == deployment.drive().started


def test_error_text_reaches_the_job_row(deployment: Any) -> None:
    """A refused start fails its series with the service's own words, and frees the slot."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", "ValidationException")
    deployment.drive()
    (row,) = deployment.rows("series_import")
    (job,) = deployment.rows("import_job")
    assert ("failed", 4, "failed") == (row["state"], row["status"], job["state"])
    assert "ValidationException: simulated" in row["message"]


def test_failed_job_frees_its_slot(deploy: Callable[..., Any]) -> None:
    """A FAILED job is queued again with backoff and another token; after its attempts it waits for an operator."""
    deployment = deploy().variant(concurrent_imports=1)
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_jobs("simulated reason", count=3)
    for _ in range(3):
        assert 1 == deployment.drive().started
        deployment.finish()
        deployment.offset[0] += timedelta(seconds=600)
    (row,) = deployment.rows("series_import")
    assert ("failed", 3, "simulated reason") == (row["state"], row["attempts"], row["message"])
    assert 3 == len({job["client_token"] for job in deployment.rows("import_job")})
    deployment.plan(deployment.deliver({"1.3.1": 1}, delivery="d2", study="1.3"))
    assert 1 == deployment.drive().started


def test_job_the_service_forgot_is_settled_once(deployment: Any) -> None:
    """A job unknown to the service fails, its series is queued again, and the others go on."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.drive()
    deployment.faults.fail_calls("GetDICOMImportJob", "ResourceNotFoundException")
    deployment.offset[0] += timedelta(seconds=60)
    deployment.drive()
    deployment.offset[0] += timedelta(seconds=60)
    assert 1 == deployment.drive().started
    assert ["failed", "submitted"] == [job["state"] for job in deployment.rows("import_job")]


def test_lost_event_is_repaired_by_the_sweep(deployment: Any) -> None:
    """Without any event, the driver's own wake-ups find the end of each job; then there are none left."""
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d1"))
    due = deployment.messages["drive"].pop()
    rounds = 0
    while due is not None and rounds < 20:
        deployment.offset[0] = due[0] - deployment.now() + deployment.offset[0]
        deployment.app.state.runner.run_due()
        deployment.app.state.runner.run_due()
        deployment.handle("drive", due[1])
        left = deployment.messages["drive"]
        due = left.pop() if left else None
        rounds += 1
    assert {"1.2.1": "completed"} == deployment.states()
    assert [] == deployment.messages["drive"]


@pytest.mark.parametrize("way", ["sweep", "event"])
def test_job_of_an_older_data_store_is_followed_to_its_end(deployment: Any, way: str) -> None:
    """A deployment with another data store ends what runs in the one before, and its image sets are that one's."""
    older = deployment.deps.datastore_id
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d1"))
    assert 1 == deployment.drive().started
    created = deployment.deps.client.create_datastore(datastoreName="newer", clientToken="newer")
    newer = deployment.variant(datastore_id=created["datastoreId"])
    deployment.advance(10)
    deployment.advance(60)
    if way == "sweep":
        newer.drive()
    else:
        newer.collect()
    assert {"1.2.1": "completed"} == newer.states()
    (image_set,) = newer.rows("image_set")
    assert older == image_set["datastore_id"]


def test_start_put_off_in_an_older_data_store_is_made_good_there(deployment: Any) -> None:
    """A job claimed for the store before keeps its token and its store."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", "InternalServerException")
    deployment.drive()
    created = deployment.deps.client.create_datastore(datastoreName="newer", clientToken="newer")
    newer = deployment.variant(datastore_id=created["datastoreId"])
    deployment.offset[0] += timedelta(minutes=10)
    newer.drive()
    newer.finish()
    assert {"1.2.1": "completed"} == newer.states()
    (job,) = newer.rows("import_job")
    assert deployment.deps.datastore_id == job["datastore_id"]


def test_queue_order_is_fair(deployment: Any) -> None:
    """A series that failed before stands behind those that were not tried."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_jobs("simulated")
    deployment.drive()
    deployment.finish()
    deployment.plan(deployment.deliver({"1.3.1": 1}, delivery="d2", study="1.3"))
    deployment.offset[0] += timedelta(seconds=60)
    deployment = deployment.variant(concurrent_imports=1)
    assert 1 == deployment.drive().started
    assert {"1.2.1": "queued", "1.3.1": "in_progress"} == deployment.states()


def test_association_per_object_makes_few_jobs(deployment: Any) -> None:
    """A long queue takes all series of a study in one job, and each series still gets its own outcome."""
    series = {f"1.2.{number}": 1 for number in range(1, 13)}
    deployment.plan(deployment.deliver(series, delivery="d1"))
    deployment.drive()
    (job,) = deployment.rows("import_job")
    assert "s3://images/edge/d1/1.2/" == job["input_s3_uri"]
    deployment.finish()
    assert dict.fromkeys(series, "completed") == deployment.states()
    assert 12 == len(deployment.rows("series_image_set"))


def test_file_count_and_size_are_checked_before_start(deployment: Any) -> None:
    """A series no job can take fails with both numbers, and costs no call."""
    key = deployment.deliver({"1.2.1": 1, "1.2.2": 1}, delivery="d1")
    manifest = json.loads(bytes(deployment.store.get(key).bytes()))
    manifest["studies"][0]["series"][0]["instances"][0]["bytes"] = MAX_BYTES + 1
    deployment.store.put(key, json.dumps(manifest).encode())
    deployment.plan(key)
    deployment.drive()
    assert {"1.2.1": "failed", "1.2.2": "in_progress"} == deployment.states()
    assert f"{MAX_BYTES + 1} bytes exceed" in deployment.rows("series_import")[0]["message"]
    assert 1 == len(deployment.service_jobs())


def test_idle_driver_asks_for_no_wake_up(deployment: Any) -> None:
    """With nothing queued and nothing running, nothing wakes the database."""
    assert deployment.drive().due_at is None
    assert {} == deployment.messages


def test_wake_ups_do_not_multiply(deployment: Any) -> None:
    """Many manifests and many runs leave one message under way to the driver."""
    for number in range(5):
        deployment.plan(deployment.deliver({f"1.{number}.1": 1}, delivery=f"d{number}", study=f"1.{number}"))
    assert 1 == len(deployment.messages["drive"])
    body = deployment.messages["drive"].pop()[1]
    deployment.handle("drive", body)
    for _ in range(3):
        deployment.drive()
    assert 1 == len(deployment.messages["drive"])


def test_import_switched_off_starts_nothing(deployment: Any) -> None:
    """Series are recorded as not queued, and the driver is not woken."""
    deployment = deployment.variant(import_enabled=False)
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    assert (0, None) == (deployment.drive().started, deployment.drive().due_at)
    assert {"1.2.1": "disabled"} == deployment.states()
    assert {} == deployment.messages


def test_clock_that_never_stands_still_starts_all_the_same(deployment: Any) -> None:
    """Two readings of a real clock differ, and the first call is allowed at once."""
    ticks = itertools.count()
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    start = deployment.now()
    moving = deployment.variant(clock=lambda: start + timedelta(microseconds=next(ticks)))
    assert 1 == moving.drive().started


@pytest.mark.parametrize("error", ["ThrottlingException", "ServiceQuotaExceededException"])
def test_refusal_for_now_pauses_every_start(deployment: Any, error: str) -> None:
    """After 429 or 402 no driver calls for any job until the pause is over; each refusal doubles it."""
    deployment.plan(deployment.deliver({"1.2.1": 1, "1.2.2": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", error, count=2)
    deployment.drive()
    for seconds in (2, 4):
        assert 0 == deployment.drive().started
        (pause,) = deployment.rows("start_pause")
        assert deployment.now() + timedelta(seconds=seconds) == pause["until_at"]
        deployment.offset[0] += timedelta(seconds=seconds)
        deployment.drive()
    assert {"1.2.1": "in_progress", "1.2.2": "in_progress"} == deployment.states()
    assert [] == deployment.rows("start_pause")
    assert 2 == len(deployment.service_jobs())


def test_job_that_never_starts_backs_off_and_ends_dead(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails again and again waits longer each time, and at last leaves its series to an operator."""
    monkeypatch.setattr(claim_module, "MAX_PATIENT_ATTEMPTS", 12)
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", "ConflictException", count=100)
    waits = []
    for _ in range(claim_module.MAX_PATIENT_ATTEMPTS):
        result = deployment.drive()
        if result.due_at is not None:
            waits.append(round((result.due_at - deployment.now()).total_seconds()))
            deployment.offset[0] += result.due_at - deployment.now()
    assert [2, 4, 8, 16, 32] == waits[:5]
    assert waits == sorted(waits)
    assert {"1.2.1": "failed"} == deployment.states()
    assert "ConflictException" in deployment.rows("series_import")[0]["message"]
    assert deployment.drive().due_at is None


@pytest.mark.parametrize("error", ["InternalServerException", "AccessDeniedException"])
def test_service_that_fails_for_hours_needs_no_hand(deployment: Any, error: str) -> None:
    """What may succeed later is tried for days, and says what it waits for: nobody has to retry it."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    began = deployment.now()
    deployment.faults.fail_calls("StartDICOMImportJob", error, count=claim_module.MAX_START_ATTEMPTS + 8)
    while (due_at := deployment.drive().due_at) is not None and not deployment.service_jobs():
        assert error in deployment.rows("series_import")[0]["message"]
        deployment.offset[0] += due_at - deployment.now()
    assert timedelta(hours=1) < deployment.now() - began
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()


def test_one_poison_job_does_not_stop_the_others(deployment: Any) -> None:
    """A series whose job can never be followed leaves the others their way."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.drive()
    deployment.events.clear()
    deployment.faults.fail_calls("GetDICOMImportJob", "InternalServerException", count=3)
    for number in (3, 4, 5):
        deployment.plan(deployment.deliver({f"1.{number}.1": 1}, delivery=f"d{number}", study=f"1.{number}"))
        deployment.offset[0] += timedelta(seconds=60)
        deployment.drive()
    assert 4 == len(deployment.service_jobs())
    deployment.finish()
    assert {"completed"} == set(deployment.states().values())


def test_stat_is_started_before_what_waited(deployment: Any) -> None:
    """What a STAT device has sent goes before everything that is queued."""
    deployment = deployment.variant(stat_ae_titles=frozenset({"EMERGENCY"}), concurrent_imports=1)
    for number in range(5):
        deployment.plan(deployment.deliver({f"1.{number}.1": 1}, delivery=f"d{number}", study=f"1.{number}"))
    deployment.plan(deployment.deliver({"1.9.1": 1}, delivery="d9", study="1.9", calling_ae_title="EMERGENCY"))
    deployment.drive()
    assert ["1.9.1"] == [series for series, state in deployment.states().items() if state == "in_progress"]


def test_rest_of_a_long_queue_is_coalesced_too(deployment: Any) -> None:
    """The last studies of a queue that was long are one job each, as the first ones were."""
    for number in range(4):
        series = {f"1.{number}.{part}": 1 for part in range(1, 5)}
        deployment.plan(deployment.deliver(series, delivery=f"d{number}", study=f"1.{number}"))
    for _ in range(20):
        deployment.drive()
        deployment.advance(6)
        deployment.collect()
    assert {"completed"} == set(deployment.states().values())
    assert 4 == len(deployment.service_jobs())


@pytest.mark.parametrize("ahead", [timedelta(minutes=20), timedelta(days=400)])
def test_clock_that_ran_ahead_and_back_keeps_nothing_waiting(deployment: Any, ahead: timedelta) -> None:
    """No stored time of a wrong clock holds: of a call, a claim, a look, a pause, a series or a wake-up."""
    deployment.plan(deployment.deliver({f"1.2.{number}": 1 for number in range(1, 5)}, delivery="d1"))
    deployment.faults.fail_jobs("simulated")
    deployment.drive()  # two are started, of which one fails
    deployment.offset[0] += ahead
    deployment.finish()
    deployment.faults.fail_calls("StartDICOMImportJob", "InternalServerException")
    deployment.drive()  # one is put off, one is started
    deployment.faults.fail_calls("StartDICOMImportJob", "ThrottlingException")
    deployment.offset[0] += timedelta(seconds=2)
    deployment.drive()
    assert 1 == len(deployment.rows("start_pause"))
    deployment.offset[0] -= ahead
    for _ in range(8):
        deployment.advance(2)
        deployment.drive()
    for _ in range(8):
        deployment.advance(60)
        deployment.drive()
    assert {"completed"} == set(deployment.states().values())
