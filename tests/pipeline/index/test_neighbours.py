"""One object that cannot be read or written is that object's problem; its neighbours are indexed, on both databases."""

import asyncio
import math
import os
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import OperationalError

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.index import IndexedObject, ObjectLocation, ObjectProblem
from dicomflow.catalog.tables import instance, stored_object
from dicomflow.dicom.attributes import ATTRIBUTES
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import read_objects, write_objects

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ROUNDS = int(os.environ.get("DICOMFLOW_TEST_VALUES", "8"))
KEPT = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Whatever a reader of headers may one day hand on.
ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: "half a character \ud800",
    lambda _: "U+0000 \0 within",
    lambda _: b"bytes \xff",
    lambda _: 2**63,
    lambda _: -(2**70),
    lambda _: math.nan,
    lambda _: math.inf,
    lambda _: object(),
    lambda _: date.max,
    lambda _: datetime.max.replace(tzinfo=UTC),
    lambda _: "99991231",
    lambda _: ["a", "\ud800"],
    lambda _: [{"vr": "PN", "Value": ["\0"]}],
    lambda _: {"a": 2**80},
    lambda _: nested(5000),
    lambda _: {1, 2},
    lambda chance: "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=9000)),
    lambda chance: "^".join("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=90)) for _ in range(300)),
)


def an_object(number: int, **values: Any) -> IndexedObject:
    """Build an object of its own patient, study and series."""
    defaults = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": f"1.2.{number}.3",
        "StudyInstanceUID": f"1.2.{number}.1",
        "SeriesInstanceUID": f"1.2.{number}.2",
        "PatientID": f"{number}",
    }
    location = ObjectLocation(f"site/{number}.dcm", "site", "delivery", 500, NOW + timedelta(seconds=number))
    return IndexedObject(location, "site", defaults | values, {})


def test_odd_value_of_one_object_leaves_its_neighbours_indexed(engine: Engine):
    """Whatever value of whatever attribute cannot be held, all other objects of the batch are indexed."""
    chance = random.Random(1)
    names = [attribute.keyword for attribute in ATTRIBUTES if attribute.keyword not in KEPT]
    number = 0
    for _ in range(ROUNDS):
        objects, odd = [], set()
        for _ in range(10):
            number += 1
            values = {}
            if chance.random() < 0.2:
                values = {chance.choice(names): chance.choice(ODD)(chance)}
            try:
                made = an_object(number, **values)
            except Exception:  # noqa: BLE001  # refused before it is written, which is as well
                continue
            objects.append(made)
            if values:
                odd.add(made.location.object_key)
        refused = {problem.object_key for problem in write_objects(engine, objects, NOW)}
        with begin_read(engine) as connection:
            found = set(connection.scalars(select(instance.c.object_key)))
        assert refused <= odd
        assert {each.location.object_key for each in objects} - refused <= found
        assert not refused & found


def test_refused_object_is_recorded_with_what_is_known_of_it(engine: Engine, bucket: Any, rows: Any):
    """An object that comes after its manifest and cannot be read keeps the size that the manifest gave."""
    bucket.put_instance("1.2.3.1")
    bucket.put_instance("1.2.3.2", PatientID="9" * 64)
    bucket.put("site/d/1/2/broken.dcm", b"no DICOM" * 40)
    with engine.begin() as connection:
        known = {"bytes": 320, "edge": "site", "delivery_id": "d", "sha256": "ab" * 32}
        connection.execute(stored_object.insert().values(object_key="site/d/1/2/broken.dcm", **known))
    result = bucket.index(engine)
    assert (2, 1, {}) == (result.indexed, result.problems, result.failed)
    (row,) = [each for each in rows(engine, stored_object) if each.problem]
    assert (320, "site", "d", "ab" * 32) == (row.bytes, row.edge, row.delivery_id, row.sha256)


def test_key_that_no_column_holds_costs_its_neighbours_nothing(engine: Engine, bucket: Any, rows: Any):
    """A key with U+0000 is recorded as well as it can be."""
    good = bucket.put_instance()
    result = bucket.index(
        engine, [good, StoredObjectEvent("m", "b", "site/\0/x.dcm"), StoredObjectEvent("m", "b", "a//b")]
    )
    assert (1, 2) == (result.indexed, result.problems)
    assert 2 == len([row for row in rows(engine, stored_object) if row.problem])


def test_reader_that_fails_in_an_unknown_way_fails_one_object(bucket: Any):
    """An exception that nobody foresaw is that object's reason; the others are read."""
    keys = [bucket.put_instance(f"1.2.3.{number}", edge=f"site{number}").key for number in range(3)]
    outcomes = asyncio.run(read_objects(bucket.store, keys, Failing()))
    assert [IndexedObject, ObjectProblem, IndexedObject] == [type(outcomes[key]) for key in keys]
    refused = outcomes[keys[1]]
    assert isinstance(refused, ObjectProblem)
    assert "the object cannot be read: ZeroDivisionError" == refused.reason


class Failing(dict[str, str]):
    """A table of issuers that fails whoever asks for one edge."""

    def get(self, name: str, default: Any = None) -> Any:
        """Fail for one."""
        if name == "site1":
            raise ZeroDivisionError
        return default


def test_database_that_fails_is_no_objects_problem(engine: Engine, bucket: Any, rows: Any):
    """While the database is at fault nothing is recorded against an object, and the messages come back."""
    bucket.put_instance()

    def fail(*_: Any) -> None:
        raise OperationalError("INSERT", None, Exception("the disk is full"))

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(OperationalError):
        bucket.index(engine)
    event.remove(engine, "before_cursor_execute", fail)
    assert [] == rows(engine, stored_object)
    assert 1 == bucket.index(engine).indexed
