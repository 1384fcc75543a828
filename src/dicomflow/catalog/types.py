"""Column types that read the same on PostgreSQL and SQLite."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Integer,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["BINARY_TEXT", "JSON_VALUE", "KEY", "UtcDateTime", "in_code_points"]

KEY: Final = BigInteger().with_variant(Integer, "sqlite")
"""Surrogate keys; SQLite numbers rows by itself only in a column of type INTEGER."""

JSON_VALUE: Final = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""JSON documents; None is SQL's NULL."""

BINARY_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that both databases compare by code point."""


class _InCodePoints(FunctionElement[str]):
    """A text as both databases compare it by code point."""

    inherit_cache = True


def in_code_points(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return what sorts a column as Python sorts its values, whatever the database's collation is.

    Who locks rows sorts them so: then all lock them in one order, and none waits for another in a circle.
    """
    return _InCodePoints(column) if isinstance(column.type, String) else column


@compiles(_InCodePoints)
def _plain(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))  # SQLite compares by code point


@compiles(_InCodePoints, "postgresql")
def _collated(element: Any, compiler: Any, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, timezone-aware UTC in Python; SQLite keeps it without the offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse what has no time zone; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # SQLAlchemy's signature
        """Return UTC whatever the server's time zone is."""
        if value is None:
            return None
        assert isinstance(value, datetime)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
