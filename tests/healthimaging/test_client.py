"""The client's functions against the simulator, and the service's errors in our terms."""

from typing import Any

import pytest
from waiting import free_ports

from dicomflow.errors import PermanentError, TransientError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import AccessError, JobNotFoundError, build_client
from dicomflow.healthimaging.simulator.errors import STATUS_OF

ROLE_ARN = "arn:aws:iam::123456789012:role/import"
TRANSIENT = {
    "ThrottlingException",
    "ConflictException",
    "ServiceQuotaExceededException",
    "InternalServerException",
    "AccessDeniedException",
}


@pytest.fixture
def client(simulation: Any) -> Any:
    """Return our client of the simulator."""
    return build_client(simulation.server.url, "us-east-1", "test", "test")


def start(client: Any, simulation: Any) -> Any:
    """Start a job by our function."""
    return healthimaging.start_import_job(
        client,
        datastore_id=simulation.datastore_id,
        job_name="n",
        client_token="t",
        data_access_role_arn=ROLE_ARN,
        input_s3_uri="s3://images/in/",
        output_s3_uri="s3://images/imports/",
    )


def test_client_of_the_service_keeps_its_host_prefix_and_one_of_a_simulator_has_none(simulation: Any) -> None:
    """Only AWS's own hosts are prefixed by operation."""
    service = build_client(None, "us-east-1", "test", "test")
    simulated = build_client(simulation.server.url, "us-east-1", "test", "test")
    assert service.meta.config.inject_host_prefix is not False
    assert simulated.meta.config.inject_host_prefix is False


def test_import_by_our_functions_is_found_by_all_of_them(client: Any, simulation: Any) -> None:
    """Start, get, list, image set, metadata and search tell of the same import."""
    simulation.put("in/a.dcm")
    started = start(client, simulation)
    assert started == start(client, simulation)
    simulation.advance(10)
    simulation.advance(10)
    job = healthimaging.get_import_job(client, simulation.datastore_id, started.job_id)
    (listed,) = healthimaging.list_import_jobs(client, simulation.datastore_id, "COMPLETED")
    assert ("COMPLETED", job.job_id, job.ended_at) == (job.status, listed.job_id, listed.ended_at)
    (summary,) = healthimaging.search_image_sets(client, simulation.datastore_id, "DICOMSeriesInstanceUID", "1.2.3.1")
    image_set = healthimaging.get_image_set(client, simulation.datastore_id, summary.image_set_id)
    assert (1, True, "ACTIVE") == (image_set.version, image_set.is_primary, image_set.state)
    metadata = healthimaging.get_image_set_metadata(client, simulation.datastore_id, summary.image_set_id)
    assert summary.image_set_id == metadata["ImageSetID"]


def test_datastores_are_listed_over_pages(client: Any) -> None:
    """A list goes on to its end."""
    for number in range(60):
        healthimaging.create_datastore(client, f"store-{number}", f"token-{number}")
    assert 61 == len(healthimaging.list_datastores(client))


@pytest.mark.parametrize("error", sorted(STATUS_OF))
def test_error_of_the_service_is_transient_or_permanent(client: Any, simulation: Any, error: str) -> None:
    """Throttling, quota, conflict, access and the service's own faults pass; the rest does not."""
    simulation.app.state.world.faults.fail_calls("StartDICOMImportJob", error)
    with pytest.raises(TransientError if error in TRANSIENT else PermanentError, match=error) as raised:
        start(client, simulation)
    assert isinstance(raised.value, AccessError) == (error == "AccessDeniedException")


def test_unknown_job_is_told_apart(client: Any, simulation: Any) -> None:
    """A job the service does not know is a case of its own."""
    with pytest.raises(JobNotFoundError):
        healthimaging.get_import_job(client, simulation.datastore_id, "0" * 32)


def test_service_that_is_not_there_is_transient() -> None:
    """Nobody listening: try again later."""
    (port,) = free_ports(1)
    client = build_client(f"http://127.0.0.1:{port}", "us-east-1", "test", "test")
    with pytest.raises(TransientError, match="cannot be reached"):
        healthimaging.list_datastores(client)


def test_parameters_the_client_refuses_are_permanent(client: Any, simulation: Any) -> None:
    """What never leaves the client would never succeed."""
    with pytest.raises(PermanentError):
        healthimaging.get_import_job(client, simulation.datastore_id, "")
