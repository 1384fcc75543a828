"""The simulator over HTTP, spoken to by an unmodified boto3 client."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError


def read_json(simulation: Any, key: str) -> Any:
    """Return a JSON object of the bucket."""
    return json.loads(bytes(simulation.store.get(key).bytes()))


def read_lines(simulation: Any, key: str) -> list[Any]:
    """Return the lines of an NDJSON object."""
    return [json.loads(line) for line in bytes(simulation.store.get(key).bytes()).splitlines()]


def output_prefix(job: dict[str, Any]) -> str:
    """Return the key prefix of a job's output."""
    return job["outputS3Uri"].removeprefix("s3://images/")


def test_datastore_created_becomes_active(simulation: Any) -> None:
    """A data store is created once per token and becomes ACTIVE."""
    again = simulation.client.create_datastore(datastoreName="test", clientToken="datastore")
    found = simulation.client.get_datastore(datastoreId=simulation.datastore_id)["datastoreProperties"]
    listed = simulation.client.list_datastores()["datastoreSummaries"]
    assert (simulation.datastore_id, "ACTIVE") == (again["datastoreId"], found["datastoreStatus"])
    assert [simulation.datastore_id] == [item["datastoreId"] for item in listed]


def test_job_over_time_passes_its_states(simulation: Any) -> None:
    """A job is SUBMITTED, then IN_PROGRESS, then COMPLETED with its end and its own output folder."""
    simulation.put("in/a.dcm")
    job_id = simulation.start("in/")
    submitted = simulation.job(job_id)
    simulation.advance(10)
    running = simulation.job(job_id)
    simulation.advance(10)
    completed = simulation.job(job_id)
    assert ["SUBMITTED", "IN_PROGRESS", "COMPLETED"] == [job["jobStatus"] for job in (submitted, running, completed)]
    assert "endedAt" not in running
    assert datetime(2026, 1, 2, 3, 4, 25, tzinfo=UTC) == completed["endedAt"]
    assert completed["outputS3Uri"].endswith(f"imports/{simulation.datastore_id}-DicomImport-{job_id}/")


def test_job_with_good_and_bad_files_reports_each(simulation: Any) -> None:
    """Every scanned file is a success or a failure with its reason, and the counters add up."""
    simulation.put("in/a.dcm")
    simulation.put("in/b.dcm", SOPInstanceUID="1.2.3.1.2")
    simulation.store.put("in/c.txt", b"no DICOM")
    simulation.put("in/d.dcm", StudyInstanceUID=None)
    job = simulation.run("in/")
    prefix = output_prefix(job)
    summary = read_json(simulation, f"{prefix}job-output-manifest.json")["jobSummary"]
    successes = read_lines(simulation, f"{prefix}SUCCESS/success.ndjson")
    failures = read_lines(simulation, f"{prefix}FAILURE/failure.ndjson")
    assert ["in/a.dcm", "in/b.dcm"] == [line["inputFile"] for line in successes]
    assert {
        "in/c.txt": "DICOM attributes does not exist",
        "in/d.dcm": "DICOM attribute StudyInstanceUID does not exist",
    } == {line["inputFile"]: line["exception"]["message"] for line in failures}
    assert (4, 2, 2, 0, 1) == (
        summary["numberOfScannedFiles"],
        summary["numberOfImportedFiles"],
        summary["numberOfFilesWithCustomerError"],
        summary["numberOfFilesWithServerError"],
        summary["numberOfGeneratedImageSets"],
    )
    assert 2 == summary["imageSetsSummary"][0]["numberOfMatchedSOPInstances"]


def test_series_imported_twice_is_one_image_set_with_two_versions(simulation: Any) -> None:
    """A later job of a series raises the version of its primary image set."""
    simulation.put("one/a.dcm")
    simulation.put("two/b.dcm", SOPInstanceUID="1.2.3.1.2")
    simulation.run("one/")
    simulation.run("two/")
    (found,) = simulation.image_sets()
    versions = simulation.client.list_image_set_versions(
        datastoreId=simulation.datastore_id, imageSetId=found["imageSetId"]
    )["imageSetPropertiesList"]
    assert (2, True) == (found["version"], found["isPrimary"])
    assert ["2", "1"] == [version["versionId"] for version in versions]


def test_metadata_of_each_version_holds_its_instances(simulation: Any) -> None:
    """A version keeps what it held; keys are keywords by level, and the blob is gzip."""
    simulation.put("one/a.dcm")
    simulation.put("two/b.dcm", SOPInstanceUID="1.2.3.1.2")
    simulation.run("one/")
    simulation.run("two/")
    (found,) = simulation.image_sets()
    held = {}
    for version in ("1", "2"):
        answer = simulation.client.get_image_set_metadata(
            datastoreId=simulation.datastore_id, imageSetId=found["imageSetId"], versionId=version
        )
        document = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
        held[version] = sorted(document["Study"]["Series"]["1.2.3.1"]["Instances"])
        assert ("P1", "A1") == (
            document["Patient"]["DICOM"]["PatientID"],
            document["Study"]["DICOM"]["AccessionNumber"],
        )
    assert {"1": ["1.2.3.1.1"], "2": ["1.2.3.1.1", "1.2.3.1.2"]} == held


def test_instance_with_another_patient_id_is_not_primary(simulation: Any) -> None:
    """A conflict in a study element makes a non-primary image set; other differences do not."""
    simulation.put("in/a.dcm")
    simulation.put("in/b.dcm", SOPInstanceUID="1.2.3.1.2", PatientID="P2")
    simulation.put("in/c.dcm", SOPInstanceUID="1.2.3.1.3", PatientName="Other^Name")
    simulation.run("in/")
    found = {item["DICOMTags"]["DICOMPatientId"]: item["isPrimary"] for item in simulation.image_sets()}
    assert {"P1": True, "P2": False} == found


def test_start_with_a_known_token_answers_with_the_same_job(simulation: Any) -> None:
    """A token and its parameters name one job; with others it is a conflict."""
    simulation.put("in/a.dcm")
    first = simulation.start("in/", clientToken="t", jobName="n")
    assert first == simulation.start("in/", clientToken="t", jobName="n")
    with pytest.raises(simulation.client.exceptions.ConflictException):
        simulation.start("other/", clientToken="t", jobName="n")


def test_start_above_the_quota_is_refused(simulate: Callable[..., Any]) -> None:
    """The quota of concurrent jobs answers 402, and a finished job frees its slot."""
    simulation = simulate(concurrent_jobs=1)
    simulation.start("in/")
    with pytest.raises(simulation.client.exceptions.ServiceQuotaExceededException) as caught:
        simulation.start("in/")
    assert 402 == caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
    simulation.advance(10)
    simulation.advance(10)
    simulation.start("in/")


def test_calls_above_the_rate_are_throttled(simulate: Callable[..., Any]) -> None:
    """An empty token bucket answers 429, and time fills it."""
    from dicomflow.healthimaging.simulator import SERVICE_RATES

    simulation = simulate(rates={"StartDICOMImportJob": SERVICE_RATES["StartDICOMImportJob"]})
    simulation.start("in/")
    simulation.start("in/")
    with pytest.raises(simulation.client.exceptions.ThrottlingException):
        simulation.start("in/")
    simulation.advance(1)
    simulation.start("in/")


def test_request_that_breaks_the_model_is_a_validation_error(simulation: Any) -> None:
    """Members are checked against the service's own model: pattern, presence, enumeration."""
    url = f"{simulation.server.url}/startDICOMImportJob/datastore/{simulation.datastore_id}"
    body = {"clientToken": "a b", "dataAccessRoleArn": "arn", "inputS3Uri": "x", "outputS3Uri": "y"}
    for content in (json.dumps(body), "{}", "[", "[]"):
        answer = httpx.post(url, content=content)
        assert (400, "ValidationException") == (answer.status_code, answer.headers["x-amzn-errortype"])
        assert ["message"] == list(answer.json())


def test_unknown_things_are_not_found(simulation: Any) -> None:
    """Data stores, jobs and image sets nobody made are 404."""
    calls: list[Callable[[], Any]] = [
        lambda: simulation.client.get_datastore(datastoreId="0" * 32),
        lambda: simulation.job("0" * 32),
        lambda: simulation.client.get_image_set(datastoreId=simulation.datastore_id, imageSetId="0" * 32),
    ]
    for call in calls:
        with pytest.raises(ClientError) as caught:
            call()
        assert "ResourceNotFoundException" == caught.value.response["Error"]["Code"]


def test_events_of_a_job_tell_each_transition(simulation: Any) -> None:
    """Submitted, In Progress, Image Set Created and Completed arrive in EventBridge's envelope."""
    simulation.put("in/a.dcm")
    job = simulation.run("in/")
    events = [event for event in simulation.events if "Data Store" not in event["detail-type"]]
    assert [
        "Import Job Submitted",
        "Import Job In Progress",
        "Image Set Created",
        "Import Job Completed",
    ] == [event["detail-type"] for event in events]
    completed = events[-1]["detail"]
    assert (job["jobId"], "COMPLETED", "job-1") == (
        completed["jobId"],
        completed["jobStatus"],
        completed["jobName"],
    )


def test_prefix_with_too_many_files_fails_the_job(simulate: Callable[..., Any]) -> None:
    """More files than the quota fail the job as a whole, with the service's word."""
    simulation = simulate(max_files=1)
    simulation.put("in/a.dcm")
    simulation.put("in/b.dcm", SOPInstanceUID="1.2.3.1.2")
    job = simulation.run("in/")
    assert "FAILED" == job["jobStatus"]
    assert job["message"].startswith("FILE_COUNTS_LI")


def test_prefix_without_slash_matches_as_a_string(simulation: Any) -> None:
    """`1.2.3` also takes `1.2.34`; with a slash at its end it does not."""
    simulation.put("in/1.2.3/a.dcm")
    simulation.put("in/1.2.34/b.dcm", SOPInstanceUID="1.2.3.1.2")
    counts = []
    for prefix in ("in/1.2.3", "in/1.2.3/"):
        job = simulation.run(prefix)
        manifest = read_json(simulation, f"{output_prefix(job)}job-output-manifest.json")
        counts.append(manifest["jobSummary"]["numberOfScannedFiles"])
    assert [2, 1] == counts


def test_bucket_without_access_fails_the_job(simulation: Any) -> None:
    """A bucket the role cannot read ends the job FAILED with a message."""
    job = simulation.run("in/", inputS3Uri="s3://elsewhere/in/")
    assert "FAILED" == job["jobStatus"]
    assert "not accessible" in job["message"]


def test_lists_are_paged(simulation: Any) -> None:
    """A page holds at most maxResults, and the paginator reaches all."""
    started = [simulation.start("in/") for _ in range(3)]
    paginator = simulation.client.get_paginator("list_dicom_import_jobs")
    pages = list(paginator.paginate(datastoreId=simulation.datastore_id, PaginationConfig={"PageSize": 2}))
    assert [2, 1] == [len(page["jobSummaries"]) for page in pages]
    assert sorted(started) == sorted(job["jobId"] for page in pages for job in page["jobSummaries"])


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"DICOMSeriesInstanceUID": "1.2.3.1"}, 1),
        ({"DICOMSeriesInstanceUID": "1.2.3.2"}, 0),
        ({"DICOMPatientId": "P1"}, 1),
        ({"isPrimary": False}, 0),
        ({"DICOMStudyDateAndTime": {"DICOMStudyDate": "20260102", "DICOMStudyTime": "101112"}}, 1),
    ],
)
def test_search_by_one_attribute_finds_what_has_it(simulation: Any, value: Any, count: int) -> None:
    """EQUAL compares one attribute of the image set."""
    simulation.put("in/a.dcm")
    simulation.run("in/")
    found = simulation.client.search_image_sets(
        datastoreId=simulation.datastore_id,
        searchCriteria={"filters": [{"operator": "EQUAL", "values": [value]}]},
    )
    assert count == len(found["imageSetsMetadataSummaries"])


def test_search_between_times_takes_both_ends(simulation: Any) -> None:
    """BETWEEN compares a time with a lower and an upper value."""
    simulation.put("in/a.dcm")
    simulation.run("in/")
    times = [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)]
    found = simulation.client.search_image_sets(
        datastoreId=simulation.datastore_id,
        searchCriteria={
            "filters": [{"operator": "BETWEEN", "values": [{"createdAt": time} for time in times]}],
            "sort": {"sortField": "createdAt", "sortOrder": "ASC"},
        },
    )
    assert 1 == len(found["imageSetsMetadataSummaries"])


def test_image_set_deleted_is_gone(simulation: Any) -> None:
    """A deleted image set is 404 the second time and no search finds it; its data store can go then."""
    simulation.put("in/a.dcm")
    simulation.run("in/")
    (found,) = simulation.image_sets()
    where = {"datastoreId": simulation.datastore_id, "imageSetId": found["imageSetId"]}
    with pytest.raises(simulation.client.exceptions.ConflictException):
        simulation.client.delete_datastore(datastoreId=simulation.datastore_id)
    assert "LOCKED" == simulation.client.delete_image_set(**where)["imageSetState"]
    simulation.advance(1)
    assert [] == simulation.image_sets()
    with pytest.raises(simulation.client.exceptions.ResourceNotFoundException):
        simulation.client.delete_image_set(**where)
    simulation.client.delete_datastore(datastoreId=simulation.datastore_id)


def test_job_survives_a_restart_of_the_simulator(simulate: Callable[..., Any]) -> None:
    """A job started before the end of one simulator is completed by the next on the same state."""
    first = simulate()
    first.put("in/a.dcm")
    job_id = first.start("in/")
    first.server.close()
    second = simulate()
    second.advance(10)
    second.advance(10)
    assert "COMPLETED" == second.job(job_id)["jobStatus"]


def test_effect_before_a_lost_answer_is_found_by_the_token(simulation: Any) -> None:
    """A 500 after the effect leaves one job, which the same token finds."""
    simulation.app.state.world.faults.fail_calls("StartDICOMImportJob", when="after")
    with pytest.raises(ClientError):
        simulation.start("in/", clientToken="t", jobName="n")
    simulation.start("in/", clientToken="t", jobName="n")
    jobs = simulation.client.list_dicom_import_jobs(datastoreId=simulation.datastore_id)
    assert 1 == len(jobs["jobSummaries"])


def test_control_api_moves_time_and_orders_faults(simulation: Any) -> None:
    """The control API advances the clock, injects and clears faults, and shows the state."""
    url = f"{simulation.server.url}/_simulator"
    simulation.put("in/a.dcm")
    job_id = simulation.start("in/")
    httpx.post(f"{url}/faults", json={"operation": "GetDICOMImportJob", "error": "ThrottlingException"})
    with pytest.raises(simulation.client.exceptions.ThrottlingException):
        simulation.job(job_id)
    httpx.post(f"{url}/faults", json={"suffix": "a.dcm", "kind": "server"})
    for _ in range(2):
        httpx.post(f"{url}/advance", json={"seconds": 10})
    prefix = output_prefix(simulation.job(job_id))
    summary = read_json(simulation, f"{prefix}job-output-manifest.json")["jobSummary"]
    assert 1 == summary["numberOfFilesWithServerError"]
    assert "COMPLETED" == httpx.get(f"{url}/state").json()["job"][0]["status"]


def test_values_their_vr_does_not_allow_are_imported_as_text(simulation: Any) -> None:
    """A file with a broken number and an odd UID is imported, and the metadata keeps what stands there."""
    simulation.put("in/a.dcm", InstanceNumber=7, FrameOfReferenceUID="1.2.9")
    encoded = bytes(simulation.store.get("in/a.dcm").bytes())
    broken = encoded.replace(b"IS\x02\x007 ", b"IS\x02\x00x ").replace(b"1.2.9\0", b"1..09\0")
    assert encoded != broken
    simulation.store.put("in/a.dcm", broken)
    simulation.run("in/")
    (found,) = simulation.image_sets()
    answer = simulation.client.get_image_set_metadata(
        datastoreId=simulation.datastore_id, imageSetId=found["imageSetId"]
    )
    document = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
    series = document["Study"]["Series"]["1.2.3.1"]
    assert "x" == series["Instances"]["1.2.3.1.1"]["DICOM"]["InstanceNumber"]
    assert "1..09" == series["DICOM"]["FrameOfReferenceUID"]
