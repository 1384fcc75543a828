"""Any object is indexed or has its problem, on both databases, from its event and in a rebuild; and harms no other.

DICOMFLOW_FUZZ_OBJECTS is the number of objects, DICOMFLOW_FUZZ_SEED what they are made from.
"""

import datetime as dt
import io
import itertools
import math
import os
import random
from collections.abc import Iterator
from typing import Any

from random_data_sets import random_object
from sqlalchemy import Engine, func, select

from dicomflow.catalog.tables import instance, metadata
from dicomflow.dicom.attributes import ATTRIBUTES, Attribute, ValueType
from dicomflow.dicom.header import Header, read_header, read_header_from
from dicomflow.errors import PeerError
from dicomflow.pipeline.rebuild import rebuild_catalog

OBJECTS = int(os.environ.get("DICOMFLOW_FUZZ_OBJECTS", "300"))
SEED = os.environ.get("DICOMFLOW_FUZZ_SEED", "1")
_BATCH = 300
BY_KEYWORD = {attribute.keyword: attribute for attribute in ATTRIBUTES}
_TYPES: dict[ValueType, type] = {
    ValueType.UID: str,
    ValueType.TEXT: str,
    ValueType.DATE: dt.date,
    ValueType.TIME: dt.time,
    ValueType.DATETIME: dt.datetime,
    ValueType.INTEGER: int,
    ValueType.FLOAT: float,
    ValueType.JSON: list,
}


def made_objects() -> Iterator[tuple[str, bytes]]:
    """Make the objects of the seed."""
    source = random.Random(SEED)
    for number in range(OBJECTS):
        yield random_object(source, number)


def batches() -> Iterator[list[tuple[str, bytes]]]:
    """Cut them into batches as events come."""
    made = made_objects()
    while batch := list(itertools.islice(made, _BATCH)):
        yield batch


def is_of_column(attribute: Attribute, value: Any) -> bool:
    """Tell whether both databases take a value for an attribute's column."""
    if value is None:
        return True
    if type(value) is not _TYPES[attribute.type]:
        return False
    if attribute.type is ValueType.INTEGER:
        return -(2**63) <= value < 2**63
    return math.isfinite(value) if attribute.type is ValueType.FLOAT else is_text(str(value))


def is_text(text: str) -> bool:
    """Tell whether both databases take a text: PostgreSQL holds no U+0000, and UTF-8 no surrogate."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def test_any_object_has_values_of_its_columns_types():
    """Or a reason in their place; a refused object has one as a whole."""
    read = 0
    for _, data in made_objects():
        try:
            header = read_header(data, complete=True) or read_header_from(io.BytesIO(data))
        except PeerError:
            continue
        read += 1
        assert isinstance(header, Header)
        for keyword, value in header.values.items():
            assert is_of_column(BY_KEYWORD[keyword], value), (keyword, value)
        assert all(text and is_text(text) for level in header.raw_values.values() for text in level.values())
    assert read > 0.8 * OBJECTS


def test_any_batch_is_indexed_but_for_what_has_a_problem(engine: Engine, bucket: Any, problems: Any, contents: Any):
    """No object's value is the database's to refuse, and none fails the batch; a rebuild ends in the same rows."""
    indexed = 0
    for batch in batches():
        for path in bucket.folder.rglob("*.dcm"):
            path.unlink()
        events = [bucket.put(f"site/6a1b7a52-6a6a-4c7e-9f39-0d1c8c1f2f11/1/1/{uid}.dcm", data) for uid, data in batch]
        result = bucket.index(engine, events)
        assert (len(batch), {}) == (result.indexed + result.problems, result.failed)
        indexed += result.indexed
    assert indexed > 0.8 * OBJECTS
    assert [] == [problem for problem in problems(engine) if "catalog" in problem]
    if OBJECTS <= _BATCH:
        before = contents(engine)
        with engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        done = rebuild_catalog(engine, bucket.store, "dicom", issuers={})
        assert (indexed, OBJECTS) == (done.indexed, done.indexed + done.problems)
        after = contents(engine)
        assert before["instance"] == after["instance"]
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(instance)) <= indexed
