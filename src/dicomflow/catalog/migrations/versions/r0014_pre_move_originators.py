"""For whose C-MOVE an association stored.

Revision 0014; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column; the associations before it have none."""
    op.add_column("delivery_association", sa.Column("move_originators", sa.Text()))
