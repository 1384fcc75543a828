"""The simulator's memory: tables in a SQLite file of its own, and how to open it.

Times are seconds since the epoch on the simulator's clock. Rows are read and written by the modules that own them:
`datastores`, `jobs`, `grouping` and `imagesets`; this state is no part of the catalog.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    ColumnElement,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    event,
    or_,
)

from dicomflow.catalog.engine import make_engine

__all__ = [
    "datastore",
    "delayed_event",
    "delayed_object",
    "has_come",
    "image_set",
    "image_set_instance",
    "image_set_version",
    "job",
    "open_state",
    "outbox",
    "tag",
]

LONGEST_SECONDS = 900.0

metadata = MetaData()

datastore = Table(
    "datastore",
    metadata,
    Column("datastore_id", String, primary_key=True),
    Column("client_token", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("status", String, nullable=False),
    Column("properties", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("due_at", Float),
)

job = Table(
    "job",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("job_id", String, nullable=False, unique=True),
    Column("datastore_id", ForeignKey("datastore.datastore_id"), nullable=False),
    Column("client_token", String, nullable=False, index=True),
    Column("request", JSON, nullable=False),
    Column("name", String, nullable=False),
    Column("status", String, nullable=False, index=True),
    Column("message", String),
    Column("submitted_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("due_at", Float, index=True),
)

image_set = Table(
    "image_set",
    metadata,
    Column("image_set_id", String, primary_key=True),
    Column("datastore_id", ForeignKey("datastore.datastore_id"), nullable=False),
    Column("study_instance_uid", String, nullable=False, index=True),
    Column("series_instance_uid", String, nullable=False, index=True),
    Column("is_primary", Boolean, nullable=False),
    Column("elements", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("workflow_status", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("deleted_at", Float),
    Column("due_at", Float, index=True),
)
Index(
    "primary_of_series",
    image_set.c.datastore_id,
    image_set.c.study_instance_uid,
    image_set.c.series_instance_uid,
    sqlite_where=image_set.c.is_primary & (image_set.c.state != "DELETED"),
)

image_set_version = Table(
    "image_set_version",
    metadata,
    Column("image_set_id", ForeignKey("image_set.image_set_id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("job_id", String),
    Column("workflow_status", String, nullable=False),
    Column("is_primary", Boolean, nullable=False),
    Column("patient", JSON, nullable=False),
    Column("study", JSON, nullable=False),
    Column("series", JSON, nullable=False),
    Column("forced", Boolean, nullable=False, default=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

# An instance belongs to the versions from `from_version` up to and without `to_version`.
image_set_instance = Table(
    "image_set_instance",
    metadata,
    Column("image_set_id", ForeignKey("image_set.image_set_id"), primary_key=True),
    Column("sop_instance_uid", String, primary_key=True),
    Column("from_version", Integer, primary_key=True),
    Column("to_version", Integer),
    Column("bucket", String, nullable=False),
    Column("key", String, nullable=False),
    Column("document", JSON, nullable=False),
)

tag = Table(
    "tag",
    metadata,
    Column("resource_arn", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
)

# Events of the outbox that are not to be delivered yet.
delayed_event = Table(
    "delayed_event",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("due_at", Float, nullable=False, index=True),
)

# Results of a job that are not there yet although it has ended.
delayed_object = Table(
    "delayed_object",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("bucket", String, nullable=False),
    Column("key", String, nullable=False),
    Column("text", String, nullable=False),
    Column("due_at", Float, nullable=False, index=True),
)


def has_come(moment: Column[Any], now: float) -> ColumnElement[bool]:
    """Tell times that are past, or further away than anything takes here: these are of a clock that was wrong."""
    return or_(moment <= now, moment > now + LONGEST_SECONDS)


def open_state(path: Path) -> Engine:
    """Open or create the state file; several threads may use the engine, one at a time writes."""
    engine = make_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})
    event.listen(engine, "connect", _prepare)
    metadata.create_all(engine)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    """Set up one connection: readers beside the writer, and foreign keys that hold."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
