"""A page's document is what JSON can hold, whatever the catalog has."""

import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from dicomflow.console.page import plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (1.5, 1.5),
        ({"a": [math.nan, {"b": (math.inf,)}]}, {"a": [None, {"b": [None]}]}),
        (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
    ],
)
def test_plain_value_is_json(value: Any, expected: Any):
    """A number that is none is nothing: JSON has no word for it, and a page must not fail for it."""
    assert expected == json.loads(json.dumps(plain(value), allow_nan=False))


@pytest.mark.parametrize(("value", "expected"), [("655360", 655360), ("0.5", 0.5), ("1E+3", 1000)])
def test_plain_sum_of_postgresql_is_a_number(value: str, expected: float):
    """PostgreSQL sums a bigint to a numeric, which JSON knows nothing of."""
    found = plain({"bytes": Decimal(value)})["bytes"]
    assert (expected, type(expected)) == (found, type(found))
