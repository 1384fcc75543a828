"""What is in is not imported again, what hangs is given up, and every end is told to the edge."""

import json
from datetime import timedelta
from typing import Any

import pytest

from dicomflow.bucket.feedback import Feedback
from dicomflow.bucket.keys import feedback_key
from dicomflow.catalog import imports
from dicomflow.healthimaging.simulator import FileFault
from dicomflow.pipeline.dependencies import JOB_LIMIT


def run(deployment: Any, sizes: dict[str, int], **arguments: Any) -> None:
    """Deliver and import series to the end."""
    deployment.plan(deployment.deliver(sizes, **arguments))
    deployment.offset[0] += timedelta(seconds=5)
    deployment.drive()
    deployment.finish()


def feedback(deployment: Any, delivery: str) -> Feedback:
    """Return what the edge was told of a delivery."""
    return Feedback.from_json(bytes(deployment.store.get(feedback_key("edge", delivery)).bytes()))


def test_unchanged_series_is_not_imported_again(deployment: Any) -> None:
    """A series that is delivered a second time, byte for byte, costs no job and no version, and is completed."""
    run(deployment, {"1.2.1": 2}, delivery="d1")
    run(deployment, {"1.2.1": 2}, delivery="d2")
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert 1 == len(deployment.service_jobs())
    assert [1] == [row["version"] for row in deployment.rows("image_set")]
    assert 2 == len(feedback(deployment, "d2").imported)


def test_late_instances_are_imported_without_the_rest(deployment: Any) -> None:
    """Of a series that comes again with more, the new instances alone are imported, and no copy is left behind."""
    run(deployment, {"1.2.1": 2}, delivery="d1")
    run(deployment, {"1.2.1": 5}, delivery="d2")
    assert [2, 3] == [job["scanned"] for job in deployment.rows("import_job")]
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert [] == deployment.keys("staging")
    told = [row["object_key"] for row in deployment.rows("import_outcome")]
    assert 7 == len(told)
    assert all(key.startswith(("edge/d1/", "edge/d2/")) for key in told)


def test_changed_instance_is_imported_again(deployment: Any) -> None:
    """Other bytes under a known UID are imported; and what was there before is then no longer what is in."""
    run(deployment, {"1.2.1": 2}, delivery="d1")
    run(deployment, {"1.2.1": 2}, delivery="d2", PatientName="Other^Invented")
    assert 2 == len(deployment.service_jobs())
    run(deployment, {"1.2.1": 2}, delivery="d3")
    assert 3 == len(deployment.service_jobs())
    assert [3] == [row["version"] for row in deployment.rows("image_set")]


def test_two_deliveries_of_a_series_at_once_wait_for_each_other(deployment: Any) -> None:
    """Two jobs never run over one series: the second delivery starts after the first's end, with what is left."""
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d1"))
    deployment.plan(deployment.deliver({"1.2.1": 3}, delivery="d2"))
    assert 1 == deployment.drive().started
    deployment.finish()
    assert 1 == deployment.drive().started
    deployment.finish()
    assert [2, 1] == [job["scanned"] for job in deployment.rows("import_job")]


def test_retry_of_a_partial_series_takes_what_failed(deployment: Any) -> None:
    """After an operator's retry only the instances that failed are imported, and the edge is told anew."""
    deployment.faults.fail_files(FileFault("1.2.1.2.dcm", "customer", "simulated reason"))
    run(deployment, {"1.2.1": 3}, delivery="d1")
    assert {"1.2.1": "partial"} == deployment.states()
    first = feedback(deployment, "d1")
    assert (2, ["ValidationException: simulated reason"]) == (
        len(first.imported),
        [item.reason for item in first.failed],
    )
    deployment.faults.clear()
    with deployment.deps.engine.begin() as connection:
        assert 1 == len(imports.retry_series(connection, deployment.now()))
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    assert [3, 1] == [job["scanned"] for job in deployment.rows("import_job")]
    assert (3, ()) == (len(feedback(deployment, "d1").imported), feedback(deployment, "d1").failed)


def test_crash_while_staging_is_made_good(deployment: Any) -> None:
    """Copies that were begun are completed by the driver that takes the job over."""
    run(deployment, {"1.2.1": 1}, delivery="d1")
    deployment.plan(deployment.deliver({"1.2.1": 3}, delivery="d2"))
    deployment.offset[0] += timedelta(seconds=5)

    class Dying:
        def __init__(self, store: Any) -> None:
            self._store = store
            self._copies = 0

        def copy(self, *arguments: Any) -> None:
            if self._copies:
                raise KeyboardInterrupt
            self._copies += 1
            self._store.copy(*arguments)

    with pytest.raises(KeyboardInterrupt):
        deployment.variant(store=Dying(deployment.store)).drive()
    assert 1 == len(deployment.keys("staging"))
    deployment.offset[0] += timedelta(seconds=80)
    assert 1 == deployment.drive().started
    deployment.finish()
    assert [1, 2] == [job["scanned"] for job in deployment.rows("import_job")]
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]


def test_job_that_hangs_is_given_up_and_its_late_end_counts(deployment: Any) -> None:
    """Past the limit a job frees its slot and its series is queued again; if it ends after all, nothing is repeated."""
    deployment = deployment.variant(concurrent_imports=1)
    deployment.faults.stick_jobs()
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d1"))
    deployment.drive()
    deployment.advance(20)
    late = [event for event in deployment.events if event["detail-type"] == "Import Job In Progress"]
    deployment.collect()
    deployment.offset[0] += JOB_LIMIT
    deployment.drive()
    assert ("given_up", {"1.2.1": "queued"}) == (deployment.rows("import_job")[0]["state"], deployment.states())
    assert "given up" in deployment.rows("series_import")[0]["message"]
    deployment.release_stuck_jobs()
    deployment.advance(20)
    completed = [event for event in deployment.events if event["detail-type"] == "Import Job Completed"]
    assert 1 == len(completed)
    for event in [*late, *completed]:
        deployment.handle("collect", json.dumps(event))
    assert {"1.2.1": "completed"} == deployment.states()
    deployment.offset[0] += timedelta(seconds=600)
    assert 0 == deployment.drive().started
    assert 1 == len(deployment.service_jobs())


def test_non_primary_image_set_names_the_elements_that_differ(deployment: Any) -> None:
    """Of a series that conflicts with its study, the image set says in what."""
    run(deployment, {"1.2.1": 1}, delivery="d1")
    run(deployment, {"1.2.2": 1}, delivery="d2", PatientID="P2", AccessionNumber="A2")
    run(deployment, {"1.2.1": 2}, delivery="d3", SeriesNumber=7)
    found = sorted((row["is_primary"], row["differs_in"]) for row in deployment.rows("image_set") if row["differs_in"])
    assert [(False, ["PatientID", "AccessionNumber"]), (False, ["SeriesNumber"])] == found


def test_feedback_waits_for_the_last_series(deployment: Any) -> None:
    """The edge is told when every series of the delivery is settled, each object once."""
    deployment = deployment.variant(concurrent_imports=1)
    deployment.plan(deployment.deliver({"1.2.1": 1, "1.2.2": 2}, delivery="d1"))
    deployment.drive()
    deployment.finish()
    assert [] == deployment.keys("feedback")
    deployment.drive()
    deployment.finish()
    told = feedback(deployment, "d1")
    assert 3 == len(set(told.imported))
    assert ((), "edge", "d1") == (told.failed, told.edge, told.delivery)


def test_feedback_that_the_store_did_not_take_is_sent_later(deployment: Any) -> None:
    """A failing store costs a delay, not the feedback; and the driver comes back for it."""

    class Refusing:
        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def put(self, *_arguments: Any) -> None:
            raise OSError("simulated")

    broken = deployment.variant(store=Refusing(deployment.store))
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.drive()
    deployment.advance(10)
    deployment.advance(10)
    broken.collect()
    assert ({"1.2.1": "completed"}, []) == (deployment.states(), deployment.keys("feedback"))
    assert broken.drive().due_at is not None
    deployment.advance(10)
    deployment.drive()
    assert 1 == len(feedback(deployment, "d1").imported)
    deployment.offset[0] += timedelta(seconds=60)
    assert deployment.drive().due_at is None


def test_import_prefix_holds_only_dicom_objects(deployment: Any) -> None:
    """Manifests, results and feedback lie outside every prefix that a job takes, and copies hold instances alone."""
    run(deployment, {"1.2.1": 2}, delivery="d1")
    deployment.plan(deployment.deliver({"1.2.1": 4}, delivery="d2"))
    deployment.offset[0] += timedelta(seconds=5)
    deployment.drive()
    prefixes = [job["input_s3_uri"].removeprefix("s3://images/") for job in deployment.rows("import_job")]
    assert [2, 2] == [len(deployment.keys(prefix)) for prefix in prefixes]
    assert all(key.endswith(".dcm") for prefix in prefixes for key in deployment.keys(prefix))
    for folder in ("manifests", "imports", "feedback"):
        assert deployment.keys(folder)
        assert not any(prefix.startswith(f"{folder}/") for prefix in prefixes)
