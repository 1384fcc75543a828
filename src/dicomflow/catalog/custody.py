"""One study, series or instance as a reader sees it: its rows, how its objects came, and what became of them.

Transactions are the caller's; this module only reads. Attributes are patient data: callers show them to whom they may.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, case, func, select, text

from dicomflow.catalog.conflicts import Conflict
from dicomflow.catalog.tables import (
    delivery,
    delivery_association,
    image_set,
    import_outcome,
    instance,
    patient,
    series,
    series_image_set,
    series_import,
    series_study,
    stored_object,
    study,
    study_patient,
)

__all__ = [
    "conflicts_of_study",
    "deliveries_of_study",
    "find_instance",
    "find_one_series",
    "find_study",
    "image_sets_of_study",
    "imports_of_study",
    "instances_of_series",
    "middles_of_study",
    "objects_of_instance",
    "outcomes_of_instance",
    "problems_of_study",
    "series_of_study",
    "studies_of_series",
]

_NOT_SHOWN: Final = frozenset({"raw_values", "as_of", "older_as_of", "sort_at", "unidentified_study_uid"})
_PATIENT: Final = tuple(column for column in patient.c if column.name not in {*_NOT_SHOWN, "patient_key"})
_STUDY: Final = tuple(column for column in study.c if column.name not in {*_NOT_SHOWN, "patient_key"})
_SERIES: Final = tuple(column for column in series.c if column.name not in {*_NOT_SHOWN, "study_key"})
_INSTANCE: Final = tuple(column for column in instance.c if column.name not in {*_NOT_SHOWN, "series_key"})
_FEW: Final = 100
"""Rows of one kind that a page shows of what should be empty."""


# The order of a series: by Instance Number, those without one last.
_IN_ORDER: Final = (
    case((instance.c.instance_number.is_(None), 1), else_=0),
    instance.c.instance_number,
    instance.c.instance_key,
)


def find_study(connection: Connection, study_instance_uid: str) -> Row[Any] | None:
    """Return a study's attributes and its patient's."""
    statement = select(*_STUDY, *_PATIENT).join_from(study, patient, patient.c.patient_key == study.c.patient_key)
    return connection.execute(statement.where(study.c.study_instance_uid == study_instance_uid)).first()


def series_of_study(connection: Connection, study_key: int) -> list[Row[Any]]:
    """Return the series of a study in their order, with `instances`, `bytes` and `frames`."""
    statement = (
        select(
            *_SERIES,
            func.count(instance.c.instance_key).label("instances"),
            func.coalesce(func.sum(instance.c.bytes), 0).label("bytes"),
            func.coalesce(func.sum(func.coalesce(instance.c.number_of_frames, 1)), 0).label("frames"),
        )
        .join_from(series, instance, instance.c.series_key == series.c.series_key, isouter=True)
        .where(series.c.study_key == study_key)
        .group_by(*_SERIES)
    )
    return sorted(
        connection.execute(statement),
        key=lambda row: (row.series_number is None, row.series_number or 0, row.series_instance_uid),
    )


def find_one_series(
    connection: Connection, series_instance_uid: str, study_instance_uid: str | None = None
) -> Row[Any] | None:
    """Return the attributes of a series, its study and its patient: of the study named, or of the one sent last."""
    statement = (
        select(*_SERIES, *_STUDY, *_PATIENT)
        .join_from(series, study, study.c.study_key == series.c.study_key)
        .join(patient, patient.c.patient_key == study.c.patient_key)
        .where(series.c.series_instance_uid == series_instance_uid)
        .order_by(series.c.as_of.desc(), series.c.series_key)
    )
    if study_instance_uid is not None:
        statement = statement.where(study.c.study_instance_uid == study_instance_uid)
    return connection.execute(statement).first()


def studies_of_series(connection: Connection, series_instance_uid: str) -> list[str]:
    """Return the Study Instance UIDs that have a series of this UID, in order: more than one is a conflict."""
    statement = select(study.c.study_instance_uid).join(series, series.c.study_key == study.c.study_key)
    of_uid = statement.where(series.c.series_instance_uid == series_instance_uid)
    return sorted(connection.scalars(of_uid))


def instances_of_series(
    connection: Connection, series_key: int, *, offset: int = 0, limit: int = 1000
) -> list[Row[Any]]:
    """Return instances of a series in the order of their numbers; those without one come last."""
    columns = (
        instance.c.sop_instance_uid,
        instance.c.sop_class_uid,
        instance.c.transfer_syntax_uid,
        instance.c.instance_number,
        instance.c.number_of_frames,
        instance.c.rows,
        instance.c.columns,
        instance.c.bytes,
        instance.c.versions,
        instance.c.object_key,
    )
    statement = select(*columns).where(instance.c.series_key == series_key).order_by(*_IN_ORDER)
    return list(connection.execute(statement.offset(offset).limit(limit)))


def middles_of_study(connection: Connection, study_key: int) -> dict[int, Row[Any]]:
    """Return the instance in the middle of each series, by the series' key: one statement, however many there are."""
    of_series = instance.c.series_key
    numbered = (
        select(
            of_series,
            instance.c.sop_instance_uid,
            instance.c.rows,
            func.row_number().over(partition_by=of_series, order_by=_IN_ORDER).label("number"),
            func.count().over(partition_by=of_series).label("total"),
        )
        .join(series, series.c.series_key == of_series)
        .where(series.c.study_key == study_key)
        .subquery()
    )
    statement = select(numbered).where(numbered.c.number == numbered.c.total // 2 + 1)
    return {row.series_key: row for row in connection.execute(statement)}


def find_instance(connection: Connection, sop_instance_uid: str) -> Row[Any] | None:
    """Return an instance's attributes, and those of what it belongs to."""
    statement = (
        select(*_INSTANCE, *_SERIES, *_STUDY, *_PATIENT)
        .join_from(instance, series, series.c.series_key == instance.c.series_key)
        .join(study, study.c.study_key == series.c.study_key)
        .join(patient, patient.c.patient_key == study.c.patient_key)
    )
    return connection.execute(statement.where(instance.c.sop_instance_uid == sop_instance_uid)).first()


def objects_of_instance(connection: Connection, sop_instance_uid: str) -> list[Row[Any]]:
    """Return every stored object of an instance with its delivery, the latest first."""
    statement = (
        select(
            stored_object.c.object_key,
            stored_object.c.edge,
            stored_object.c.delivery_id,
            stored_object.c.bytes,
            stored_object.c.sha256,
            stored_object.c.object_sha256,
            stored_object.c.stored_at,
            stored_object.c.indexed_at,
            stored_object.c.problem,
            delivery.c.opened_at,
            delivery.c.closed_at,
            delivery.c.planned_at,
        )
        .join_from(stored_object, delivery, delivery.c.delivery_id == stored_object.c.delivery_id, isouter=True)
        .where(stored_object.c.sop_instance_uid == sop_instance_uid)
        .order_by(stored_object.c.stored_at.desc(), stored_object.c.object_key)
    )
    return list(connection.execute(statement))


def outcomes_of_instance(connection: Connection, sop_instance_uid: str) -> list[Row[Any]]:
    """Return what each import job made of an instance's objects, the latest job first."""
    statement = (
        select(import_outcome)
        .where(import_outcome.c.sop_instance_uid == sop_instance_uid)
        .order_by(import_outcome.c.import_job_id.desc(), import_outcome.c.object_key)
    )
    return list(connection.execute(statement))


def deliveries_of_study(connection: Connection, study_instance_uid: str) -> list[dict[str, Any]]:
    """Return how a study's objects came, delivery by delivery, the first first, each with its `associations`."""
    of_study = (
        select(
            stored_object.c.delivery_id,
            stored_object.c.edge,
            func.count().label("objects"),
            func.sum(stored_object.c.bytes).label("bytes"),
            func.min(stored_object.c.stored_at).label("stored_at"),
            func.max(stored_object.c.indexed_at).label("indexed_at"),
            func.count(stored_object.c.sha256).label("with_digest"),
        )
        .where(stored_object.c.study_instance_uid == study_instance_uid)
        .group_by(stored_object.c.delivery_id, stored_object.c.edge)
        .subquery("of_study")
    )
    statement = (
        select(of_study, delivery.c.opened_at, delivery.c.closed_at, delivery.c.planned_at)
        .join_from(of_study, delivery, delivery.c.delivery_id == of_study.c.delivery_id, isouter=True)
        .order_by(of_study.c.stored_at, of_study.c.delivery_id)
    )
    rows = [dict(row) for row in connection.execute(statement).mappings()]
    associations = _associations_of(connection, [row["delivery_id"] for row in rows if row["delivery_id"]])
    return [row | {"associations": associations.get(row["delivery_id"], [])} for row in rows]


def imports_of_study(connection: Connection, study_instance_uid: str) -> list[Row[Any]]:
    """Return the imports of a study's series, the latest change first."""
    statement = (
        select(series_import)
        .where(series_import.c.study_instance_uid == study_instance_uid)
        .order_by(series_import.c.updated_at.desc(), series_import.c.series_import_id.desc())
    )
    return list(connection.execute(statement))


def image_sets_of_study(connection: Connection, study_key: int) -> list[Row[Any]]:
    """Return the image sets that hold series of a study: series, id, version, is_primary, differs_in."""
    statement = (
        select(
            series_image_set.c.series_instance_uid,
            series_image_set.c.datastore_id,
            series_image_set.c.image_set_id,
            image_set.c.version,
            image_set.c.is_primary,
            image_set.c.differs_in,
        )
        .join_from(study, series, series.c.study_key == study.c.study_key)
        .join(
            series_image_set,
            (series_image_set.c.study_instance_uid == study.c.study_instance_uid)
            & (series_image_set.c.series_instance_uid == series.c.series_instance_uid),
        )
        .join(
            image_set,
            (image_set.c.datastore_id == series_image_set.c.datastore_id)
            & (image_set.c.image_set_id == series_image_set.c.image_set_id),
        )
        .where(study.c.study_key == study_key)
        .order_by(series_image_set.c.series_instance_uid, series_image_set.c.image_set_id)
    )
    return list(connection.execute(statement))


def problems_of_study(connection: Connection, study_instance_uid: str) -> list[Row[Any]]:
    """Return objects of a study that have a problem, indexed or not: object_key, problem."""
    statement = (
        select(stored_object.c.object_key, stored_object.c.problem)
        .where(stored_object.c.study_instance_uid == study_instance_uid, stored_object.c.problem.is_not(None))
        .order_by(stored_object.c.object_key)
        .limit(_FEW)
    )
    return list(connection.execute(statement))


def conflicts_of_study(connection: Connection, study_key: int, study_instance_uid: str) -> list[Conflict]:
    """Return what contradicts itself in a study, in the terms of `conflicts.KINDS`."""
    of_study = stored_object.c.study_instance_uid == study_instance_uid
    versions = (
        select(instance.c.sop_instance_uid, instance.c.versions)
        .join_from(series, instance, instance.c.series_key == series.c.series_key)
        .where(series.c.study_key == study_key, text("versions > 1"))
        .order_by(instance.c.sop_instance_uid)
        .limit(_FEW)
    )
    damaged = (
        select(stored_object.c.sop_instance_uid, stored_object.c.object_key)
        .where(of_study, text("sha256 <> object_sha256"))
        .limit(_FEW)
    )
    patients = connection.scalars(
        select(study_patient.c.patient_key)
        .where(study_patient.c.study_instance_uid == study_instance_uid)
        .order_by(study_patient.c.patient_key)
    ).all()
    several = (
        select(series_study.c.series_instance_uid)
        .where(series_study.c.study_instance_uid == study_instance_uid)
        .where(
            select(func.count() > 1)
            .where(series_study.alias("other").c.series_instance_uid == series_study.c.series_instance_uid)
            .scalar_subquery()
        )
        .limit(_FEW)
    )
    found = [Conflict("versions", uid, (f"{count} versions",)) for uid, count in connection.execute(versions)]
    found += [Conflict("damaged", uid or key, (key,)) for uid, key in connection.execute(damaged)]
    if len(patients) > 1:
        names = tuple(f"patient {key}" for key in patients)
        found.append(Conflict("study_of_patients", study_instance_uid, names))
    return found + [Conflict("series_of_studies", uid, ()) for uid in connection.scalars(several)]


def _associations_of(connection: Connection, delivery_ids: Sequence[str]) -> Mapping[str, list[dict[str, Any]]]:
    statement = (
        select(delivery_association)
        .where(delivery_association.c.delivery_id.in_(delivery_ids))
        .order_by(delivery_association.c.delivery_id, delivery_association.c.association_id)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(statement).mappings():
        originators = row["move_originators"].split("\\") if row["move_originators"] else []
        each = {name: row[name] for name in row if name != "delivery_id"} | {"move_originators": originators}
        found.setdefault(row["delivery_id"], []).append(each)
    return found
