"""What keeps imports apart: a nonce in a series' row, the queue's order as an index, and reports that wait.

Revision 0008; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add columns that rows of before do not fill, and an index."""
    op.add_column("series_import", sa.Column("nonce", sa.Text()))
    op.create_index(
        "ix_series_import_queue",
        "series_import",
        [sa.text("priority DESC"), "attempts", "series_import_id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.add_column("delivery", sa.Column("report_attempts", sa.Integer(), server_default="0", nullable=False))
    op.add_column("delivery", sa.Column("report_not_before", sa.DateTime(timezone=True)))
