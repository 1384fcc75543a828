"""Follow import jobs: when to look at one again, and the wake-up that is under way.

Revision 0002; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op

from dicomflow.catalog.types import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add three columns to import_job, and the table wake_up."""
    op.add_column("import_job", sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))
    for column in ("called_at", "due_at"):
        op.add_column("import_job", sa.Column(column, UtcDateTime(), nullable=True))
        op.create_index(op.f(f"ix_import_job_{column}"), "import_job", [column], unique=False)
    op.create_table(
        "wake_up",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_wake_up")),
    )
