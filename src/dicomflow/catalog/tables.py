"""All tables of the catalog, the same on PostgreSQL and SQLite.

The index tables `patient`, `study`, `series` and `instance` take their columns from `dicom.attributes`; the rest are
objects, deliveries, imports and the local queue. This module must not know how rows come about.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import TypeEngine

from dicomflow.catalog.types import BINARY_TEXT, JSON_VALUE, KEY, UtcDateTime
from dicomflow.dicom.attributes import Attribute, Level, ValueType, of_level

__all__ = [
    "UID_LENGTH",
    "audit_event",
    "delivery",
    "delivery_association",
    "image_set",
    "import_job",
    "import_outcome",
    "instance",
    "metadata",
    "object_bucket",
    "outgoing_event",
    "patient",
    "patient_history",
    "patient_word",
    "queue_message",
    "series",
    "series_image_set",
    "series_import",
    "series_study",
    "start_pause",
    "stored_object",
    "study",
    "study_patient",
    "transfer",
    "transfer_instance",
    "wake_up",
]

UID_LENGTH: Final = 256
"""Characters of a UID column: HealthImaging's width, four times what PS3.5 9.1 allows."""

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_TYPES: Final[dict[ValueType, TypeEngine[Any]]] = {
    ValueType.UID: String(UID_LENGTH),
    ValueType.TEXT: Text(),
    ValueType.DATE: Date(),
    ValueType.TIME: Time(),
    ValueType.DATETIME: DateTime(timezone=False),  # the device's wall clock, as DA and TM are
    ValueType.INTEGER: BigInteger(),
    ValueType.FLOAT: Double(),
    ValueType.JSON: JSON_VALUE,
}

_REQUIRED: Final = frozenset(
    {"PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"}
)


def _attribute_column(attribute: Attribute) -> Column[Any]:
    return Column(attribute.column, _TYPES[attribute.type], nullable=attribute.keyword not in _REQUIRED)


def _attribute_columns(level: Level) -> list[Column[Any]]:
    """Return a level's attributes, what of them could not be parsed, and which object spoke last.

    `as_of` orders the objects that describe a row, so that any order of arrival ends in one row. An instance is what
    the greatest says; above it each value is of the greatest that has one, and `older_as_of` names, by column, those
    that are not of the row's own `as_of`.
    """
    return [
        *(_attribute_column(attribute) for attribute in of_level(level)),
        Column("raw_values", JSON_VALUE),
        Column("as_of", BINARY_TEXT, nullable=False),
        *([] if level is Level.INSTANCE else [Column("older_as_of", JSON_VALUE)]),
    ]


def _partial_index(name: str, column: str, condition: str) -> Index:
    return Index(name, column, postgresql_where=text(condition), sqlite_where=text(condition))


# One row per (issuer, Patient ID). An object without Issuer of Patient ID gets its site's. An object without a
# Patient ID makes a patient of its study alone: `patient_id` is empty and `unidentified_study_uid` names the study.
patient: Final = Table(
    "patient",
    metadata,
    Column("patient_key", KEY, primary_key=True),
    *_attribute_columns(Level.PATIENT),
    Column("unidentified_study_uid", String(UID_LENGTH), nullable=False, server_default=""),
    UniqueConstraint("issuer_of_patient_id", "patient_id", "unidentified_study_uid", name="uq_patient_identity"),
    Index(None, "patient_id"),
    _partial_index("ix_patient_unidentified", "unidentified_study_uid", "unidentified_study_uid <> ''"),
)

# Every set of demographics that came under a patient's identity, and from which objects at the earliest and latest,
# in the terms of `patient.as_of`. What has none makes no row.
patient_history: Final = Table(
    "patient_history",
    metadata,
    Column("patient_key", KEY, ForeignKey("patient.patient_key"), primary_key=True),
    Column("digest", String(64), primary_key=True),
    *(_attribute_column(attribute) for attribute in of_level(Level.PATIENT) if attribute.keyword not in _REQUIRED),
    Column("first_as_of", BINARY_TEXT, nullable=False),
    Column("last_as_of", BINARY_TEXT, nullable=False),
)

# The words of every name that a patient came under, folded for search (`dicom.names`); found by their beginning.
patient_word: Final = Table(
    "patient_word",
    metadata,
    Column("word", BINARY_TEXT, primary_key=True),
    Column("patient_key", KEY, ForeignKey("patient.patient_key"), primary_key=True, index=True),
)

# `sort_at` is date and time of the study as ISO 8601 text, "" without a date: the order in which studies are listed.
study: Final = Table(
    "study",
    metadata,
    Column("study_key", KEY, primary_key=True),
    Column("patient_key", KEY, ForeignKey("patient.patient_key"), nullable=False, index=True),
    *_attribute_columns(Level.STUDY),
    Column("sort_at", BINARY_TEXT, nullable=False, server_default=""),
    UniqueConstraint("study_instance_uid"),
    Index(None, "sort_at", "study_key"),
    Index(None, "accession_number"),
)

# Every patient that objects of a study named: more than one is a conflict. `as_of` is the last object that did, in the
# terms of `study.as_of`, `has_issuer` whether one named the issuer too. They decide whose the study is.
study_patient: Final = Table(
    "study_patient",
    metadata,
    Column("study_instance_uid", String(UID_LENGTH), primary_key=True),
    Column("patient_key", KEY, ForeignKey("patient.patient_key"), primary_key=True, index=True),
    Column("as_of", BINARY_TEXT, nullable=False, server_default=""),
    Column("has_issuer", Boolean, nullable=False, server_default=false()),
)

# A series is one of its study: devices and migrations use a Series Instance UID twice.
series: Final = Table(
    "series",
    metadata,
    Column("series_key", KEY, primary_key=True),
    Column("study_key", KEY, ForeignKey("study.study_key"), nullable=False),
    *_attribute_columns(Level.SERIES),
    UniqueConstraint("study_key", "series_instance_uid"),
    Index(None, "series_instance_uid"),
    Index(None, "modality", "study_key"),
)

# Every study that objects of a series named: more than one is a conflict.
series_study: Final = Table(
    "series_study",
    metadata,
    Column("series_instance_uid", String(UID_LENGTH), primary_key=True),
    Column("study_instance_uid", String(UID_LENGTH), primary_key=True, index=True),
)

# The current version of each SOP instance: `object_key` names the object that spoke last, `versions` counts the
# different digests of all its objects.
instance: Final = Table(
    "instance",
    metadata,
    Column("instance_key", KEY, primary_key=True),
    Column("series_key", KEY, ForeignKey("series.series_key"), nullable=False, index=True),
    *_attribute_columns(Level.INSTANCE),
    Column("object_key", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("versions", Integer, nullable=False, server_default="1"),
    UniqueConstraint("sop_instance_uid"),
    _partial_index("ix_instance_versions", "sop_instance_uid", "versions > 1"),
)

# Every object that an event or a manifest named, readable or not. `indexed_at` is NULL while only the manifest has
# spoken, `sha256` (lower-case hex) while only the event has; `object_sha256` is what the store or the object's own
# bytes say, where they could be asked; `data_set_sha256` is of the data set alone, where objects of an instance had to
# be compared; `problem` says why an object could not be indexed, or
# what is wrong with one that is.
stored_object: Final = Table(
    "stored_object",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("study_instance_uid", String(UID_LENGTH), index=True),
    Column("series_instance_uid", String(UID_LENGTH)),
    Column("sop_instance_uid", String(UID_LENGTH), index=True),
    Column("bytes", BigInteger),
    Column("sha256", String(64)),
    Column("object_sha256", String(64)),
    Column("edge", Text),
    Column("delivery_id", Text, index=True),
    Column("stored_at", UtcDateTime),
    Column("indexed_at", UtcDateTime, index=True),
    Column("problem", Text),
    Column("data_set_sha256", String(64)),
    _partial_index("ix_stored_object_problem", "object_key", "problem IS NOT NULL"),
    _partial_index("ix_stored_object_damaged", "object_key", "sha256 <> object_sha256"),
)

# The bucket that objects' keys are in; one row, written by the pipeline. A folder in its place has no region.
object_bucket: Final = Table(
    "object_bucket",
    metadata,
    Column("one", SmallInteger, CheckConstraint("one = 1", name="ck_object_bucket_one"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("region", Text),
)

# `series_changes` counts how often a series of the delivery was settled, `reported_changes` up to which of
# them the edge was told; `report_attempts` how often that failed since, and until when it is not tried again.
delivery: Final = Table(
    "delivery",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("edge", Text, nullable=False),
    Column("manifest_key", Text, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime, nullable=False),
    Column("instance_count", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("planned_at", UtcDateTime),
    Column("series_changes", Integer, nullable=False, server_default="0"),
    Column("reported_changes", Integer, nullable=False, server_default="0"),
    Column("report_attempts", Integer, nullable=False, server_default="0"),
    Column("report_not_before", UtcDateTime),
    Index(None, "closed_at", "delivery_id"),
    _partial_index("ix_delivery_to_report", "delivery_id", "series_changes > reported_changes"),
)

# `move_originators` has the AE title, "/" and the message ID of each C-MOVE it stored for, joined by a backslash, which
# no title holds; NULL for none.
delivery_association: Final = Table(
    "delivery_association",
    metadata,
    Column("delivery_id", Text, ForeignKey("delivery.delivery_id"), primary_key=True),
    Column("association_id", Text, primary_key=True),
    Column("calling_ae_title", Text, nullable=False),
    Column("called_ae_title", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("ended", Text, nullable=False),
    Column("move_originators", Text),
)

# `called_at` is the last call of StartDICOMImportJob, `due_at` when somebody looks at an unfinished job again,
# `attempts` how often that was needed since the last progress. The input of a staged job is a copy of some objects of
# a series, made because the others are in already.
import_job: Final = Table(
    "import_job",
    metadata,
    Column("import_job_id", KEY, primary_key=True),
    Column("client_token", Text, nullable=False, unique=True),
    Column("job_name", Text, nullable=False),
    Column("datastore_id", Text, nullable=False),
    Column("input_s3_uri", Text, nullable=False),
    Column("output_s3_uri", Text, nullable=False),
    Column("job_id", Text, index=True),
    Column("state", Text, nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("submitted_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("message", Text),
    Column("scanned", BigInteger),
    Column("imported", BigInteger),
    Column("customer_errors", BigInteger),
    Column("server_errors", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("called_at", UtcDateTime, index=True),
    Column("due_at", UtcDateTime, index=True),
    Column("is_staged", Boolean, nullable=False, server_default=false()),
)

# Until when no job is started at all: the service has said that it is too much, `attempts` times in a row.
start_pause: Final = Table(
    "start_pause",
    metadata,
    Column("datastore_id", Text, primary_key=True),
    Column("until_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
)

# One row per series of a delivery: the import queue. `status` is the seed's number (1 queued, 2 in progress,
# 3 completed, hidden ones too, 4 failed), `state` the whole truth; `input_prefix` is a key prefix that ends in "/".
# The greatest `priority` is started first. `nonce` tells a row from one of the same series that was removed; it is NULL
# in rows of before there was one.
series_import: Final = Table(
    "series_import",
    metadata,
    Column("series_import_id", KEY, primary_key=True),
    Column("delivery_id", Text, ForeignKey("delivery.delivery_id"), nullable=False),
    Column("study_instance_uid", String(UID_LENGTH), nullable=False, index=True),
    Column("series_instance_uid", String(UID_LENGTH), nullable=False, index=True),
    Column("input_prefix", Text, nullable=False),
    Column("object_count", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("not_before", UtcDateTime),
    Column("client_token", Text),
    Column("import_job_id", KEY, ForeignKey("import_job.import_job_id"), index=True),
    Column("message", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("nonce", Text),
    UniqueConstraint("delivery_id", "study_instance_uid", "series_instance_uid", name="uq_series_import_of_delivery"),
    Index(None, "state", "series_import_id"),
    Index(None, "updated_at", "series_import_id"),
    Index(None, "status", "study_instance_uid"),
)
Index(
    "ix_series_import_queue",
    series_import.c.priority.desc(),
    series_import.c.attempts,
    series_import.c.series_import_id,
    postgresql_where=text("state = 'queued'"),
    sqlite_where=text("state = 'queued'"),
)

import_outcome: Final = Table(
    "import_outcome",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("import_job_id", KEY, ForeignKey("import_job.import_job_id"), primary_key=True),
    Column("series_import_id", KEY, ForeignKey("series_import.series_import_id"), index=True),
    Column("sop_instance_uid", String(UID_LENGTH), index=True),
    Column("outcome", Text, nullable=False),
    Column("image_set_id", Text),
    Column("reason", Text),
)

# When the next delayed message that is under way to a queue arrives, so that a second one is not sent.
wake_up: Final = Table(
    "wake_up",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("due_at", UtcDateTime),
)

# `differs_in` lists the keywords in which a non-primary image set conflicts with the primary ones of its study.
image_set: Final = Table(
    "image_set",
    metadata,
    Column("datastore_id", Text, primary_key=True),
    Column("image_set_id", Text, primary_key=True),
    Column("version", BigInteger),
    Column("is_primary", Boolean),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("differs_in", JSON_VALUE),
    _partial_index("ix_image_set_hidden", "image_set_id", "NOT is_primary"),
)

series_image_set: Final = Table(
    "series_image_set",
    metadata,
    Column("series_instance_uid", String(UID_LENGTH), primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("image_set_id", Text, primary_key=True),
    Column("study_instance_uid", String(UID_LENGTH), nullable=False),
    ForeignKeyConstraint(
        ["datastore_id", "image_set_id"],
        ["image_set.datastore_id", "image_set.image_set_id"],
        name="fk_series_image_set_image_set",
    ),
    Index(None, "datastore_id", "image_set_id"),
)

# What others are told, in `detail`; an unsent one waits until `not_before`, and one that is sent stays for a while, so
# that it is not told again. `event_id` is a function of what happened.
outgoing_event: Final = Table(
    "outgoing_event",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("event_type", Text, nullable=False),
    Column("happened_at", UtcDateTime, nullable=False),
    Column("detail", JSON_VALUE, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("not_before", UtcDateTime),
    Index(None, "sent_at", "happened_at"),
)

# The local queue, in SQS's terms: a message that is not deleted is visible again at `visible_at`.
queue_message: Final = Table(
    "queue_message",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("visible_at", UtcDateTime, nullable=False),
    Column("receive_count", Integer, nullable=False, server_default="0"),
    Column("receipt", Text),
    Column("enqueued_at", UtcDateTime, nullable=False),
    Index(None, "queue", "visible_at"),
)

# Images that go back to a site, to a destination that the edge knows by name. `rounds` counts how often it was begun,
# `answered_rounds` up to which of them the edge has said its last; `copied_at` is when this round's copies and job were
# put, `returned_sequence` the last that the edge told. States are bucket/transfer.py's.
transfer: Final = Table(
    "transfer",
    metadata,
    Column("transfer_id", Text, primary_key=True),
    Column("edge", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("uid", String(UID_LENGTH), index=True),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("rounds", Integer, nullable=False, server_default="1"),
    Column("answered_rounds", Integer, nullable=False, server_default="0"),
    Column("returned_sequence", BigInteger, nullable=False, server_default="0"),
    Column("requested_by", Text, nullable=False),
    Column("requested_at", UtcDateTime, nullable=False, index=True),
    Column("copied_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime),
    _partial_index("ix_transfer_waiting", "edge", "answered_rounds < rounds"),
)

# `status` is of the destination's last answer (PS3.4 B.2.3); `object_key` is what was copied.
transfer_instance: Final = Table(
    "transfer_instance",
    metadata,
    Column("transfer_id", Text, ForeignKey("transfer.transfer_id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sop_instance_uid", String(UID_LENGTH), nullable=False, index=True),
    Column("sop_class_uid", String(UID_LENGTH), nullable=False),
    Column("transfer_syntax_uid", String(UID_LENGTH), nullable=False),
    Column("object_key", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("state", Text, nullable=False),
    Column("status", Integer),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
)

# Who or what did what to which UID, and when. Append-only.
audit_event: Final = Table(
    "audit_event",
    metadata,
    Column("audit_event_id", KEY, primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("uid", String(UID_LENGTH), index=True),
    Column("details", JSON_VALUE),
)
