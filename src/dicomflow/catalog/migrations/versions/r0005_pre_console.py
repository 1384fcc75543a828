"""Indexes that the console reads by time: what was indexed, delivered and imported in the last hour.

Revision 0005; runs before a deploy.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add an index on the time of each step."""
    for table, columns in (
        ("stored_object", ["indexed_at"]),
        ("delivery", ["closed_at", "delivery_id"]),
        ("series_import", ["updated_at", "series_import_id"]),
    ):
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns, unique=False)
