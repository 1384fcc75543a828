"""Statements that tell versions of an instance apart: by the file's digest, and where that differs by the data set's.

The file meta information names who sent a file to whom, so that one image sent by two ways makes two files.
Transactions are the caller's. This module must not know how objects are read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select, text, update

from dicomflow.catalog.index import lock_instances, recount_versions
from dicomflow.catalog.tables import instance, stored_object

__all__ = ["instances_with_versions", "record_data_set_digests", "undecided_objects"]

_META_BYTES: Final = 1024
"""Files of one data set differ in size by their file meta information alone: three AE titles and an implementation."""


@dataclass(frozen=True, slots=True)
class _File:
    """An object of an instance, with the digests that are known; None where nobody has told."""

    object_key: str
    bytes: int | None
    digest: str | None
    data_set_sha256: str | None


def undecided_objects(connection: Connection, sop_instance_uids: Collection[str]) -> dict[str, str]:
    """Return the objects, by key with their SOP Instance UID, whose data sets decide whether they are versions.

    They are of an instance that has several digests, are about as large as another of its objects, and nobody has
    digested their data sets yet.
    """
    uids = sorted(sop_instance_uids)
    # "versions > 1" stands as it does in the index of the few rows that have several.
    several = select(instance.c.sop_instance_uid).where(text("versions > 1"), instance.c.sop_instance_uid.in_(uids))
    statement = (
        select(
            stored_object.c.sop_instance_uid,
            stored_object.c.object_key,
            stored_object.c.bytes,
            func.coalesce(stored_object.c.sha256, stored_object.c.object_sha256).label("digest"),
            stored_object.c.data_set_sha256,
        )
        .where(stored_object.c.sop_instance_uid.in_(several))
        .order_by(stored_object.c.object_key)
    )
    objects: dict[str, list[_File]] = {}
    for uid, *values in connection.execute(statement):
        objects.setdefault(uid, []).append(_File(*values))
    return {
        each.object_key: uid
        for uid, files in objects.items()
        for each in files
        if each.data_set_sha256 is None and any(_may_be_equal(each, other) for other in files)
    }


def instances_with_versions(connection: Connection) -> list[str]:
    """Return the SOP Instance UIDs of which several different objects are known."""
    statement = select(instance.c.sop_instance_uid).where(text("versions > 1"))
    return list(connection.scalars(statement.order_by(instance.c.sop_instance_uid)))


def record_data_set_digests(connection: Connection, digests: Mapping[str, str], uids: Collection[str]) -> None:
    """Record digests of data sets by object key, and count the versions of these instances anew."""
    lock_instances(connection, uids)
    for key, digest in sorted(digests.items()):
        connection.execute(
            update(stored_object).where(stored_object.c.object_key == key).values(data_set_sha256=digest)
        )
    recount_versions(connection, set(uids))


def _may_be_equal(one: _File, other: _File) -> bool:
    if one.bytes is None or other.bytes is None or one.digest is None or other.digest is None:
        return False
    return one.digest != other.digest and abs(one.bytes - other.bytes) <= _META_BYTES
