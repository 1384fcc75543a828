"""Events for others, which wait in the catalog until they are sent.

Revision 0011; runs before a deploy: a program of the revision before tells nobody anything.
"""

import sqlalchemy as sa
from alembic import op

from dicomflow.catalog.types import JSON_VALUE, UtcDateTime

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the outbox."""
    op.create_table(
        "outgoing_event",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("happened_at", UtcDateTime(), nullable=False),
        sa.Column("detail", JSON_VALUE, nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_outgoing_event")),
    )
    op.create_index(
        op.f("ix_outgoing_event_sent_at_happened_at"), "outgoing_event", ["sent_at", "happened_at"], unique=False
    )
