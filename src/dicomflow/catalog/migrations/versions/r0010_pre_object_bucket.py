"""The bucket that objects' keys are in, for views that give an object's whole place.

Revision 0010; runs before a deploy: the pipeline fills it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    """Add the table of one row."""
    op.create_table(
        "object_bucket",
        sa.Column("one", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=True),
        sa.CheckConstraint("one = 1", name="ck_object_bucket_one"),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_object_bucket")),
    )
