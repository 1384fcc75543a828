"""Series whose image sets are not primary are hidden, and no longer completed; and these image sets as an index.

Revision 0012; runs before a deploy: a program of the revision before goes on to call them completed, until it is
replaced.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_VISIBLE = (
    "SELECT 1 FROM import_outcome AS held JOIN import_job ON import_job.import_job_id = held.import_job_id"
    " LEFT JOIN image_set ON image_set.datastore_id = import_job.datastore_id"
    " AND image_set.image_set_id = held.image_set_id"
    " WHERE held.object_key = import_outcome.object_key AND held.outcome IN ('imported', 'warned')"
    " AND coalesce(image_set.is_primary, true)"
)


def upgrade() -> None:
    """Add the index, and say of each completed series with an object that is in hidden image sets alone what it is."""
    is_hidden = sa.text("NOT is_primary")
    op.create_index(
        "ix_image_set_hidden",
        "image_set",
        ["image_set_id"],
        unique=False,
        postgresql_where=is_hidden,
        sqlite_where=is_hidden,
    )
    op.execute(
        "UPDATE series_import SET state = 'hidden', message = 'not visible: an image set of it is not primary'"  # noqa: S608  # no value
        " WHERE state = 'completed' AND series_import_id IN (SELECT import_outcome.series_import_id FROM import_outcome"
        " JOIN import_job ON import_job.import_job_id = import_outcome.import_job_id"
        " JOIN image_set ON image_set.datastore_id = import_job.datastore_id"
        " AND image_set.image_set_id = import_outcome.image_set_id"
        " WHERE NOT image_set.is_primary AND import_outcome.outcome IN ('imported', 'warned')"
        f" AND NOT EXISTS ({_VISIBLE}))"
    )
