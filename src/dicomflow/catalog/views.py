"""The views: imports, studies and locations as the first users of the system know them, column for column.

They hold no rows, so `engine.migrate` replaces them each time with what stands here. Names are folded to lower case
by PostgreSQL and compared without case by SQLite, so `SELECT * FROM Ahlijob` runs as it stands.
"""

from typing import Final

from sqlalchemy import Connection, func, inspect, select, text

from dicomflow.catalog.seed import SCHEMA, VIEWS, select_of

__all__ = ["create", "drop"]

# One job of the seed is one series of one delivery. Locations are those of the job once there is one: it may have
# taken several series of a study together. States that the seed has no number for: partial is a failure, and a
# series that is not to be imported has none.
_AHLIJOB: Final = """
CREATE VIEW ahlijob AS
SELECT series_import.series_import_id AS jobid,
       import_job.job_id AS importjobid,
       import_job.datastore_id AS ahlidatastoreid,
       series_import.status AS status,
       coalesce(import_job.input_s3_uri, series_import.input_prefix) AS importlocation,
       import_job.output_s3_uri AS resultlocation,
       import_job.submitted_at AS submittedat,
       import_job.ended_at AS endedat,
       series_import.created_at AS insertedat,
       series_import.series_instance_uid AS seriesid,
       series_import.state AS state,
       coalesce(series_import.message, import_job.message) AS message,
       series_import.study_instance_uid AS studyid
FROM series_import
LEFT JOIN import_job ON import_job.import_job_id = series_import.import_job_id
"""

_AHLIIMAGESET: Final = """
CREATE VIEW ahliimageset AS
SELECT series_image_set.series_instance_uid AS seriesid,
       series_image_set.image_set_id AS imagesetid,
       series_image_set.datastore_id AS datastoreid,
       image_set.version AS version,
       image_set.is_primary AS isprimary,
       series_image_set.study_instance_uid AS studyid
FROM series_image_set
JOIN image_set ON image_set.datastore_id = series_image_set.datastore_id
              AND image_set.image_set_id = series_image_set.image_set_id
"""


# Of the sample's other views those whose names no table of ours has.
_SAMPLES: Final = ("studylist", "instancelocation")


def drop(connection: Connection) -> None:
    """Remove the views, so that a migration may change what they read."""
    if connection.dialect.name == "postgresql" and inspect(connection).has_schema(SCHEMA):
        for name in VIEWS:
            connection.execute(text(f"DROP VIEW IF EXISTS {SCHEMA}.{name}"))
    for name in ("ahlijob", "ahliimageset", *_SAMPLES):
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))


def create(connection: Connection) -> None:
    """Create the views; they must not be there. On PostgreSQL the schema `seed` has all of the sample's."""
    dialect = connection.dialect.name
    for statement in (_AHLIJOB, _AHLIIMAGESET):
        connection.execute(text(statement))
    for name in _SAMPLES:
        connection.execute(text(f"CREATE VIEW {name} AS {select_of(name, dialect)}"))
    if dialect == "postgresql":
        ours = str(connection.scalar(select(func.quote_ident(func.current_schema()))))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        for name in VIEWS:
            connection.execute(text(f"CREATE VIEW {SCHEMA}.{name} AS {select_of(name, dialect, ours)}"))
