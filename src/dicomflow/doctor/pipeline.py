"""Checks of the pipeline: its settings, its database, its bucket, its queues, and what HealthImaging lets it do."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import ObjectStore
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from dicomflow.bucket.keys import STAGING_PREFIX
from dicomflow.catalog.engine import create_engine_for, database_url, require_schema, schema_revision
from dicomflow.doctor.findings import Check, Problem, Skip, Warn
from dicomflow.doctor.machine import check_clock, check_store, write_advice
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store, local_root
from dicomflow.errors import TransientError
from dicomflow.healthimaging.client import JobStatus, build_client, get_datastore
from dicomflow.pipeline.behind import manifests_behind
from dicomflow.pipeline.handlers import QUEUES
from dicomflow.pipeline.settings import ImportSettings, PipelineSettings

__all__ = ["check_database", "check_deliveries", "checks_of_pipeline"]

_SECONDS: Final = 5
# Service Quotas' name of "concurrent import jobs per data store".
_QUOTA: Final = {"ServiceCode": "medical-imaging", "QuotaCode": "L-23763099"}
_STORE_ADVICE: Final = (
    "the pipeline needs s3:GetObject and s3:ListBucket on the bucket, and s3:PutObject and s3:DeleteObject on staging/"
)
_DATABASE_ADVICE: Final = (
    "look at DICOMFLOW_DATABASE_URL: host, port, name and user; a security group that lets this machine in; for Aurora"
    " the right rds-db:connect and the bundle of RDS's CAs as sslrootcert"
)
_BEHIND_ADVICE: Final = (
    "was the catalog lost, or restored from a backup? `dicomflow catalog rebuild` takes in what it does not know; then"
    " `dicomflow imports retry --all --state disabled` queues what is not in HealthImaging"
)
_ON_THE_WAY: Final = timedelta(hours=1)  # events of younger ones may still come
_MAX_AHEAD_SECONDS: Final = 30.0


def checks_of_pipeline(settings: PipelineSettings) -> Iterator[Check]:
    """Yield the checks of the settings that `dicomflow worker` and the Lambda functions read."""
    yield Check("database", lambda: check_database(settings.database_url.get_secret_value()), _DATABASE_ADVICE)
    probe = f"{STAGING_PREFIX}doctor/probe"
    delivery = DeliverySettings(store_url=settings.store_url.rstrip("/"))
    store = build_store(delivery, is_patient=False)
    yield Check("store", lambda: f"{settings.store_url}: {check_store(store, probe, _STORE_ADVICE)}", _STORE_ADVICE)
    if local_root(delivery.store_url) is None:
        yield Check("clock", lambda: check_clock(store, probe), "set the clock")
    yield Check("deliveries", lambda: check_deliveries(settings.database_url.get_secret_value(), store), _BEHIND_ADVICE)
    for name in QUEUES:
        url = settings.queues.urls().get(name)
        yield Check(f"queue {name}", lambda name=name, url=url: _check_queue(name, url), "repair the queue's URL")  # type: ignore[misc]  # bound now
    imports = settings.imports
    if not imports.enabled:
        return
    yield Check("HealthImaging", lambda: _check_datastore(imports), "set DICOMFLOW_IMPORTS__DATASTORE_ID")
    yield Check("HealthImaging jobs", lambda: _check_jobs(imports), "repair the role of the pipeline")
    yield Check("HealthImaging quota", lambda: _check_quota(imports), "ask for the quota in Service Quotas")


def check_database(url: str) -> str:
    """Connect once, ask for the schema, and write to a table of this connection's own."""
    parsed = database_url(url)
    where = parsed.host or parsed.database or "the database"
    engine = create_engine_for(url, _SECONDS)
    try:
        started_at = datetime.now(UTC)
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))
            seconds = (datetime.now(UTC) - started_at).total_seconds()
            connection.execute(text("CREATE TEMPORARY TABLE dicomflow_doctor (n INTEGER)"))
            connection.execute(text("DROP TABLE dicomflow_doctor"))
        require_schema(engine)
        return f"{where} answers in {seconds * 1000:.0f} ms, schema {schema_revision(engine)}"
    except SQLAlchemyError as error:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        file = parsed.database if parsed.get_backend_name() == "sqlite" else None
        advice = write_advice(Path(file).parent) if file else _DATABASE_ADVICE
        raise Problem(f"{where} cannot be used: {lines[0]}", advice) from error
    finally:
        engine.dispose()


def check_deliveries(url: str, store: ObjectStore) -> str:
    """Look whether the catalog knows each delivery of the bucket: one that was restored from yesterday does not."""
    engine = create_engine_for(url, _SECONDS)
    try:
        behind = manifests_behind(engine, store, datetime.now(UTC) - _ON_THE_WAY)
    except (SQLAlchemyError, TransientError) as error:
        raise Skip("catalog and store cannot be compared", "see their own checks") from error
    finally:
        engine.dispose()
    if behind:
        raise Problem(
            f"the catalog does not know {len(behind)} manifests of the bucket, {behind[0]} first", _BEHIND_ADVICE
        )
    return "the catalog knows every manifest of the bucket"


def _check_queue(name: str, url: str | None) -> str:
    variable = f"DICOMFLOW_QUEUES__{name.upper()}"
    if url is None:
        raise Skip(f"{variable} is not set", "set it where this queue is worked on; every function needs DRIVE")
    client = boto3.client("sqs", config=_config())
    try:
        found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    except (ClientError, BotoCoreError) as error:
        advice = f"correct {variable}; the role needs sqs:GetQueueAttributes, ReceiveMessage and DeleteMessage on it"
        raise Problem(_say(error), advice) from error
    waiting = found.get("ApproximateNumberOfMessages", "?")
    if "RedrivePolicy" not in found:
        raise Warn(f"{waiting} messages wait; it has no dead-letter queue", "give it one, with 5 receives")
    return f"{waiting} messages wait"


def _check_datastore(imports: ImportSettings) -> str:
    client = build_client()
    found = get_datastore(client, imports.datastore_id)
    if found.status != "ACTIVE":
        raise Problem(f"data store {found.name} is {found.status}", "wait until it is ACTIVE, or name another one")
    answer: Any = client.get_datastore(datastoreId=imports.datastore_id)
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if "date" in headers:
        off = abs((parsedate_to_datetime(headers["date"]) - datetime.now(UTC)).total_seconds())
        if off > _MAX_AHEAD_SECONDS:
            raise Warn(f"this clock and the service's are {off:.0f} s apart", "set the clock with NTP")
    return f"data store {found.name} is ACTIVE"


def _check_jobs(imports: ImportSettings) -> str:
    client = build_client()
    try:
        answer = client.list_dicom_import_jobs(
            datastoreId=imports.datastore_id, jobStatus=JobStatus.IN_PROGRESS.value, maxResults=50
        )
    except (ClientError, BotoCoreError) as error:
        advice = "allow medical-imaging:ListDICOMImportJobs, GetDICOMImportJob, StartDICOMImportJob and iam:PassRole"
        raise Problem(_say(error), advice) from error
    return f"{len(answer['jobSummaries'])} jobs run; {imports.concurrent} at once are used"


def _check_quota(imports: ImportSettings) -> str:
    try:
        found = boto3.client("service-quotas", config=_config()).get_service_quota(**_QUOTA)["Quota"]
        quota = int(found["Value"])
    except (ClientError, BotoCoreError) as error:
        advice = "allow servicequotas:GetServiceQuota to have it checked; by default 100 jobs run at once"
        raise Skip(f"the quota is not known: {_say(error)}", advice) from error
    text_ = f"{quota} import jobs at once; DICOMFLOW_IMPORTS__CONCURRENT is {imports.concurrent}"
    if imports.concurrent > quota:
        raise Warn(text_, "set DICOMFLOW_IMPORTS__CONCURRENT to the quota, or ask for more in Service Quotas")
    return text_


def _config() -> Config:
    return Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 1})


def _say(error: Exception) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", type(error).__name__))
    return str(error)
