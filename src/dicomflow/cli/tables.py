"""Rows as tables for a terminal, and as JSON. Knows Rich, but no SQL."""

import json
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dicomflow.cli.moments import moment

__all__ = ["as_json", "print_table"]

_GAP: Final = "  "


def as_json(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a JSON array with one object a row; a column name that occurs again gets a number."""
    names: list[str] = []
    for column in columns:
        repeats = sum(name == column or name.startswith(f"{column}#") for name in names)
        names.append(f"{column}#{repeats + 1}" if repeats else column)
    documents = [dict(zip(names, row, strict=True)) for row in rows]
    return json.dumps(documents, indent=2, default=_in_json, ensure_ascii=False)


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    hide_empty: bool = False,
    max_rows: int | None = None,
) -> None:
    """Print rows as one table, or, where it is too wide, as several with the first column repeated.

    Args:
        console: where to print; it is as wide as its text needs to be when it is no terminal.
        title: printed above the table.
        columns: names of the columns.
        rows: as many values a row as there are columns.
        hide_empty: leave out columns that have no value in any row.
        max_rows: leave out the rows after these, and say how many.
    """
    shown = [n for n in range(len(columns)) if not hide_empty or any(row[n] not in (None, "") for row in rows)]
    count = f"{len(rows)} row" + ("" if len(rows) == 1 else "s")
    hidden = len(columns) - len(shown)
    console.print(f"[bold]{title}[/bold]  {count}" + (f", {hidden} empty columns not shown" if hidden else ""))
    texts = [[_to_text(value) for value in row] for row in rows[:max_rows]]
    for block in _blocks(console, columns, texts, shown):
        table = _table(columns, texts, block)
        if len(block) > 1:  # a value wider than the console is cut, not the column that tells the rows apart
            first = max(map(cell_len, [columns[block[0]], *(row[block[0]] for row in texts)]))
            for column in table.columns[1:]:
                column.max_width = max(1, console.width - first - 2 * len(_GAP))
        console.print(table)
    if len(texts) < len(rows):
        console.print(f"and {len(rows) - len(texts)} more rows")


def _blocks(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]
) -> list[list[int]]:
    """Split the columns into groups that fit the console's width, each beginning with the first column."""
    blocks: list[list[int]] = []
    current: list[int] = []
    for number in shown:
        if len(current) > 1 and _width(console, columns, rows, [*current, number]) > console.width:
            blocks.append(current)
            current = [shown[0]]
        current.append(number)
    return [*blocks, current] if current else blocks


def _width(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], block: Sequence[int]) -> int:
    unlimited = console.options.update(max_width=1_000_000)
    return Measurement.get(console, unlimited, _table(columns, rows, block)).maximum


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], block: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, len(_GAP), 0, 0), header_style="bold cyan")
    for number in block:
        table.add_column(columns[number], no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(row[number]) for number in block))  # Text: a value is never markup
    return table


def _in_json(value: Any) -> str:
    return value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime) else _to_text(value)


def _to_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bytes() | memoryview():
            return bytes(value).hex()
        case datetime() if value.tzinfo is not None:
            return moment(value)
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds")
        case date() | time():
            return value.isoformat()
        case tuple():
            return ", ".join(map(_to_text, value))
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return " ".join(str(value).split())
