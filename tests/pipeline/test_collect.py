"""Collecting the ends of jobs: events in any order, results in any shape, once."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dicomflow.healthimaging.simulator import FileFault
from dicomflow.pipeline import follow as follow_module
from dicomflow.pipeline import settle as settle_module


def run(deployment: Any, **series: int) -> None:
    """Import series of these names and sizes to the end of their jobs, without collecting."""
    sizes = {name.replace("_", "."): size for name, size in series.items()}
    deployment.plan(deployment.deliver({f"1.2.{uid[1:]}": size for uid, size in sizes.items()}, delivery="d1"))
    deployment.drive()
    deployment.advance(10)
    deployment.advance(10)


def snapshot(deployment: Any) -> list[Any]:
    """Return everything that collecting writes, but for the times of writing."""
    tables = ("series_import", "import_job", "import_outcome", "image_set", "series_image_set")
    return [
        {key: value for key, value in row.items() if not key.endswith("_at")}
        for table in tables
        for row in deployment.rows(table)
    ]


@pytest.mark.parametrize("order", ["repeated", "reversed", "completed only"])
def test_events_in_any_order_end_in_the_same_state(deployment: Any, order: str) -> None:
    """Repeated, reversed or missing events change nothing of the end."""
    run(deployment, s1=2)
    events = [event for event in deployment.events if event["detail-type"].startswith("Import Job")]
    if order == "repeated":
        events = events * 3
    elif order == "reversed":
        events.reverse()
    else:
        events = events[-1:]
    for event in events:
        assert {"batchItemFailures": []} == deployment.handle("collect", json.dumps(event))
    expected = snapshot(deployment)
    assert {"1.2.1": "completed"} == deployment.states()
    deployment.collect()
    assert expected == snapshot(deployment)


def test_completed_with_file_errors_is_not_completed(deployment: Any) -> None:
    """A series with a failed file is partial, status 4, and each instance has its reason."""
    deployment.faults.fail_files(FileFault("1.2.1.2.dcm", "customer", "simulated reason"))
    run(deployment, s1=3)
    deployment.collect()
    (row,) = deployment.rows("series_import")
    assert ("partial", 4) == (row["state"], row["status"])
    assert "2 of 3 instances imported" in row["message"]
    assert {
        "1.2.1.1": ("imported", None),
        "1.2.1.2": ("failed", "ValidationException: simulated reason"),
        "1.2.1.3": ("imported", None),
    } == {
        outcome["sop_instance_uid"]: (outcome["outcome"], outcome["reason"])
        for outcome in deployment.rows("import_outcome")
    }


def test_series_without_any_file_imported_is_failed(deployment: Any) -> None:
    """A completed job of which nothing is in has failed."""
    deployment.faults.fail_files(FileFault(".dcm", "customer"))
    run(deployment, s1=2)
    deployment.collect()
    assert {"1.2.1": "failed"} == deployment.states()
    assert 2 == deployment.rows("import_job")[0]["customer_errors"]


def test_server_errors_are_tried_again_by_themselves(deployment: Any) -> None:
    """Files that failed by the service's fault are imported again without the others, which are in."""
    deployment.faults.fail_files(FileFault("1.2.1.2.dcm", "server"))
    run(deployment, s1=3)
    deployment.collect()
    assert {"1.2.1": "queued"} == deployment.states()
    deployment.faults.clear()
    deployment.advance(60)
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    assert [(3, 2), (1, 1)] == [(job["scanned"], job["imported"]) for job in deployment.rows("import_job")]


def test_unreadable_frames_warning_is_shown_per_instance(deployment: Any) -> None:
    """A warned file is in, and its row says that its frames cannot be retrieved."""
    deployment.faults.fail_files(FileFault("1.2.1.1.dcm", "warning", "simulated", code=45330))
    run(deployment, s1=2)
    deployment.collect()
    assert {"1.2.1": "completed"} == deployment.states()
    first, second = deployment.rows("import_outcome")
    assert ("warned", "imported") == (first["outcome"], second["outcome"])
    assert "frames cannot be retrieved" in first["reason"]


def test_non_primary_image_set_raises_an_alarm(deployment: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A non-primary image set is kept as such beside the primary one, and a warning tells of it."""
    deployment.faults.fail_files(FileFault("1.2.1.2.dcm", "non_primary"))
    run(deployment, s1=2)
    deployment.collect()
    assert [False, True] == sorted(row["is_primary"] for row in deployment.rows("image_set"))
    assert 2 == len(deployment.rows("series_image_set"))
    assert "image_set_not_primary" in [record.message for record in caplog.records]


def test_missing_result_file_is_tolerated(deployment: Any) -> None:
    """Results that come late are waited for; those that never come leave a partial series with the reason."""
    run(deployment, s1=2)
    for key in [meta["path"] for chunk in deployment.store.list("imports") for meta in chunk]:
        deployment.store.delete(key)
    deployment.collect()
    assert {"1.2.1": "in_progress"} == deployment.states()
    for _ in range(settle_module.MAX_RESULT_ATTEMPTS + 1):
        deployment.offset[0] += settle_module.RESULTS_AGAIN * 2**settle_module.MAX_RESULT_ATTEMPTS
        deployment.drive()
    assert {"1.2.1": "failed"} == deployment.states()
    assert "manifest is not there" in deployment.rows("series_import")[0]["message"]
    assert deployment.drive().due_at is None


def test_late_manifest_is_read_when_it_comes(deployment: Any) -> None:
    """A manifest written after the event completes the series at the next look."""
    run(deployment, s1=1)
    (key,) = [
        meta["path"]
        for chunk in deployment.store.list("imports")
        for meta in chunk
        if meta["path"].endswith("job-output-manifest.json")
    ]
    manifest = bytes(deployment.store.get(key).bytes())
    deployment.store.put(key, manifest[: len(manifest) // 2])
    deployment.collect()
    assert {"1.2.1": "in_progress"} == deployment.states()
    deployment.store.put(key, manifest)
    deployment.offset[0] += settle_module.RESULTS_AGAIN
    deployment.drive()
    assert {"1.2.1": "completed"} == deployment.states()


def test_results_without_versions_are_asked_of_the_service(deploy: Callable[..., Any]) -> None:
    """Where the manifest does not tell version and primary, GetImageSet does."""
    deployment = deploy(manifest_extras=False, event_output_uri="plain", warned_in_success=False)
    run(deployment, s1=1)
    deployment.collect()
    (image_set,) = deployment.rows("image_set")
    assert (1, True) == (image_set["version"], image_set["is_primary"])


def test_series_in_two_deliveries_is_one_image_set_with_a_new_version(deployment: Any) -> None:
    """What arrives later is imported by itself, and raises the version of the series' image set."""
    run(deployment, s1=1)
    deployment.collect()
    deployment.offset[0] += follow_module.LOOK_AGAIN
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d2"))
    deployment.drive()
    deployment.finish()
    (image_set,) = deployment.rows("image_set")
    assert 2 == image_set["version"]
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]


@pytest.mark.parametrize(
    "body",
    ["no JSON", "[]", '{"source":"aws.medical-imaging","detail-type":"Import Job Completed"}'],
)
def test_message_that_is_no_event_is_recorded(deployment: Any, body: str) -> None:
    """What can never be understood is kept with its reason, and does not come back."""
    assert {"batchItemFailures": []} == deployment.handle("collect", body)
    (problem,) = deployment.rows("stored_object")
    assert ("message:m0", True) == (problem["object_key"], bool(problem["problem"]))


def test_event_of_a_foreign_job_is_passed_over(deployment: Any) -> None:
    """Jobs that others start in the same data store are not ours."""
    deployment.deps.client.start_dicom_import_job(
        datastoreId=deployment.deps.datastore_id,
        jobName="foreign",
        clientToken="foreign",
        dataAccessRoleArn=deployment.deps.data_access_role_arn,
        inputS3Uri="s3://images/foreign/",
        outputS3Uri="s3://images/imports/",
    )
    deployment.finish()
    assert [] == deployment.rows("import_job")


def test_service_down_fails_the_message_alone(deployment: Any) -> None:
    """A transient failure gives the message back; the one beside it is handled."""
    deployment.faults.fail_jobs("simulated")
    run(deployment, s1=1)
    failed = [json.dumps(event) for event in deployment.events if event["detail-type"] == "Import Job Failed"]
    deployment.faults.fail_calls("GetDICOMImportJob")
    response = deployment.handle("collect", *failed, json.dumps({"source": "other"}))
    assert {"batchItemFailures": [{"itemIdentifier": "m0"}]} == response
    assert {"batchItemFailures": []} == deployment.handle("collect", *failed)
    assert {"1.2.1": "queued"} == deployment.states()
