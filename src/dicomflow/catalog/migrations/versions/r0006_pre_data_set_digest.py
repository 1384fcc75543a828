"""The digest of an object's data set, which tells versions apart where file meta information differs.

Revision 0006; runs before a deploy.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a column that is NULL until an object has to be compared."""
    op.add_column("stored_object", sa.Column("data_set_sha256", sa.String(length=64)))
