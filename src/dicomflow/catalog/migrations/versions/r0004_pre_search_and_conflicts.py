"""Search, conflicts, the history of patients, and an audit trail.

Revision 0004; runs before a deploy: what it adds is filled from the rows that are there, and has defaults for a
program of the revision before.
"""

import sqlalchemy as sa
from alembic import op

from dicomflow.catalog.index import demographics_digest
from dicomflow.catalog.types import BINARY_TEXT, JSON_VALUE, KEY, UtcDateTime
from dicomflow.dicom.names import fold_words

revision = "0004"
down_revision = "0003"

_UID = sa.String(length=256)
_PAGE_ROWS = 10_000


def upgrade() -> None:
    """Add columns, tables and indexes, and fill them."""
    op.add_column("stored_object", sa.Column("object_sha256", sa.String(length=64), nullable=True))
    op.add_column("instance", sa.Column("versions", sa.Integer(), server_default="1", nullable=False))
    op.add_column("study", sa.Column("sort_at", BINARY_TEXT, server_default="", nullable=False))
    _create_tables()
    _create_indexes()
    _fill_from_rows()
    _fill_from_patients()


def _create_tables() -> None:
    op.create_table(
        "patient_history",
        sa.Column("patient_key", KEY, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("patient_name", sa.Text(), nullable=True),
        sa.Column("patient_birth_date", sa.Date(), nullable=True),
        sa.Column("patient_sex", sa.Text(), nullable=True),
        sa.Column("first_as_of", BINARY_TEXT, nullable=False),
        sa.Column("last_as_of", BINARY_TEXT, nullable=False),
        sa.ForeignKeyConstraint(["patient_key"], ["patient.patient_key"], name=op.f("fk_patient_history_patient_key")),
        sa.PrimaryKeyConstraint("patient_key", "digest", name=op.f("pk_patient_history")),
    )
    op.create_table(
        "patient_word",
        sa.Column("word", BINARY_TEXT, nullable=False),
        sa.Column("patient_key", KEY, nullable=False),
        sa.ForeignKeyConstraint(["patient_key"], ["patient.patient_key"], name=op.f("fk_patient_word_patient_key")),
        sa.PrimaryKeyConstraint("word", "patient_key", name=op.f("pk_patient_word")),
    )
    op.create_table(
        "study_patient",
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.Column("patient_key", KEY, nullable=False),
        sa.ForeignKeyConstraint(["patient_key"], ["patient.patient_key"], name=op.f("fk_study_patient_patient_key")),
        sa.PrimaryKeyConstraint("study_instance_uid", "patient_key", name=op.f("pk_study_patient")),
    )
    op.create_table(
        "series_study",
        sa.Column("series_instance_uid", _UID, nullable=False),
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.PrimaryKeyConstraint("series_instance_uid", "study_instance_uid", name=op.f("pk_series_study")),
    )
    op.create_table(
        "audit_event",
        sa.Column("audit_event_id", KEY, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("uid", _UID, nullable=True),
        sa.Column("details", JSON_VALUE, nullable=True),
        sa.PrimaryKeyConstraint("audit_event_id", name=op.f("pk_audit_event")),
    )


def _create_indexes() -> None:
    for table, columns in (
        ("patient", ["patient_id"]),
        ("patient_word", ["patient_key"]),
        ("study", ["sort_at", "study_key"]),
        ("study", ["accession_number"]),
        ("study_patient", ["patient_key"]),
        ("series", ["modality", "study_key"]),
        ("series_study", ["study_instance_uid"]),
        ("series_import", ["status", "study_instance_uid"]),
        ("audit_event", ["at"]),
        ("audit_event", ["uid"]),
    ):
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns, unique=False)
    for name, table, column, condition in (
        ("ix_patient_unidentified", "patient", "unidentified_study_uid", "unidentified_study_uid <> ''"),
        ("ix_instance_versions", "instance", "sop_instance_uid", "versions > 1"),
        ("ix_stored_object_damaged", "stored_object", "object_key", "sha256 <> object_sha256"),
    ):
        where = sa.text(condition)
        op.create_index(name, table, [column], unique=False, postgresql_where=where, sqlite_where=where)


def _fill_from_rows() -> None:
    """Fill what one statement can tell; both databases write dates and times as ISO 8601."""
    op.execute(
        "UPDATE study SET sort_at = CAST(study_date AS TEXT) || 'T' || coalesce(CAST(study_time AS TEXT), '00:00:00')"
        " WHERE study_date IS NOT NULL"
    )
    op.execute(
        "INSERT INTO study_patient (study_instance_uid, patient_key) SELECT study_instance_uid, patient_key FROM study"
    )
    op.execute(
        "INSERT INTO series_study (series_instance_uid, study_instance_uid) SELECT series.series_instance_uid,"
        " study.study_instance_uid FROM series JOIN study ON study.study_key = series.study_key"
    )


def _fill_from_patients() -> None:
    """Fill the history and the words, page by page."""
    key, text = sa.column("patient_key", sa.BigInteger()), sa.Text()
    names = ("patient_name", "patient_birth_date", "patient_sex")
    source = sa.table("patient", key, *(sa.column(name) for name in names), sa.column("as_of"))
    source.c.patient_birth_date.type = sa.Date()
    history = sa.table(
        "patient_history",
        *(sa.column(name) for name in ("patient_key", "digest", "patient_name", "patient_sex")),
        sa.column("patient_birth_date", sa.Date()),
        *(sa.column(name, text) for name in ("first_as_of", "last_as_of")),
    )
    words = sa.table("patient_word", sa.column("word", text), sa.column("patient_key"))
    connection, last = op.get_bind(), -1
    page = sa.select(source).where(key > sa.bindparam("last")).order_by(key).limit(_PAGE_ROWS)
    while rows := connection.execute(page, {"last": last}).mappings().all():
        last = rows[-1]["patient_key"]
        values = [{name: row[name] for name in ("patient_key", *names)} | _span(row) for row in rows]
        connection.execute(sa.insert(history), values)
        folded = [
            {"word": word, "patient_key": row["patient_key"]}
            for row in rows
            for word in fold_words(row["patient_name"] or "")
        ]
        if folded:
            connection.execute(sa.insert(words), folded)


def _span(row: sa.RowMapping) -> dict[str, str]:
    digest = demographics_digest(row["patient_name"], row["patient_birth_date"], row["patient_sex"])
    return {"digest": digest, "first_as_of": row["as_of"], "last_as_of": row["as_of"]}
