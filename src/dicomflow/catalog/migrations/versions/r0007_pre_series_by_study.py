"""Series by their study, so that two patients may share a Series Instance UID; and what merged rows are made of.

Revision 0007; runs before a deploy. A program of the revision before cannot write series into this schema: its messages
fail, and come again to the program that is deployed next.
"""

import sqlalchemy as sa
from alembic import op

from dicomflow.catalog.types import BINARY_TEXT, JSON_VALUE

revision = "0007"
down_revision = "0006"

_UID = sa.String(length=256)


def upgrade() -> None:
    """Add columns, take rows over, and change keys."""
    for table in ("patient", "study", "series"):
        op.add_column(table, sa.Column("older_as_of", JSON_VALUE, nullable=True))
    op.add_column("study_patient", sa.Column("as_of", BINARY_TEXT, server_default="", nullable=False))
    op.add_column("study_patient", sa.Column("has_issuer", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(
        "UPDATE study_patient SET as_of = (SELECT study.as_of FROM study"
        " WHERE study.study_instance_uid = study_patient.study_instance_uid)"
        " WHERE EXISTS (SELECT 1 FROM study WHERE study.study_instance_uid = study_patient.study_instance_uid"
        " AND study.patient_key = study_patient.patient_key)"
    )
    with op.batch_alter_table("series_import") as batch:
        batch.drop_constraint("uq_series_import_delivery_id_series_instance_uid", type_="unique")
        batch.create_unique_constraint(
            "uq_series_import_of_delivery",
            ["delivery_id", "study_instance_uid", "series_instance_uid"],
        )
    with op.batch_alter_table("series") as batch:
        batch.drop_constraint("uq_series_series_instance_uid", type_="unique")
        batch.drop_index("ix_series_study_key")
        batch.create_unique_constraint(
            op.f("uq_series_study_key_series_instance_uid"), ["study_key", "series_instance_uid"]
        )
        batch.create_index("ix_series_series_instance_uid", ["series_instance_uid"])
    _part_series()
    _part_image_sets()


def _part_series() -> None:
    """Give each study that a series was seen in a series of its own, and each instance the one that its object names.

    A new row has the attributes of the old: an object that comes again corrects them.
    """
    columns = [column["name"] for column in sa.inspect(op.get_bind()).get_columns("series")]
    copied = [name for name in columns if name not in {"series_key", "study_key", "as_of"}]
    names = ", ".join(f'"{name}"' for name in copied)
    values = ", ".join(f'series."{name}"' for name in copied)
    op.execute(
        f"INSERT INTO series (study_key, as_of, {names}) SELECT study.study_key, '', {values} FROM series_study"  # noqa: S608  # names of columns
        " JOIN study ON study.study_instance_uid = series_study.study_instance_uid"
        " JOIN series ON series.series_instance_uid = series_study.series_instance_uid"
        " WHERE series.study_key <> study.study_key"
    )
    own = (
        "SELECT series.series_key FROM stored_object"
        " JOIN study ON study.study_instance_uid = stored_object.study_instance_uid"
        " JOIN series ON series.study_key = study.study_key"
        " AND series.series_instance_uid = stored_object.series_instance_uid"
        " WHERE stored_object.object_key = instance.object_key"
    )
    shared = "SELECT series_instance_uid FROM series GROUP BY series_instance_uid HAVING count(*) > 1"
    op.execute(
        f"UPDATE instance SET series_key = ({own}) WHERE EXISTS ({own}) AND series_key IN"  # noqa: S608  # as above
        f" (SELECT series_key FROM series WHERE series_instance_uid IN ({shared}))"
    )


def _part_image_sets() -> None:
    """Say whose series an image set holds: by its objects where studies share the series, else by the series."""
    op.add_column("series_image_set", sa.Column("study_instance_uid", _UID, nullable=True))
    op.execute(
        "UPDATE series_image_set SET study_instance_uid = found.study_instance_uid FROM"
        " (SELECT import_outcome.image_set_id, stored_object.series_instance_uid,"
        " min(stored_object.study_instance_uid) AS study_instance_uid FROM import_outcome"
        " JOIN stored_object ON stored_object.object_key = import_outcome.object_key"
        " WHERE import_outcome.image_set_id IS NOT NULL AND stored_object.series_instance_uid IN"
        " (SELECT series_instance_uid FROM series GROUP BY series_instance_uid HAVING count(*) > 1)"
        " GROUP BY import_outcome.image_set_id, stored_object.series_instance_uid) AS found"
        " WHERE found.image_set_id = series_image_set.image_set_id"
        " AND found.series_instance_uid = series_image_set.series_instance_uid"
    )
    op.execute(
        "UPDATE series_image_set SET study_instance_uid = coalesce((SELECT min(study.study_instance_uid) FROM series"
        " JOIN study ON study.study_key = series.study_key"
        " WHERE series.series_instance_uid = series_image_set.series_instance_uid), '')"
        " WHERE study_instance_uid IS NULL"
    )
    with op.batch_alter_table("series_image_set") as batch:
        batch.alter_column("study_instance_uid", existing_type=_UID, nullable=False)
