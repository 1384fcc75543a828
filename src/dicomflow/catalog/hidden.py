"""Statements of image sets that nobody sees: those that HealthImaging keeps as not primary, and what becomes of them.

An object is visible when an image set that is not known to be hidden holds it. Transactions are the caller's. This
module must not know how image sets are repaired.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, literal, or_, select, text, update

from dicomflow.bucket.feedback import NOT_VISIBLE
from dicomflow.catalog import imports, outcomes
from dicomflow.catalog.outcomes import StoredImageSet
from dicomflow.catalog.states import HELD, SeriesState
from dicomflow.catalog.tables import (
    image_set,
    import_job,
    import_outcome,
    series_image_set,
    series_import,
    stored_object,
)

__all__ = [
    "count_hidden",
    "find_image_set",
    "hidden_of_study",
    "is_hidden",
    "is_rejected",
    "list_hidden",
    "record_repair",
    "why_hidden",
]

_IS_HIDDEN: Final = text("NOT is_primary")  # as it stands in the index of the few that are
_MOST_NAMED: Final = 3
_REJECTED: Final = "repaired: other values are shown"
"""How the reason begins of an object whose values somebody decided against; it is in, and visible, all the same."""


def why_hidden(connection: Connection, row: Row[Any], datastore_id: str) -> str | None:
    """Tell which image sets hide instances of a series whose instances are all in; None when each is visible."""
    of_series = (
        stored_object.c.delivery_id == row.delivery_id,
        stored_object.c.study_instance_uid == row.study_instance_uid,
        stored_object.c.series_instance_uid == row.series_instance_uid,
        import_outcome.c.series_import_id == row.series_import_id,
        import_outcome.c.outcome.in_(HELD),
    )
    held = (
        select(import_outcome.c.object_key, import_outcome.c.image_set_id, image_set.c.is_primary)
        .join(stored_object, stored_object.c.object_key == import_outcome.c.object_key)
        .join(
            import_job,
            and_(
                import_job.c.import_job_id == import_outcome.c.import_job_id, import_job.c.datastore_id == datastore_id
            ),
        )
        .outerjoin(image_set, _is_set(datastore_id, import_outcome.c.image_set_id))
        .where(*of_series)
    )
    visible, hiding = set(), {}
    for each in connection.execute(held):
        if each.is_primary is False:
            hiding[each.object_key] = each.image_set_id
        else:
            visible.add(each.object_key)
    sets = sorted({image_set_id for key, image_set_id in hiding.items() if key not in visible})
    if not sets:
        return None
    elements = _differences(connection, datastore_id, sets)
    named = ", ".join(sets[:_MOST_NAMED]) + (f" and {len(sets) - _MOST_NAMED} more" if len(sets) > _MOST_NAMED else "")
    differs = f", which differs from the primary ones of its study in {', '.join(elements)}" if elements else ""
    return f"{NOT_VISIBLE}: image set {named} is not primary{differs}"


def count_hidden(connection: Connection) -> int:
    """Count the image sets that are not primary."""
    return connection.execute(select(func.count()).select_from(image_set).where(_IS_HIDDEN)).scalar_one()


def list_hidden(connection: Connection, limit: int) -> list[Row[Any]]:
    """Return image sets that are not primary with each series they hold: image_set_id, series and study, differs_in."""
    statement = (
        select(
            image_set.c.image_set_id,
            image_set.c.datastore_id,
            image_set.c.differs_in,
            series_image_set.c.series_instance_uid,
            series_image_set.c.study_instance_uid,
        )
        .join(series_image_set, _is_set(series_image_set.c.datastore_id, series_image_set.c.image_set_id))
        .where(_IS_HIDDEN)
        .order_by(image_set.c.image_set_id, series_image_set.c.series_instance_uid)
        .limit(limit)
    )
    return list(connection.execute(statement))


def hidden_of_study(connection: Connection, study_instance_uid: str) -> list[str]:
    """Return the image sets of a study that are not primary."""
    statement = (
        select(image_set.c.image_set_id)
        .join(series_image_set, _is_set(series_image_set.c.datastore_id, series_image_set.c.image_set_id))
        .where(_IS_HIDDEN, series_image_set.c.study_instance_uid == study_instance_uid)
        .distinct()
        .order_by(image_set.c.image_set_id)
    )
    return list(connection.scalars(statement))


def is_hidden(connection: Connection, datastore_id: str, image_set_id: str) -> bool:
    """Tell whether an image set is one that is known not to be primary."""
    statement = select(image_set.c.image_set_id).where(_of(image_set, datastore_id, image_set_id), _IS_HIDDEN)
    return connection.execute(statement).first() is not None


def is_rejected(object_key: Any) -> ColumnElement[bool]:
    """Tell, in SQL, whether an object has values that a repair has decided against."""
    return (
        select(import_outcome.c.object_key)
        .where(
            import_outcome.c.object_key == object_key, import_outcome.c.reason.startswith(_REJECTED, autoescape=True)
        )
        .exists()
    )


def find_image_set(connection: Connection, image_set_id: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return data store and study of an image set, and the elements in which it differed when it came."""
    statement = (
        select(series_image_set.c.datastore_id, series_image_set.c.study_instance_uid, image_set.c.differs_in)
        .join(image_set, _is_set(series_image_set.c.datastore_id, series_image_set.c.image_set_id))
        .where(series_image_set.c.image_set_id == image_set_id)
    )
    row = connection.execute(statement).first()
    return None if row is None else (row.datastore_id, row.study_instance_uid, tuple(row.differs_in or ()))


def record_repair(
    connection: Connection,
    datastore_id: str,
    hidden_id: str,
    primary_id: str,
    found: Mapping[str, tuple[int | None, bool | None]],
    now: datetime,
    rejected: Sequence[str] = (),
    elements: Sequence[str] = (),
) -> int:
    """Record that what a hidden image set held is visible in a primary one; return how many series are complete by it.

    Args:
        connection: the caller's transaction.
        datastore_id: the data store of both.
        hidden_id: the image set that was hidden; the same as the primary one where that was made primary itself.
        primary_id: the image set that shows its images now.
        found: version and primary flag of the study's image sets, as the service has them.
        now: the time.
        rejected: the image sets whose objects have values that were decided against, and stay as they came.
        elements: the keywords of those values.
    """
    _reject(connection, datastore_id, rejected, elements)
    mapped = connection.execute(select(series_image_set).where(_of(series_image_set, datastore_id, hidden_id))).all()
    version, _ = found.get(primary_id, (None, None))
    shown = [
        StoredImageSet(each.study_instance_uid, each.series_instance_uid, primary_id, version, is_primary=True)
        for each in mapped
    ]
    outcomes.record_image_sets(connection, datastore_id, shown, now)
    if hidden_id != primary_id:
        jobs = select(import_job.c.import_job_id).where(import_job.c.datastore_id == datastore_id)
        connection.execute(
            update(import_outcome)
            .where(import_outcome.c.image_set_id == hidden_id, import_outcome.c.import_job_id.in_(jobs))
            .values(image_set_id=primary_id)
        )
        for table in (series_image_set, image_set):
            connection.execute(delete(table).where(_of(table, datastore_id, hidden_id)))
    for image_set_id, (newest, is_primary) in found.items():
        values = {"version": newest, "is_primary": is_primary, "updated_at": now}
        known = {name: value for name, value in values.items() if value is not None}
        connection.execute(update(image_set).where(_of(image_set, datastore_id, image_set_id)).values(known))
    return _show(connection, datastore_id, primary_id, now)


def _reject(connection: Connection, datastore_id: str, image_sets: Sequence[str], elements: Sequence[str]) -> None:
    """Write on what came into image sets that its values were decided against; a repeat changes nothing."""
    text = f"{_REJECTED} of {', '.join(elements)}" if elements else _REJECTED
    jobs = select(import_job.c.import_job_id).where(import_job.c.datastore_id == datastore_id)
    reason = import_outcome.c.reason
    connection.execute(
        update(import_outcome)
        .where(
            import_outcome.c.image_set_id.in_(image_sets),
            import_outcome.c.import_job_id.in_(jobs),
            or_(reason.is_(None), ~reason.startswith(_REJECTED, autoescape=True)),
        )
        .values(reason=literal(text) + func.coalesce(literal("; ") + reason, ""))
    )


def _show(connection: Connection, datastore_id: str, image_set_id: str, now: datetime) -> int:
    """Complete the hidden series of which nothing is hidden any more."""
    held = select(import_outcome.c.series_import_id).where(import_outcome.c.image_set_id == image_set_id)
    candidates = (
        select(series_import)
        .where(series_import.c.state == SeriesState.HIDDEN, series_import.c.series_import_id.in_(held))
        .order_by(series_import.c.series_import_id)
    )
    completed = 0
    for row in connection.execute(candidates).all():
        if why_hidden(connection, row, datastore_id) is None:
            completed += imports.show_series(connection, row.series_import_id, now)
    return completed


def _differences(connection: Connection, datastore_id: str, image_set_ids: Sequence[str]) -> list[str]:
    statement = select(image_set.c.differs_in).where(
        image_set.c.datastore_id == datastore_id, image_set.c.image_set_id.in_(image_set_ids[:_MOST_NAMED])
    )
    return sorted({name for names in connection.scalars(statement) for name in names or ()})


def _is_set(datastore_id: Any, image_set_id: Any) -> Any:
    return and_(image_set.c.datastore_id == datastore_id, image_set.c.image_set_id == image_set_id)


def _of(table: Any, datastore_id: str, image_set_id: str) -> Any:
    return and_(table.c.datastore_id == datastore_id, table.c.image_set_id == image_set_id)
