"""multipart/related, read as it comes: parts in pieces, whatever way the body is cut (RFC 2046 5.1).

Nothing is kept but a piece that may be the begin of a boundary, and a part's headers, which are bounded.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Final

__all__ = ["BodyError", "Part", "PartReader", "boundary_of"]

_MAX_HEADER_BYTES: Final = 16 << 10
_MAX_BOUNDARY_LENGTH: Final = 200  # RFC 2046 says 70, and clients make longer ones
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)


class Part(Enum):
    """What a piece of the body is beside data of a part."""

    BEGIN = "a part's headers have ended"
    END = "a part has ended"


class BodyError(Exception):
    """The body is no multipart body, or ends too soon."""


class _State(Enum):
    PREAMBLE = 1
    AFTER_BOUNDARY = 2
    HEADERS = 3
    DATA = 4
    EPILOGUE = 5


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary that a Content-Type names, quoted or not; None where it names none."""
    match = _BOUNDARY.search(content_type)
    return None if match is None else (match[1] or match[2]).encode("latin-1", "replace")


class PartReader:
    """Reads one body. Thread: one owner."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # The first boundary may begin the body.
        self._waiting = b"\r\n"
        self._state = _State.PREAMBLE

    def feed(self, data: bytes) -> Iterator[Part | bytes]:
        """Yield begins, pieces and ends of parts.

        Raises:
            BodyError: a part's headers are too long.
        """
        waiting = self._waiting + data
        while True:
            before = self._state
            if before is _State.EPILOGUE:
                waiting = b""
            elif before is _State.AFTER_BOUNDARY:
                waiting = self._after_boundary(waiting)
            elif before is _State.HEADERS:
                waiting, is_whole = self._headers(waiting)
                if is_whole:
                    yield Part.BEGIN
            else:
                found = waiting.find(self._delimiter)
                keep = len(waiting) - len(self._delimiter) + 1 if found < 0 else found
                if before is _State.DATA and keep > 0:
                    yield waiting[:keep]
                if found >= 0:
                    waiting = waiting[found + len(self._delimiter) :]
                    self._state = _State.AFTER_BOUNDARY
                    if before is _State.DATA:
                        yield Part.END
                elif keep > 0:
                    waiting = waiting[keep:]
            if self._state is before:
                break
        self._waiting = waiting

    def end(self) -> None:
        """Note the end of the body.

        Raises:
            BodyError: the last boundary is missing.
        """
        if self._state is not _State.EPILOGUE:
            raise BodyError("the body ends before its last boundary")

    def _after_boundary(self, waiting: bytes) -> bytes:
        """Take what stands behind a boundary: dashes at the last one, blanks and a line's end at the others."""
        if waiting.startswith(b"--"):
            self._state = _State.EPILOGUE
            return b""
        end = waiting.find(b"\r\n")
        if end >= 0 and not waiting[:end].strip(b" \t"):
            self._state = _State.HEADERS
            return waiting[end:]  # an empty block of headers is a line's end alone
        if len(waiting) > _MAX_HEADER_BYTES or (end >= 0 and waiting[:end].strip(b" \t")):
            raise BodyError("what stands behind a boundary is no line's end")
        return waiting

    def _headers(self, waiting: bytes) -> tuple[bytes, bool]:
        end = waiting.find(b"\r\n\r\n")
        if end < 0:
            if len(waiting) > _MAX_HEADER_BYTES:
                raise BodyError(f"the headers of a part exceed {_MAX_HEADER_BYTES:,} bytes")
            return waiting, False
        self._state = _State.DATA
        # Data that begin with a boundary are none: its line's end is that of the headers.
        return waiting[end + 2 :] if waiting[end + 2 :].startswith(self._delimiter) else waiting[end + 4 :], True
