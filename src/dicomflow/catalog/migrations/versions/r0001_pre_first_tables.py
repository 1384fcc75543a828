"""First tables: index, deliveries, imports, local queue.

Revision 0001; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dicomflow.catalog.types import UtcDateTime

revision = "0001"
down_revision = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_BINARY_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create every table."""
    _create_index()
    _create_imports()
    _create_queue()


def _create_index() -> None:
    """Create patient, study, series, instance and the objects they came from."""
    op.create_table(
        "patient",
        sa.Column("patient_key", _KEY, nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text(), nullable=False),
        sa.Column("patient_name", sa.Text(), nullable=True),
        sa.Column("patient_birth_date", sa.Date(), nullable=True),
        sa.Column("patient_sex", sa.Text(), nullable=True),
        sa.Column("raw_values", _JSON, nullable=True),
        sa.Column("as_of", _BINARY_TEXT, nullable=False),
        sa.Column("unidentified_study_uid", sa.String(length=256), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("patient_key", name=op.f("pk_patient")),
        sa.UniqueConstraint("issuer_of_patient_id", "patient_id", "unidentified_study_uid", name="uq_patient_identity"),
    )
    op.create_table(
        "study",
        sa.Column("study_key", _KEY, nullable=False),
        sa.Column("patient_key", _KEY, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=256), nullable=False),
        sa.Column("study_date", sa.Date(), nullable=True),
        sa.Column("study_time", sa.Time(), nullable=True),
        sa.Column("study_id", sa.Text(), nullable=True),
        sa.Column("accession_number", sa.Text(), nullable=True),
        sa.Column("issuer_of_accession_number_sequence", _JSON, nullable=True),
        sa.Column("study_description", sa.Text(), nullable=True),
        sa.Column("modalities_in_study", _JSON, nullable=True),
        sa.Column("referring_physician_name", sa.Text(), nullable=True),
        sa.Column("consulting_physician_name", _JSON, nullable=True),
        sa.Column("name_of_physicians_reading_study", _JSON, nullable=True),
        sa.Column("procedure_code_sequence", _JSON, nullable=True),
        sa.Column("requesting_service", sa.Text(), nullable=True),
        sa.Column("specific_character_set", _JSON, nullable=True),
        sa.Column("raw_values", _JSON, nullable=True),
        sa.Column("as_of", _BINARY_TEXT, nullable=False),
        sa.ForeignKeyConstraint(["patient_key"], ["patient.patient_key"], name=op.f("fk_study_patient_key")),
        sa.PrimaryKeyConstraint("study_key", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    op.create_index(op.f("ix_study_patient_key"), "study", ["patient_key"], unique=False)
    op.create_table(
        "series",
        sa.Column("series_key", _KEY, nullable=False),
        sa.Column("study_key", _KEY, nullable=False),
        sa.Column("series_instance_uid", sa.String(length=256), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("modality", sa.Text(), nullable=True),
        sa.Column("series_date", sa.Date(), nullable=True),
        sa.Column("series_time", sa.Time(), nullable=True),
        sa.Column("series_description", sa.Text(), nullable=True),
        sa.Column("series_description_code_sequence", _JSON, nullable=True),
        sa.Column("instance_coercion_date_time", sa.DateTime(), nullable=True),
        sa.Column("performing_physician_name", _JSON, nullable=True),
        sa.Column("performing_physician_identification_sequence", _JSON, nullable=True),
        sa.Column("anatomical_orientation_type", sa.Text(), nullable=True),
        sa.Column("body_part_examined", sa.Text(), nullable=True),
        sa.Column("protocol_name", sa.Text(), nullable=True),
        sa.Column("patient_position", sa.Text(), nullable=True),
        sa.Column("station_name", sa.Text(), nullable=True),
        sa.Column("institution_name", sa.Text(), nullable=True),
        sa.Column("raw_values", _JSON, nullable=True),
        sa.Column("as_of", _BINARY_TEXT, nullable=False),
        sa.ForeignKeyConstraint(["study_key"], ["study.study_key"], name=op.f("fk_series_study_key")),
        sa.PrimaryKeyConstraint("series_key", name=op.f("pk_series")),
        sa.UniqueConstraint("series_instance_uid", name=op.f("uq_series_series_instance_uid")),
    )
    op.create_index(op.f("ix_series_study_key"), "series", ["study_key"], unique=False)
    op.create_table(
        "instance",
        sa.Column("instance_key", _KEY, nullable=False),
        sa.Column("series_key", _KEY, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=256), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=256), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=256), nullable=True),
        sa.Column("instance_number", sa.BigInteger(), nullable=True),
        sa.Column("image_type", _JSON, nullable=True),
        sa.Column("instance_creation_date", sa.Date(), nullable=True),
        sa.Column("instance_creation_time", sa.Time(), nullable=True),
        sa.Column("acquisition_date", sa.Date(), nullable=True),
        sa.Column("acquisition_time", sa.Time(), nullable=True),
        sa.Column("acquisition_date_time", sa.DateTime(), nullable=True),
        sa.Column("content_date", sa.Date(), nullable=True),
        sa.Column("acquisition_number", sa.BigInteger(), nullable=True),
        sa.Column("patient_orientation", _JSON, nullable=True),
        sa.Column("image_position_patient", _JSON, nullable=True),
        sa.Column("image_orientation_patient", _JSON, nullable=True),
        sa.Column("image_comments", sa.Text(), nullable=True),
        sa.Column("anatomic_region_sequence", _JSON, nullable=True),
        sa.Column("private_group_reference", sa.BigInteger(), nullable=True),
        sa.Column("recognizable_visual_features", sa.Text(), nullable=True),
        sa.Column("burned_in_annotation", sa.Text(), nullable=True),
        sa.Column("presentation_lut_shape", sa.Text(), nullable=True),
        sa.Column("icon_image_sequence", _JSON, nullable=True),
        sa.Column("samples_per_pixel", sa.BigInteger(), nullable=True),
        sa.Column("photometric_interpretation", sa.Text(), nullable=True),
        sa.Column("number_of_frames", sa.BigInteger(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("columns", sa.BigInteger(), nullable=True),
        sa.Column("bits_allocated", sa.BigInteger(), nullable=True),
        sa.Column("bits_stored", sa.BigInteger(), nullable=True),
        sa.Column("high_bit", sa.BigInteger(), nullable=True),
        sa.Column("pixel_representation", sa.BigInteger(), nullable=True),
        sa.Column("window_center", _JSON, nullable=True),
        sa.Column("window_width", _JSON, nullable=True),
        sa.Column("rescale_intercept", sa.Double(), nullable=True),
        sa.Column("rescale_slope", sa.Double(), nullable=True),
        sa.Column("pixel_spacing", _JSON, nullable=True),
        sa.Column("slice_thickness", sa.Double(), nullable=True),
        sa.Column("raw_values", _JSON, nullable=True),
        sa.Column("as_of", _BINARY_TEXT, nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["series_key"], ["series.series_key"], name=op.f("fk_instance_series_key")),
        sa.PrimaryKeyConstraint("instance_key", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instance_sop_instance_uid")),
    )
    op.create_index(op.f("ix_instance_series_key"), "instance", ["series_key"], unique=False)
    op.create_table(
        "stored_object",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=256), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=256), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=256), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("edge", sa.Text(), nullable=True),
        sa.Column("delivery_id", sa.Text(), nullable=True),
        sa.Column("stored_at", UtcDateTime(), nullable=True),
        sa.Column("indexed_at", UtcDateTime(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_stored_object")),
    )
    op.create_index(op.f("ix_stored_object_delivery_id"), "stored_object", ["delivery_id"], unique=False)
    op.create_index(
        "ix_stored_object_problem",
        "stored_object",
        ["object_key"],
        unique=False,
        postgresql_where=sa.text("problem IS NOT NULL"),
        sqlite_where=sa.text("problem IS NOT NULL"),
    )
    op.create_index(op.f("ix_stored_object_sop_instance_uid"), "stored_object", ["sop_instance_uid"], unique=False)
    op.create_index(op.f("ix_stored_object_study_instance_uid"), "stored_object", ["study_instance_uid"], unique=False)


def _create_imports() -> None:
    """Create deliveries, import queue, jobs, outcomes and image sets."""
    op.create_table(
        "delivery",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("manifest_key", sa.Text(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("closed_at", UtcDateTime(), nullable=False),
        sa.Column("instance_count", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("planned_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_delivery")),
    )
    op.create_table(
        "delivery_association",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("called_ae_title", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery.delivery_id"], name=op.f("fk_delivery_association_delivery_id")
        ),
        sa.PrimaryKeyConstraint("delivery_id", "association_id", name=op.f("pk_delivery_association")),
    )
    op.create_table(
        "import_job",
        sa.Column("import_job_id", _KEY, nullable=False),
        sa.Column("client_token", sa.Text(), nullable=False),
        sa.Column("job_name", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("input_s3_uri", sa.Text(), nullable=False),
        sa.Column("output_s3_uri", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("submitted_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("scanned", sa.BigInteger(), nullable=True),
        sa.Column("imported", sa.BigInteger(), nullable=True),
        sa.Column("customer_errors", sa.BigInteger(), nullable=True),
        sa.Column("server_errors", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("import_job_id", name=op.f("pk_import_job")),
        sa.UniqueConstraint("client_token", name=op.f("uq_import_job_client_token")),
    )
    op.create_index(op.f("ix_import_job_job_id"), "import_job", ["job_id"], unique=False)
    op.create_index(op.f("ix_import_job_state"), "import_job", ["state"], unique=False)
    op.create_table(
        "series_import",
        sa.Column("series_import_id", _KEY, nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=256), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=256), nullable=False),
        sa.Column("input_prefix", sa.Text(), nullable=False),
        sa.Column("object_count", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("client_token", sa.Text(), nullable=True),
        sa.Column("import_job_id", _KEY, nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.delivery_id"], name=op.f("fk_series_import_delivery_id")),
        sa.ForeignKeyConstraint(
            ["import_job_id"], ["import_job.import_job_id"], name=op.f("fk_series_import_import_job_id")
        ),
        sa.PrimaryKeyConstraint("series_import_id", name=op.f("pk_series_import")),
        sa.UniqueConstraint(
            "delivery_id", "series_instance_uid", name=op.f("uq_series_import_delivery_id_series_instance_uid")
        ),
    )
    op.create_index(op.f("ix_series_import_import_job_id"), "series_import", ["import_job_id"], unique=False)
    op.create_index(
        op.f("ix_series_import_series_instance_uid"), "series_import", ["series_instance_uid"], unique=False
    )
    op.create_index(
        op.f("ix_series_import_state_series_import_id"), "series_import", ["state", "series_import_id"], unique=False
    )
    op.create_index(op.f("ix_series_import_study_instance_uid"), "series_import", ["study_instance_uid"], unique=False)
    op.create_table(
        "import_outcome",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("import_job_id", _KEY, nullable=False),
        sa.Column("series_import_id", _KEY, nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=256), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("image_set_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["import_job_id"], ["import_job.import_job_id"], name=op.f("fk_import_outcome_import_job_id")
        ),
        sa.ForeignKeyConstraint(
            ["series_import_id"], ["series_import.series_import_id"], name=op.f("fk_import_outcome_series_import_id")
        ),
        sa.PrimaryKeyConstraint("object_key", "import_job_id", name=op.f("pk_import_outcome")),
    )
    op.create_index(op.f("ix_import_outcome_series_import_id"), "import_outcome", ["series_import_id"], unique=False)
    op.create_index(op.f("ix_import_outcome_sop_instance_uid"), "import_outcome", ["sop_instance_uid"], unique=False)
    op.create_table(
        "image_set",
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("image_set_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("is_primary", sa.Boolean(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("datastore_id", "image_set_id", name=op.f("pk_image_set")),
    )
    op.create_table(
        "series_image_set",
        sa.Column("series_instance_uid", sa.String(length=256), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("image_set_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datastore_id", "image_set_id"],
            ["image_set.datastore_id", "image_set.image_set_id"],
            name="fk_series_image_set_image_set",
        ),
        sa.PrimaryKeyConstraint(
            "series_instance_uid", "datastore_id", "image_set_id", name=op.f("pk_series_image_set")
        ),
    )
    op.create_index(
        op.f("ix_series_image_set_datastore_id_image_set_id"),
        "series_image_set",
        ["datastore_id", "image_set_id"],
        unique=False,
    )


def _create_queue() -> None:
    """Create the local queue."""
    op.create_table(
        "queue_message",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("visible_at", UtcDateTime(), nullable=False),
        sa.Column("receive_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.Column("enqueued_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_queue_message")),
    )
    op.create_index(op.f("ix_queue_message_queue_visible_at"), "queue_message", ["queue", "visible_at"], unique=False)
