"""What a job leaves when something goes wrong with its output, and answers that are cut: the truth, or a reason."""

from collections.abc import Callable
from typing import Any

import pytest

from dicomflow.catalog import imports
from dicomflow.pipeline import settle as settle_module

FILES = 4


def run(deployment: Any, series: str = "1.2.1", delivery: str = "d1") -> None:
    """Import a series and wait until nobody looks for results any more."""
    deployment.plan(deployment.deliver({series: FILES}, delivery=delivery))
    deployment.drive()
    finish(deployment)


def finish(deployment: Any) -> None:
    """Let the jobs end, and look for their results as often as there is patience for."""
    deployment.finish()
    for _ in range(settle_module.MAX_RESULT_ATTEMPTS + 1):
        deployment.offset[0] += settle_module.RESULTS_AGAIN * 2**settle_module.MAX_RESULT_ATTEMPTS
        deployment.drive()


@pytest.mark.parametrize(
    ("fault", "state", "because"),
    [
        ("no_manifest", "completed", "manifest is not there"),
        ("cut_manifest", "completed", "is no JSON"),
        ("unknown_members", "completed", None),
        ("no_lists", "failed", f"0 of {FILES} files have a result"),
        ("cut_lists", "partial", f"2 of {FILES} files have a result"),
    ],
)
def test_output_at_fault_loses_nothing(deployment: Any, fault: str, state: str, because: str | None) -> None:
    """What the output says counts, what it lacks is named, and a retry brings in what has no result."""
    deployment.faults.spoil_outputs(fault)
    run(deployment)
    assert {"1.2.1": state} == deployment.states()
    (job,) = deployment.rows("import_job")
    assert job["message"] is None if because is None else because in job["message"]
    imported = sum(row["outcome"] == "imported" for row in deployment.rows("import_outcome"))
    assert {"completed": FILES, "partial": 2, "failed": 0}[state] == imported
    with deployment.deps.engine.begin() as connection:
        retried = imports.retry_series(connection, deployment.now())
    assert (state != "completed") == bool(retried)
    deployment.drive()
    finish(deployment)
    assert {"1.2.1": "completed"} == deployment.states()
    assert FILES == len({row["object_key"] for row in deployment.rows("import_outcome")})
    assert deployment.drive().due_at is None


@pytest.mark.parametrize("operation", ["StartDICOMImportJob", "GetDICOMImportJob"])
def test_answer_cut_in_the_middle_is_asked_for_again(deployment: Any, operation: str) -> None:
    """A connection that ends within an answer leaves one job, which goes on to its end."""
    deployment.faults.fail_calls(operation, when="cut")
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.drive()
    for _ in range(4):
        deployment.advance(60)
        deployment.drive()
    assert {"1.2.1": "completed"} == deployment.states()
    assert 1 == len(deployment.service_jobs())


def test_series_split_over_two_primary_image_sets_is_mapped_to_both(deploy: Callable[..., Any]) -> None:
    """The service may make several image sets of one series: each is kept, and a later job adds to one of them."""
    deployment = deploy(split_series=True)
    run(deployment)
    assert {"1.2.1": "completed"} == deployment.states()
    assert [(1, True)] * 2 == [(row["version"], row["is_primary"]) for row in deployment.rows("image_set")]
    assert ["1.2.1"] * 2 == [row["series_instance_uid"] for row in deployment.rows("series_image_set")]
    held = {row["image_set_id"] for row in deployment.rows("import_outcome")}
    assert held == {row["image_set_id"] for row in deployment.rows("series_image_set")}

    deployment.plan(deployment.deliver({"1.2.1": FILES + 1}, delivery="d2"))
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    assert [1, 2] == sorted(row["version"] for row in deployment.rows("image_set"))
    assert [FILES, 1] == [job["scanned"] for job in deployment.rows("import_job")]
