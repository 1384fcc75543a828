"""Rules of importing: priority, staged jobs, a pause of all starts, what edges are told, why a set is not primary.

Revision 0003; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op

from dicomflow.catalog.types import JSON_VALUE, UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns to delivery, series_import, import_job and image_set, and the table start_pause."""
    for column in ("series_changes", "reported_changes"):
        op.add_column("delivery", sa.Column(column, sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_delivery_to_report",
        "delivery",
        ["delivery_id"],
        unique=False,
        postgresql_where=sa.text("series_changes > reported_changes"),
        sqlite_where=sa.text("series_changes > reported_changes"),
    )
    op.add_column("series_import", sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("import_job", sa.Column("is_staged", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("image_set", sa.Column("differs_in", JSON_VALUE, nullable=True))
    op.create_table(
        "start_pause",
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("until_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("datastore_id", name=op.f("pk_start_pause")),
    )
