"""The relay: the pipeline works through it as it does without, and nothing passes but what it needs."""

import io
import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError

from dicomflow.errors import PermanentError
from dicomflow.pipeline.relay import OPERATIONS, RelayClient, answer_call


class InProcess:
    """Lambda with one function, which is called here; JSON goes in and out, as it does there."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.calls: list[str] = []

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803  # botocore's names
        """Call it; an error of its own is Lambda's FunctionError."""
        assert "relay" == FunctionName
        event = json.loads(Payload)
        self.calls.append(event["operation"])
        try:
            answer = self.function(event)
        except Exception as error:  # noqa: BLE001  # as Lambda does
            return {
                "FunctionError": "Unhandled",
                "Payload": io.BytesIO(json.dumps({"errorMessage": str(error)}).encode()),
            }
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}


@pytest.fixture
def relayed(deployment: Any) -> Any:
    """Give a deployment whose HealthImaging is behind the relay."""
    own = deployment.deps.client
    function = InProcess(lambda event: answer_call(event, lambda _: own))
    return deployment.variant(client=RelayClient(function, "relay", "medical-imaging"))


def test_series_is_imported_through_the_relay(relayed: Any) -> None:
    """From start to image set, by events and by the sweep, with the times that the service gave."""
    relayed.plan(relayed.deliver({"1.2.1": 2, "1.2.2": 1}, delivery="d1"))
    relayed.drive()
    relayed.finish()
    assert {"1.2.1": "completed", "1.2.2": "completed"} == relayed.states()
    (job, *_) = relayed.rows("import_job")
    assert job["submitted_at"].tzinfo is not None


@pytest.mark.parametrize("fault", ["ThrottlingException", "InternalServerException", "ServiceQuotaExceededException"])
def test_error_of_the_service_is_the_same_through_the_relay(relayed: Any, fault: str) -> None:
    """What pauses, is tried again or is refused without the relay is so with it."""
    relayed.faults.fail_calls("StartDICOMImportJob", fault)
    with pytest.raises(ClientError) as caught:
        relayed.deps.client.start_dicom_import_job(
            datastoreId=relayed.deps.datastore_id,
            jobName="x",
            clientToken="t",
            dataAccessRoleArn=relayed.deps.data_access_role_arn,
            inputS3Uri="s3://images/x/",
            outputS3Uri="s3://images/y/",
        )
    assert fault == caught.value.response["Error"]["Code"]
    assert "StartDICOMImportJob" == caught.value.operation_name


def test_job_that_the_service_forgot_is_settled_through_the_relay(relayed: Any) -> None:
    """The code of the error decides, and it arrives."""
    with pytest.raises(ClientError) as caught:
        relayed.deps.client.get_dicom_import_job(datastoreId=relayed.deps.datastore_id, jobId="0" * 32)
    assert "ResourceNotFoundException" == caught.value.response["Error"]["Code"]


def test_pages_come_one_by_one(relayed: Any) -> None:
    """A search that has more than a page is asked again with its token, and gives all."""
    from dicomflow.healthimaging import client

    relayed.plan(relayed.deliver({"1.2.1": 1}, delivery="d1"))
    relayed.drive()
    relayed.finish()
    found = client.search_image_sets(relayed.deps.client, relayed.deps.datastore_id, "DICOMSeriesInstanceUID", "1.2.1")
    assert 1 == len(found)


def test_service_that_is_not_reached_is_tried_again() -> None:
    """Neither a refused connection out there, nor a function that ran out of time, is an answer."""
    boto_client = boto3.client(
        "sqs",
        endpoint_url="http://127.0.0.1:9",
        region_name="eu-west-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    for function in (lambda event: answer_call(event, lambda _: boto_client), lambda _: 1 / 0):
        client = RelayClient(InProcess(function), "relay", "sqs")
        with pytest.raises(EndpointConnectionError):
            client.send_message(QueueUrl="http://127.0.0.1:9/q", MessageBody="x")


def test_parameters_that_are_refused_are_no_transient_error(relayed: Any) -> None:
    """They would be refused again, for ever."""
    with pytest.raises(ParamValidationError):
        relayed.deps.client.get_dicom_import_job(datastoreId=relayed.deps.datastore_id)


@pytest.mark.parametrize(
    ("service", "operation"),
    [("medical-imaging", "delete_image_set"), ("s3", "get_object"), ("sqs", "receive_message"), ("iam", "create_user")],
)
def test_other_call_is_not_passed_on(service: str, operation: str) -> None:
    """The relay is no way to anything else, whoever may call it."""
    with pytest.raises(PermanentError, match="is not passed on"):
        answer_call({"service": service, "operation": operation, "parameters": {}}, lambda _: None)
    if service in OPERATIONS:
        with pytest.raises(AttributeError):
            getattr(RelayClient(None, "relay", service), operation)
