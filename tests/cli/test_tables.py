"""Rows become tables that fit their terminal."""

import json
from datetime import UTC, date, datetime, time
from io import StringIO
from typing import Any

from rich.console import Console

from dicomflow.cli.tables import as_json, print_table


def _print(width: int, columns: list[str], rows: list[tuple[object, ...]], **options: Any) -> str:
    output = StringIO()
    print_table(Console(file=output, width=width), "title", columns, rows, **options)
    return output.getvalue()


def test_print_table_wide_enough_is_one_table():
    """Where there is room each row is one line."""
    assert "title  2 rows\na  b  \n1  x  \n2     \n" == _print(40, ["a", "b"], [(1, "x"), (2, None)])


def test_print_table_too_wide_repeats_the_first_column():
    """Where there is no room the columns are split, and no value is cut."""
    columns = ["key", *(f"column{n}" for n in range(6))]
    output = _print(40, columns, [("k1", *(f"value number {n}" for n in range(6)))])
    assert max(map(len, output.splitlines())) <= 40
    assert 3 == output.count("key")
    assert 3 == output.count("k1")
    for number in range(6):
        assert f"value number {number}" in output


def test_print_table_hiding_empty_columns_says_how_many():
    """Columns without any value are left out only on request, and counted."""
    output = _print(80, ["a", "b", "c"], [(1, None, ""), (2, None, "")], hide_empty=True)
    assert "title  2 rows, 2 empty columns not shown\na  \n1  \n2  \n" == output


def test_print_table_value_that_looks_like_markup_is_shown():
    """A value is text, whatever is in it; line breaks do not break the table."""
    assert "[red]x[/red] y" in _print(80, ["a"], [("[red]x[/red]\ny",)])


def test_print_table_values_that_are_several_stand_side_by_side():
    """The modalities of a study are a list of words, and no Python."""
    assert "CT, MR" in _print(80, ["modalities"], [(("CT", "MR"),)])


def test_print_table_without_rows_shows_the_columns():
    """An empty result still names its columns."""
    assert "title  0 rows\na  b  \n" == _print(80, ["a", "b"], [])


def test_print_table_with_more_rows_than_wanted_says_how_many():
    """Rows beyond the limit are counted, not shown."""
    assert "title  3 rows\na  \n1  \nand 2 more rows\n" == _print(40, ["a"], [(1,), (2,), (3,)], max_rows=1)


def test_print_table_value_wider_than_the_terminal_is_cut_alone():
    """One value that fits nowhere is cut; the first column, which tells the rows apart, is not."""
    output = _print(20, ["key", "b"], [("row-1", "x" * 50)])
    assert "title  1 row\nkey    b            \nrow-1  xxxxxxxxxx…  \n" == output


def test_as_json_writes_dates_times_and_bytes_as_text():
    """What JSON has no type for becomes text; nested values stay values."""
    row = (date(2026, 1, 31), time(1, 2, 3), datetime(2026, 1, 31, 1, 2, 3, tzinfo=UTC), b"\x01\xff", {"k": ["v"]})
    assert [
        {"d": "2026-01-31", "t": "01:02:03", "dt": "2026-01-31 01:02:03+00:00", "b": "01ff", "j": {"k": ["v"]}}
    ] == json.loads(as_json(["d", "t", "dt", "b", "j"], [row]))
