"""Calls of AWS HealthImaging: typed functions over a boto3 client, and its errors in our terms.

The client is passed in, so that the same functions speak to the service and to the simulator. boto3 is imported when
the first client is built: it is a third of a cold start, and some functions of the pipeline call nobody.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from dicomflow.errors import DicomflowError, PermanentError, TransientError
from dicomflow.healthimaging.results import REASON_LENGTH, clean_text

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from botocore.model import OperationModel
    from mypy_boto3_medical_imaging.client import HealthImagingClient

__all__ = [
    "AccessError",
    "Datastore",
    "ImageSet",
    "ImageSetNotFoundError",
    "ImageSetSummary",
    "ImportJob",
    "JobNotFoundError",
    "JobStatus",
    "StartedJob",
    "ThrottledError",
    "build_client",
    "create_datastore",
    "delete_image_set",
    "get_datastore",
    "get_image_set",
    "get_image_set_metadata",
    "get_import_job",
    "list_datastores",
    "list_import_jobs",
    "promote_image_set",
    "search_image_sets",
    "start_import_job",
    "update_image_set",
    "why_not",
]

# 402 is a quota that running jobs fill, 409 a resource that is busy: both pass. The rest of 4xx does not.
TRANSIENT_ERRORS: Final = frozenset(
    {
        "ThrottlingException",
        "TooManyRequestsException",
        "ServiceQuotaExceededException",
        "ConflictException",
        "InternalServerException",
        "ServiceUnavailableException",
    }
)
TRANSIENT_STATUSES: Final = frozenset({402, 408, 409, 425, 429})
# Too many calls, or too many jobs at once: AWS leaves open which of the two a full account answers.
THROTTLED: Final = frozenset({"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"})
SERVER_ERROR: Final = 500
# Credentials and policies are repaired by an operator, and then the same call succeeds.
ACCESS_ERRORS: Final = frozenset(
    {"AccessDeniedException", "ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"}
)
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 60
ATTEMPTS: Final = 1  # queue and driver repeat with their own patience; a hidden repeat would break the start rate
CONNECTIONS: Final = 16
AWS_DOMAINS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
MESSAGE_LENGTH: Final = 500

T = TypeVar("T")


class JobNotFoundError(PermanentError):
    """The service does not know the import job."""


class ImageSetNotFoundError(PermanentError):
    """The service has no such image set, or not any more."""


class AccessError(TransientError):
    """There are no credentials, or they are refused: nothing changes until somebody mends that."""


class ThrottledError(TransientError):
    """The service has more to do than this account may ask of it: whatever is asked next is too much as well."""


class JobStatus(StrEnum):
    """The service's word for how far a job is; it may have others."""

    SUBMITTED = "SUBMITTED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Datastore:
    """A data store and its state."""

    datastore_id: str
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class StartedJob:
    """The answer to a start: the same for the same token."""

    job_id: str
    status: str
    submitted_at: datetime


@dataclass(frozen=True, slots=True)
class ImportJob:
    """An import job as the service tells of it; the URIs are absent in lists."""

    job_id: str
    job_name: str
    status: str
    submitted_at: datetime | None
    ended_at: datetime | None
    message: str | None
    input_s3_uri: str | None = None
    output_s3_uri: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One version of an image set."""

    datastore_id: str
    image_set_id: str
    version: int
    state: str
    workflow_status: str | None
    is_primary: bool | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class ImageSetSummary:
    """An image set as a search finds it; `tags` are the service's DICOMTags."""

    image_set_id: str
    version: int | None
    is_primary: bool | None
    tags: dict[str, Any]


@cache
def build_client(
    endpoint_url: str | None = None,
    region: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
) -> "HealthImagingClient":
    """Return the client for these arguments, built once.

    Args:
        endpoint_url: another place than the service's, as the simulator's; None follows the environment.
        region: None follows the environment.
        access_key_id: only for a simulator; None takes botocore's own chain.
        secret_access_key: as `access_key_id`.
    """
    import boto3  # noqa: PLC0415  # see the module
    from botocore.config import Config  # noqa: PLC0415

    def build(endpoint: str | None) -> "HealthImagingClient":
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            # "runtime-" in front of a custom host is nobody's host.
            inject_host_prefix=endpoint is None or _is_of_aws(endpoint),
        )
        return boto3.client(
            "medical-imaging",
            endpoint_url=endpoint,
            region_name=region,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            config=config,
        )

    client = build(endpoint_url)
    if endpoint_url is None and not _is_of_aws(client.meta.endpoint_url):  # the environment names one
        client = build(client.meta.endpoint_url)
    client.meta.events.register("after-call", _refuse_cut_answer)
    return client


def _is_of_aws(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(AWS_DOMAINS)


def create_datastore(client: "HealthImagingClient", name: str, client_token: str) -> Datastore:
    """Create a data store, or find it by its token."""
    answer = _call(lambda: client.create_datastore(datastoreName=name, clientToken=client_token))
    return Datastore(answer["datastoreId"], name, answer["datastoreStatus"])


def get_datastore(client: "HealthImagingClient", datastore_id: str) -> Datastore:
    """Return a data store's name and state."""
    answer = _call(lambda: client.get_datastore(datastoreId=datastore_id))["datastoreProperties"]
    return Datastore(answer["datastoreId"], answer["datastoreName"], answer["datastoreStatus"])


def list_datastores(client: "HealthImagingClient") -> list[Datastore]:
    """Return every data store of the account and region."""
    pages = _pages(client, "list_datastores")
    return [
        Datastore(item["datastoreId"], item["datastoreName"], item["datastoreStatus"])
        for page in pages
        for item in page["datastoreSummaries"]
    ]


def start_import_job(
    client: "HealthImagingClient",
    *,
    datastore_id: str,
    job_name: str,
    client_token: str,
    data_access_role_arn: str,
    input_s3_uri: str,
    output_s3_uri: str,
) -> StartedJob:
    """Start an import job; a repeat with the same token finds the job that was started.

    Raises:
        ThrottledError: too many calls, or too many jobs at once.
        TransientError: in conflict, or the service failed or cannot be reached.
        PermanentError: the service refuses these parameters.
    """

    def call() -> StartedJob:
        answer = client.start_dicom_import_job(
            datastoreId=datastore_id,
            jobName=job_name,
            clientToken=client_token,
            dataAccessRoleArn=data_access_role_arn,
            inputS3Uri=input_s3_uri,
            outputS3Uri=output_s3_uri,
        )
        return StartedJob(_text(answer["jobId"]), _text(answer["jobStatus"]), answer["submittedAt"])

    return _call(call)


def get_import_job(client: "HealthImagingClient", datastore_id: str, job_id: str) -> ImportJob:
    """Return an import job.

    Raises:
        JobNotFoundError: the service does not know it.
    """
    try:
        return _call(
            lambda: _import_job(client.get_dicom_import_job(datastoreId=datastore_id, jobId=job_id)["jobProperties"])
        )
    except PermanentError as error:
        if _cause_code(error) == "ResourceNotFoundException":
            raise JobNotFoundError(str(error)) from error.__cause__
        raise


def list_import_jobs(
    client: "HealthImagingClient", datastore_id: str, status: str | None = None
) -> Iterator[ImportJob]:
    """Yield the jobs of the last 90 days, in the service's order."""
    arguments = {"datastoreId": datastore_id} | ({} if status is None else {"jobStatus": status})
    for page in _pages(client, "list_dicom_import_jobs", **arguments):
        for item in page["jobSummaries"]:
            yield _import_job(item)


def get_image_set(client: "HealthImagingClient", datastore_id: str, image_set_id: str) -> ImageSet:
    """Return the latest version of an image set.

    Raises:
        ImageSetNotFoundError: the data store has none of this id, or has deleted it.
    """

    def call() -> ImageSet:
        answer = client.get_image_set(datastoreId=datastore_id, imageSetId=image_set_id)
        return ImageSet(
            datastore_id=answer["datastoreId"],
            image_set_id=_text(answer["imageSetId"]),
            version=int(answer["versionId"]),
            state=answer["imageSetState"],
            workflow_status=answer.get("imageSetWorkflowStatus"),
            is_primary=is_primary if isinstance(is_primary := answer.get("isPrimary"), bool) else None,
            updated_at=answer.get("updatedAt"),
        )

    try:
        found = _call(call)
    except PermanentError as error:
        if _cause_code(error) == "ResourceNotFoundException":
            raise ImageSetNotFoundError(str(error)) from error.__cause__
        raise
    if found.state == "DELETED":
        raise ImageSetNotFoundError(f"image set {image_set_id} is deleted")
    return found


def get_image_set_metadata(
    client: "HealthImagingClient", datastore_id: str, image_set_id: str, version: int | None = None
) -> dict[str, Any]:
    """Return an image set's metadata document, of the latest version by default."""
    arguments: dict[str, Any] = {} if version is None else {"versionId": str(version)}

    def call() -> bytes:
        answer = client.get_image_set_metadata(datastoreId=datastore_id, imageSetId=image_set_id, **arguments)
        blob: bytes = answer["imageSetMetadataBlob"].read()
        return blob

    document: dict[str, Any] = json.loads(gzip.decompress(_call(call)))
    return document


def delete_image_set(client: "HealthImagingClient", datastore_id: str, image_set_id: str) -> bool:
    """Delete an image set; False when there is none, as after an earlier call.

    Raises:
        TransientError: too many calls, or it is locked by another change.
    """
    try:
        _call(lambda: client.delete_image_set(datastoreId=datastore_id, imageSetId=image_set_id))
    except PermanentError as error:
        if _cause_code(error) == "ResourceNotFoundException":
            return False
        raise
    return True


def update_image_set(
    client: "HealthImagingClient",
    datastore_id: str,
    image_set_id: str,
    version: int,
    updates: Mapping[str, str],
    *,
    is_forced: bool,
    of_study: bool,
) -> None:
    """Change the metadata of the latest version of an image set, which is LOCKED until that is done.

    Args:
        client: boto3's, or what stands for it.
        datastore_id: its data store.
        image_set_id: the image set.
        version: its latest version.
        updates: JSON by `updatableAttributes` and `removableAttributes`.
        is_forced: attributes that identify may change.
        of_study: all image sets of the study get the values of patient and study.

    Raises:
        TransientError: too many calls, or it is locked by another change.
        PermanentError: the service refuses.
    """
    arguments: dict[str, Any] = {"force": True} if is_forced else {}
    if of_study:
        arguments["includeStudyImageSets"] = True
    _call(
        lambda: client.update_image_set_metadata(
            datastoreId=datastore_id,
            imageSetId=image_set_id,
            latestVersionId=str(version),
            updateImageSetMetadataUpdates={"DICOMUpdates": dict(updates)},  # type: ignore[typeddict-item]  # by parts
            **arguments,
        )
    )


def promote_image_set(client: "HealthImagingClient", datastore_id: str, image_set_id: str, version: int) -> str:
    """Copy the latest version of an image set to the primary ones; return the id of the one that holds it.

    Raises:
        TransientError: too many calls, or it is locked by another change, or it conflicts still.
        PermanentError: the service refuses.
    """
    answer = _call(
        lambda: client.copy_image_set(
            datastoreId=datastore_id,
            sourceImageSetId=image_set_id,
            copyImageSetInformation={"sourceImageSet": {"latestVersionId": str(version)}},
            promoteToPrimary=True,
        )
    )
    return _text(answer["destinationImageSetProperties"]["imageSetId"])


def search_image_sets(
    client: "HealthImagingClient", datastore_id: str, attribute: str, value: str
) -> list[ImageSetSummary]:
    """Return the image sets, primary or not, with this value of an attribute, as `DICOMSeriesInstanceUID`."""
    criteria = {"filters": [{"operator": "EQUAL", "values": [{attribute: value}]}]}
    pages = _pages(client, "search_image_sets", datastoreId=datastore_id, searchCriteria=criteria)
    return [found for page in pages for found in _call(partial(_summaries, page))]


def _summaries(page: Mapping[str, Any]) -> list[ImageSetSummary]:
    return [
        ImageSetSummary(
            _text(item["imageSetId"]), item.get("version"), item.get("isPrimary"), dict(item.get("DICOMTags", {}))
        )
        for item in page["imageSetsMetadataSummaries"]
    ]


def _import_job(item: Mapping[str, Any]) -> ImportJob:
    message = item.get("message")
    return ImportJob(
        job_id=_text(item["jobId"]),
        job_name=item.get("jobName", ""),
        status=_text(item["jobStatus"]),
        submitted_at=item.get("submittedAt"),
        ended_at=item.get("endedAt"),
        message=None if message is None else clean_text(str(message), REASON_LENGTH),
        input_s3_uri=item.get("inputS3Uri"),
        output_s3_uri=item.get("outputS3Uri"),
    )


def _text(value: object) -> str:
    """Return a member that must be text; botocore hands on what the answer has in its place."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of text")
    return value


def _pages(client: "HealthImagingClient", operation: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of a list; the paginators' types differ by operation, so they are plain dicts here."""
    call: Callable[..., dict[str, Any]] = getattr(client, operation)
    token: dict[str, str] = {}
    while True:
        page = _call(partial(call, **arguments, **token))
        yield page
        if not page.get("nextToken"):
            return
        token = {"nextToken": page["nextToken"]}


def _refuse_cut_answer(parsed: dict[str, Any], model: "OperationModel", **_: object) -> None:
    """Refuse an answer without what it must have: botocore gives one that was cut as if it were whole."""
    shape = model.output_shape
    required = shape.required_members if shape is not None else ()
    if "Error" not in parsed and any(name not in parsed for name in required):
        raise TransientError(f"{model.name}: the answer was cut off")


def _call(call: Callable[[], T]) -> T:
    """Make a call and put its errors in our terms; no text of the request is repeated in them.

    Whatever else comes out of it is an answer that nobody can read: botocore's parsers raise many kinds of errors.
    """
    from botocore import exceptions as botocore  # noqa: PLC0415  # see the module

    try:
        return call()
    except botocore.ClientError as error:
        code = _code(error)
        told = clean_text(str(error.response["Error"].get("Message", "")), MESSAGE_LENGTH)
        message = f"{error.operation_name}: {code}: {told}"
        if code in THROTTLED:
            raise ThrottledError(message) from error
        if code in ACCESS_ERRORS:
            raise AccessError(message) from error
        if _is_transient(error):
            raise TransientError(message) from error
        raise PermanentError(message) from error
    except botocore.ParamValidationError as error:
        raise PermanentError(str(error)[:MESSAGE_LENGTH]) from error
    except (
        botocore.NoCredentialsError,
        botocore.PartialCredentialsError,
        botocore.CredentialRetrievalError,
        botocore.TokenRetrievalError,
        botocore.SSOError,
    ) as error:
        raise AccessError(f"HealthImaging cannot be asked: {clean_text(str(error), MESSAGE_LENGTH)}") from error
    except botocore.BotoCoreError as error:
        raise TransientError(f"HealthImaging cannot be reached: {type(error).__name__}") from error
    except DicomflowError:
        raise
    except Exception as error:
        raise TransientError(f"the answer of HealthImaging cannot be read: {type(error).__name__}") from error


def why_not(error: DicomflowError) -> str:
    """Return why a call failed, for a log: the service's code in the place of its text, which may repeat a value."""
    code = _cause_code(error)
    return str(error) if code is None else code


def _cause_code(error: DicomflowError) -> str | None:
    """Return the service's code for what an error of ours was raised from."""
    response: dict[str, Any] = getattr(error.__cause__, "response", {})
    code: str | None = response.get("Error", {}).get("Code")
    return code


def _code(error: "ClientError") -> str:
    return clean_text(str(error.response["Error"].get("Code", "Unknown")), MESSAGE_LENGTH)


def _is_transient(error: "ClientError") -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _code(error) in TRANSIENT_ERRORS or status in TRANSIENT_STATUSES or status >= SERVER_ERROR
