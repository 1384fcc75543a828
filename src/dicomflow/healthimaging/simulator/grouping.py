"""From the files of a job to image sets: primary or not, new or a next version.

HealthImaging Developer Guide, "Understanding image sets": an instance is primary if none of seven elements conflicts
with the primary image sets of its study; all primary instances of a series make one image set, job after job.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from dicomflow.healthimaging.simulator.documents import Elements, Levels, search_tags
from dicomflow.healthimaging.simulator.objects import Header
from dicomflow.healthimaging.simulator.state import image_set, image_set_instance, image_set_version
from dicomflow.healthimaging.simulator.world import World, identifier

__all__ = ["Group", "group_headers", "store_group"]

STUDY_ELEMENT_COUNT = 5


@dataclass(slots=True)
class Group:
    """The files of one job that share an image set; `known` is the image set that exists already.

    `part` tells the image sets apart over which a series is split.
    """

    elements: Elements
    is_primary: bool
    known: Row[Any] | None = None
    part: int = 0
    headers: list[Header] = field(default_factory=list)

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, the fourth of the elements."""
        return self.elements[3]

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID, the sixth of the elements."""
        return self.elements[5]


def group_headers(
    world: World, connection: Connection, datastore_id: str, headers: Iterable[tuple[Header, bool]]
) -> list[Group]:
    """Group headers, each with whether it is forced to be non-primary, in key order; the first tuple wins."""
    studies: dict[str, Elements] = {}
    primary: dict[tuple[str, str], Group] = {}
    other: dict[tuple[str, ...], Group] = {}
    for header, is_forced in headers:
        elements = header.elements
        study_uid, series_uid = elements[3], elements[5]
        if study_uid not in studies:
            studies[study_uid] = _known_study(connection, datastore_id, study_uid) or elements
        group = primary.get((study_uid, series_uid))
        known = None if group else _known_series(connection, datastore_id, study_uid, series_uid)
        reference = group.elements if group else (known.elements if known else elements)
        is_primary = (
            not is_forced
            and _agree(world, elements[:STUDY_ELEMENT_COUNT], studies[study_uid][:STUDY_ELEMENT_COUNT])
            and _agree(world, elements[STUDY_ELEMENT_COUNT:], reference[STUDY_ELEMENT_COUNT:])
        )
        if is_primary:
            group = primary.setdefault((study_uid, series_uid), group or Group(elements, True, known))
        else:
            group = other.setdefault(tuple(elements), Group(elements, False))
        group.headers.append(header)
    of_series = list(primary.values())
    if world.settings.split_series:
        of_series = [part for group in of_series for part in _split(group)]
    return [*of_series, *other.values()]


def store_group(
    world: World, connection: Connection, datastore_id: str, job_id: str, bucket: str, group: Group
) -> tuple[str, int]:
    """Write a group as a new image set or the next version of one; return its id and version."""
    now = world.now()
    newest = {header.sop_instance_uid: header for header in group.headers}  # the last key wins
    levels = group.headers[-1].levels
    if group.known is None:
        image_set_id, version = _create(world, connection, datastore_id, job_id, group, levels), 1
    else:
        image_set_id = group.known.image_set_id
        step = len(newest) if world.settings.version_step == "instance" else 1
        version = group.known.version + step
        connection.execute(
            update(image_set)
            .where(image_set.c.image_set_id == image_set_id, image_set.c.version == group.known.version)
            .values(version=version, updated_at=now, **_after_import(world, now))
        )
        levels = _kept_levels(connection, image_set_id, group.known.version, levels)
    connection.execute(
        insert(image_set_version).values(
            image_set_id=image_set_id,
            version=version,
            job_id=job_id,
            workflow_status="CREATED" if version == 1 else "IMPORTED",
            is_primary=group.is_primary,
            patient=levels.patient,
            study=levels.study,
            series=levels.series,
            created_at=now,
            updated_at=now,
        )
    )
    _store_instances(connection, image_set_id, version, bucket, newest)
    if group.known is None or not world.settings.update_seconds:
        _emit(world, connection, datastore_id, image_set_id, version, group)
    return image_set_id, version


def _after_import(world: World, now: float) -> dict[str, Any]:
    """Return how an image set stands that a job has added to: LOCKED and IMPORTING, while changes take time."""
    if not world.settings.update_seconds:
        return {"workflow_status": "IMPORTED"}
    return {"state": "LOCKED", "workflow_status": "IMPORTING", "due_at": now + world.settings.update_seconds}


def _split(group: Group) -> list[Group]:
    """Return the two image sets that the service makes of a new series "to improve throughput"."""
    if group.known is not None or len({header.sop_instance_uid for header in group.headers}) == 1:
        return [group]
    middle = len(group.headers) // 2
    parts = (group.headers[:middle], group.headers[middle:])
    return [Group(group.elements, True, None, number, part) for number, part in enumerate(parts)]


def _known_study(connection: Connection, datastore_id: str, study_uid: str) -> Elements | None:
    """Return the elements of any primary image set of a study; its study elements are those of all."""
    row = connection.execute(
        select(image_set.c.elements)
        .where(image_set.c.datastore_id == datastore_id, image_set.c.study_instance_uid == study_uid)
        .where(image_set.c.is_primary, image_set.c.state != "DELETED")
        .limit(1)
    ).first()
    return None if row is None else row.elements


def _known_series(connection: Connection, datastore_id: str, study_uid: str, series_uid: str) -> Row[Any] | None:
    return connection.execute(
        select(image_set)
        .where(image_set.c.datastore_id == datastore_id, image_set.c.study_instance_uid == study_uid)
        .where(image_set.c.series_instance_uid == series_uid)
        .where(image_set.c.is_primary, image_set.c.state != "DELETED")
        .order_by(image_set.c.created_at, image_set.c.image_set_id)
    ).first()


def _agree(world: World, left: Elements, right: Elements) -> bool:
    """Compare elements; an empty one conflicts with a filled one only by the switch."""
    if world.settings.empty_conflicts:
        return left == right
    return all(a == b or not a or not b for a, b in zip(left, right, strict=True))


def _create(world: World, connection: Connection, datastore_id: str, job_id: str, group: Group, levels: Levels) -> str:
    now = world.now()
    image_set_id = identifier("image set", datastore_id, job_id, group.is_primary, group.part, *group.elements)
    connection.execute(
        insert(image_set).values(
            image_set_id=image_set_id,
            datastore_id=datastore_id,
            study_instance_uid=group.study_instance_uid,
            series_instance_uid=group.series_instance_uid,
            is_primary=group.is_primary,
            elements=group.elements,
            tags=search_tags(levels.patient, levels.study, levels.series),
            version=1,
            state="ACTIVE",
            workflow_status="CREATED",
            created_at=now,
            updated_at=now,
        )
    )
    return image_set_id


def _kept_levels(connection: Connection, image_set_id: str, version: int, levels: Levels) -> Levels:
    """Return the documents an image set has already, with this job's instance document beside them."""
    row = connection.execute(
        select(image_set_version).where(
            image_set_version.c.image_set_id == image_set_id, image_set_version.c.version == version
        )
    ).one()
    return Levels(row.patient, row.study, row.series, levels.instance)


def _store_instances(
    connection: Connection, image_set_id: str, version: int, bucket: str, newest: dict[str, Header]
) -> None:
    """Replace what a version holds of these SOP instances; older versions keep what they had."""
    if version > 1:
        for sop_instance_uid in newest:
            connection.execute(
                update(image_set_instance)
                .where(image_set_instance.c.image_set_id == image_set_id)
                .where(image_set_instance.c.sop_instance_uid == sop_instance_uid)
                .where(image_set_instance.c.to_version.is_(None))
                .values(to_version=version)
            )
    rows = [
        {
            "image_set_id": image_set_id,
            "sop_instance_uid": sop_instance_uid,
            "from_version": version,
            "bucket": bucket,
            "key": header.key,
            "document": {
                "DICOM": header.levels.instance,
                "StoredTransferSyntaxUID": header.transfer_syntax_uid,
            },
        }
        for sop_instance_uid, header in newest.items()
    ]
    connection.execute(insert(image_set_instance), rows)


def _emit(
    world: World, connection: Connection, datastore_id: str, image_set_id: str, version: int, group: Group
) -> None:
    detail = {
        "isPrimary": group.is_primary,
        "imageSetVersion": str(version),
        "datastoreId": datastore_id,
        "imagesetId": image_set_id,
        "imageSetState": "ACTIVE",
        "imageSetWorkflowStatus": "CREATED" if version == 1 else "IMPORTED",
    }
    name = "Image Set Created" if version == 1 else world.settings.bump_event
    world.emit(connection, name, world.image_set_arn(datastore_id, image_set_id), detail)
