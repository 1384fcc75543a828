"""Which bucket objects' keys are in: one row, for whoever wants an object's whole place."""

from typing import Final

from sqlalchemy import Engine, or_

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.tables import object_bucket
from dicomflow.catalog.upsert import Upsert

__all__ = ["remember_bucket"]

_BUCKET: Final = Upsert(
    object_bucket,
    ("one", "name", "region"),
    ("one",),
    lambda new: {"name": new.name, "region": new.region},
    lambda new: or_(object_bucket.c.name != new.name, object_bucket.c.region.is_distinct_from(new.region)),
)


def remember_bucket(engine: Engine, name: str, region: str | None) -> None:
    """Say in the catalog where objects are; most calls find it there and write nothing."""
    with begin_read(engine) as connection:
        known = connection.execute(object_bucket.select()).one_or_none()
    if known is None or (known.name, known.region) != (name, region):
        with engine.begin() as connection:
            _BUCKET.execute(connection, [{"one": 1, "name": name, "region": region}])
