"""From settings to dependencies: engine, store, queues and client, each built in one place with its limits set.

The clients of AWS are built at their first use: a function that calls neither queue nor service has a cold start
without boto3.
"""

import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from obstore.store import ObjectStore

from dicomflow.bucket import stores
from dicomflow.bucket.fips import fips_endpoint
from dicomflow.bucket.stores import IN_THE_CLOUD
from dicomflow.catalog.buckets import remember_bucket
from dicomflow.catalog.engine import create_engine_for, require_schema
from dicomflow.healthimaging.client import build_client
from dicomflow.pipeline.database import create_iam_engine
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.events import LOCAL_BUCKET
from dicomflow.pipeline.outbox import EventBridge
from dicomflow.pipeline.relay import RelayClient, build_lambda_client
from dicomflow.pipeline.settings import PipelineSettings, RelaySettings
from dicomflow.pipeline.worker import LONG_POLL_SECONDS, SqsQueues

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging.client import HealthImagingClient
    from mypy_boto3_sqs import SQSClient

__all__ = ["Later", "build_dependencies", "build_queues", "build_store", "client_of"]

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
ATTEMPTS: Final = 5


def build_dependencies(settings: PipelineSettings) -> Dependencies:
    """Build everything the handlers need.

    Raises:
        PermanentError: the catalog has no schema, or one older than this program's.
    """
    url = settings.database_url.get_secret_value()
    engine = create_iam_engine(url) if settings.database_iam else create_engine_for(url)
    require_schema(engine)
    bucket, store = build_store(settings.store_url)
    remember_bucket(engine, bucket, None if bucket == LOCAL_BUCKET else _region())
    return Dependencies(
        engine=engine,
        store=store,
        bucket=bucket,
        client=cast("HealthImagingClient", Later(lambda: client_of("medical-imaging", settings.relay))),
        datastore_id=settings.imports.datastore_id,
        data_access_role_arn=settings.imports.data_access_role_arn,
        concurrent_imports=settings.imports.concurrent,
        start_rate=settings.imports.starts_per_second,
        import_enabled=settings.imports.enabled,
        enqueue=build_queues(settings.queues.urls(), settings.relay).enqueue,
        clock=lambda: datetime.now(UTC),
        job_limit=timedelta(hours=settings.imports.job_hours),
        stat_ae_titles=settings.imports.stat_ae_titles,
        retention=timedelta(days=settings.retention_days) if settings.retention_days else None,
        issuers=settings.issuers,
        character_sets=settings.character_sets,
        publisher=_publisher(settings),
    )


def _publisher(settings: PipelineSettings) -> EventBridge | None:
    if not settings.events.bus:
        return None
    return EventBridge(Later(lambda: client_of("events", settings.relay)), settings.events.bus)


def build_store(store_url: str) -> tuple[str, ObjectStore]:
    """Return the bucket that a URL names, and its store; endpoint and credentials follow the environment.

    Raises:
        PermanentError: the URL is neither a bucket's nor a folder's.
    """
    if not store_url.startswith("s3://"):
        return LOCAL_BUCKET, stores.build_store(store_url, IN_THE_CLOUD)
    bucket = urlsplit(store_url).netloc
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or _fips_endpoint()
    config = {"endpoint": endpoint} if endpoint else {}
    return bucket, stores.build_store(f"s3://{bucket}", IN_THE_CLOUD, config=config)


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _fips_endpoint() -> str | None:
    if not os.environ.get("AWS_USE_FIPS_ENDPOINT"):
        return None
    import botocore.session  # noqa: PLC0415  # a third of a second, only where it is asked for

    return fips_endpoint(botocore.session.Session())


def build_queues(urls: Mapping[str, str], relay: RelaySettings | None = None) -> SqsQueues:
    """Return the SQS queues with these URLs."""
    return SqsQueues(cast("SQSClient", Later(lambda: client_of("sqs", relay))), urls)


def client_of(service: str, relay: RelaySettings | None = None) -> Any:
    """Return the client of a service that the pipeline calls, or what stands for it."""
    if relay is not None and service in relay.services:
        return RelayClient(build_lambda_client(), relay.function, service)
    if service == "medical-imaging":
        return build_client()
    return _build_sqs_client() if service == "sqs" else _build_other(service)


def _build_other(service: str) -> Any:
    import boto3  # noqa: PLC0415  # see the module

    return boto3.client(service)  # type: ignore[call-overload]  # any service has a client


def _build_sqs_client() -> "SQSClient":
    import boto3  # noqa: PLC0415  # see the module
    from botocore.config import Config  # noqa: PLC0415

    client: SQSClient = boto3.client(
        "sqs",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS + LONG_POLL_SECONDS,
        ),
    )
    return client


class Later:
    """Stands for a client until it is used. Thread: any; `_lock` guards the building."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._client: Any = None

    def __getattr__(self, name: str) -> Any:
        """Return the client's own member."""
        with self._lock:
            if self._client is None:
                self._client = self._build()
        return getattr(self._client, name)
