"""Logging for every program: one line an event, as text or as JSON, on standard error.

Modules log an event name and `key=value` fields; fields given with `extra=` are appended (text) or become
members (JSON). Must not know what is logged. No patient data and no secret may be passed to a logger; an exception
may be, of whatever text: a traceback has the texts of those alone that quote no value. What libraries say of values is
not logged: warnings of Python without their texts, pydicom's own lines not at all.
"""

import json
import logging
import re
import sys
import traceback
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from dicomflow.errors import DicomflowError

__all__ = ["LogSettings", "configure", "is_json", "traceback_of"]

# What every record has; anything else came with `extra=`.
_STANDARD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
# Libraries whose INFO is a line a request.
_CHATTY_LIBRARIES: Final = ("alembic", "botocore", "httpx", "pynetdicom", "urllib3", "uvicorn")

# What these say names types, files and machines; of all others, as ValueError and KeyError, only the type is told.
_PLAIN_ERRORS: Final = (
    DicomflowError,
    OSError,
    TypeError,
    AttributeError,
    ImportError,
    RecursionError,
    ArithmeticError,
)
_PLAIN_LIBRARIES: Final = frozenset({"alembic", "botocore", "obstore", "sqlalchemy", "psycopg", "sqlite3"})
_DEEPEST_CAUSE: Final = 20
# A file's name may hold a line break, with which somebody else's text would be a line of ours.
_ESCAPED: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, 0x85)}


def configure(level: str, *, as_json: bool = False) -> None:
    """Send all logging of this process to standard error, replacing what was configured before.

    Args:
        level: a name the standard library knows: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        as_json: one JSON object a line instead of text.
    """
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    logging.basicConfig(level=level, handlers=[output], force=True)
    for library in _CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.showwarning = _log_warning  # type: ignore[assignment]  # of its arguments only these matter


def _log_warning(_: Warning | str, category: type[Warning], filename: str, lineno: int, *__: object) -> None:
    """Log where a warning came from; its text may quote a value."""
    logging.getLogger(__name__).debug("python_warning category=%s at=%s:%d", category.__name__, filename, lineno)


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback, its causes first, without any text that could quote a value of an object."""
    chain = [error]
    while len(chain) < _DEEPEST_CAUSE:
        last = chain[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None or cause in chain:
            break
        chain.append(cause)
    return "\n\nand then\n\n".join(map(_one_traceback, reversed(chain)))


def is_json() -> bool:
    """Tell whether `configure` set JSON in this process."""
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in logging.getLogger().handlers)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How a child process logs."""

    level: str
    as_json: bool

    @classmethod
    def of_this_process(cls) -> "LogSettings":
        """Return how the calling process logs, so that its children do the same."""
        root = logging.getLogger()
        return cls(logging.getLevelName(root.level), as_json=is_json())


# A placeholder of the % operator, with the name before it if there is one: `delivery=%s`, `seconds=%.3f`.
_PLACEHOLDER: Final = re.compile(r"(?:(?<![^\s])([a-z_][a-z0-9_]*)=)?%[-+ #0]*\d*(?:\.\d+)?[sdfXxr]")


class _Formatter(logging.Formatter):
    """Formats exceptions without patient data."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the library's name
        return traceback_of(ei[1]) if ei[1] is not None else ""


class _TextFormatter(_Formatter):
    """`2026-01-31T12:00:00.000Z INFO dicomflow.edge.receive.worker event key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _extra(record).items())
        line = f"{_timestamp(record)} {record.levelname} {record.name} {record.getMessage()}{fields}".translate(
            _ESCAPED
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(_Formatter):
    """One object a line: at, level, logger, message, its fields, the extra ones, and the traceback of an exception.

    The fields of a message, as in `delivery=%s`, are members too, so that lines can be joined by them.
    """

    def format(self, record: logging.LogRecord) -> str:
        document = {
            **_fields(record),
            **_extra(record),
            "at": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def _one_traceback(error: BaseException) -> str:
    kind = type(error)
    is_plain = isinstance(error, _PLAIN_ERRORS) or kind.__module__.partition(".")[0] in _PLAIN_LIBRARIES
    text = f": {error}" if is_plain else ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    told = f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}{text}"
    if isinstance(error, BaseExceptionGroup):
        told += "".join(f"\n\nin the group: {traceback_of(each)}" for each in error.exceptions)
    return told


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the arguments of a message that has a name before each of its placeholders."""
    if not isinstance(record.args, tuple) or not isinstance(record.msg, str):
        return {}
    names = _names(record.msg)
    if len(names) != len(record.args):
        return {}
    return {name: _value(value) for name, value in zip(names, record.args, strict=True) if name}


@lru_cache(maxsize=1000)
def _names(message: str) -> tuple[str, ...]:
    return tuple(match[1] or "" for match in _PLACEHOLDER.finditer(message.replace("%%", "")))


def _value(value: object) -> Any:
    return value if isinstance(value, bool | int | float) or value is None else str(value)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}
