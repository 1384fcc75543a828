"""Transfers: images that go back to a site, and what became of each.

Revision 0013; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_UID = sa.String(length=256)
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the two tables."""
    op.create_table(
        "transfer",
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("uid", _UID),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("rounds", sa.Integer(), server_default="1", nullable=False),
        sa.Column("answered_rounds", sa.Integer(), server_default="0", nullable=False),
        sa.Column("returned_sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("requested_at", _MOMENT, nullable=False),
        sa.Column("copied_at", _MOMENT),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("settled_at", _MOMENT),
        sa.PrimaryKeyConstraint("transfer_id", name=op.f("pk_transfer")),
    )
    op.create_index(op.f("ix_transfer_uid"), "transfer", ["uid"])
    op.create_index(op.f("ix_transfer_requested_at"), "transfer", ["requested_at"])
    waiting = sa.text("answered_rounds < rounds")
    op.create_index("ix_transfer_waiting", "transfer", ["edge"], postgresql_where=waiting, sqlite_where=waiting)
    op.create_table(
        "transfer_instance",
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", _UID, nullable=False),
        sa.Column("sop_class_uid", _UID, nullable=False),
        sa.Column("transfer_syntax_uid", _UID, nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("reason", sa.Text()),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.transfer_id"], name=op.f("fk_transfer_instance_transfer_id")
        ),
        sa.PrimaryKeyConstraint("transfer_id", "number", name=op.f("pk_transfer_instance")),
    )
    op.create_index(op.f("ix_transfer_instance_sop_instance_uid"), "transfer_instance", ["sop_instance_uid"])
