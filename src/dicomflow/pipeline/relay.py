"""Calls of AWS's services from where they cannot be reached: through a function outside the VPC that makes them.

HealthImaging has no IPv6, and a NAT gateway for five calls costs more than all else that idles. The function inside
asks, by name and parameters; `answer_call` makes the call outside, if it is one of a few; and an error comes back as
the error of the service that it was. So a `RelayClient` stands for boto3's client where only those calls are made.
"""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from dicomflow.errors import PermanentError, TransientError

__all__ = ["OPERATIONS", "RelayClient", "answer_call", "build_lambda_client"]

logger = logging.getLogger(__name__)

OPERATIONS: Final = {
    "events": ("put_events",),
    "medical-imaging": (
        *("get_dicom_import_job", "get_image_set", "search_image_sets", "start_dicom_import_job"),
        *("copy_image_set", "update_image_set_metadata"),
    ),
    "secretsmanager": ("get_secret_value",),
    "sqs": ("change_message_visibility_batch", "send_message"),
}
"""All that is passed on; the role of the function outside says which of them it may."""
_TIME: Final = "$time"
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 65  # the function outside has a minute

Call = Mapping[str, Any]


class RelayClient:
    """Stands for the client of a service. Thread: any."""

    def __init__(self, lambda_client: Any, function: str, service: str) -> None:
        self._lambda = lambda_client
        self._function = function
        self._service = service

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        """Return what makes an operation's call."""
        if name not in OPERATIONS[self._service]:
            raise AttributeError(name)
        return partial(self._call, name)

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make a call.

        Raises:
            ClientError: the service's own error, or Lambda's.
            BotoCoreError: nobody answered, or the service refuses to read the parameters.
        """
        from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError  # noqa: PLC0415

        body = json.dumps({"service": self._service, "operation": operation, "parameters": parameters})
        answer = self._lambda.invoke(FunctionName=self._function, Payload=body.encode())
        if "FunctionError" in answer:  # it ran out of time, or crashed
            raise EndpointConnectionError(endpoint_url=self._function)
        told = json.loads(answer["Payload"].read(), object_hook=_with_times)
        if "response" in told:
            raise ClientError(told["response"], told["operation"])
        if "invalid" in told:
            raise ParamValidationError(report=told["invalid"])
        if "unreachable" in told:
            raise EndpointConnectionError(endpoint_url=told["unreachable"])
        return dict(told["answer"])


def answer_call(event: Call, build_client: Callable[[str], Any]) -> dict[str, Any]:
    """Make the call that an event asks for, and return its answer or its error.

    Raises:
        PermanentError: it is none of those that are passed on.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError  # noqa: PLC0415

    service, operation = str(event.get("service")), str(event.get("operation"))
    if operation not in OPERATIONS.get(service, ()):
        raise PermanentError(f"{service} {operation} is not passed on")
    try:
        answer = getattr(build_client(service), operation)(**event["parameters"])
    except ClientError as error:
        response = {
            "Error": {name: error.response["Error"].get(name, "") for name in ("Code", "Message")},
            "ResponseMetadata": {"HTTPStatusCode": error.response["ResponseMetadata"]["HTTPStatusCode"]},
        }
        return {"response": response, "operation": error.operation_name}
    except ParamValidationError as error:
        return {"invalid": str(error)}
    except (BotoCoreError, TransientError) as error:
        logger.warning("service_not_reached", extra={"service": service, "error": type(error).__name__})
        return {"unreachable": service}
    found: dict[str, Any] = json.loads(json.dumps({"answer": answer}, default=_encode_time))
    found["answer"].pop("ResponseMetadata", None)
    return found


def build_lambda_client() -> Any:
    """Return a client of Lambda; a repeat of its own would break the driver's rate of starts."""
    import boto3  # noqa: PLC0415  # a third of a cold start
    from botocore.config import Config  # noqa: PLC0415

    return boto3.client(
        "lambda",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        ),
    )


def _encode_time(value: object) -> dict[str, str]:
    if isinstance(value, datetime):
        return {_TIME: value.isoformat()}
    raise TypeError(f"an answer holds a {type(value).__name__}")


def _with_times(found: dict[str, Any]) -> Any:
    return datetime.fromisoformat(found[_TIME]) if found.keys() == {_TIME} else found
