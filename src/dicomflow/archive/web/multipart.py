"""multipart/related, written part by part (PS3.18 8.6.1.2.1, RFC 2387, RFC 2046 5.1).

Each part begins with its boundary and ends with its data, so that nothing stands before the first and the length of a
whole answer is known before it is made.
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["Multipart"]

_CRLF: Final = b"\r\n"


class Multipart:
    """The framing of one answer; its boundary is of 128 random bits, which no data holds."""

    def __init__(self, media_type: str) -> None:
        self._boundary = f"dicomflow-{secrets.token_hex(16)}"
        # A bare type in quotes, and no parameter within them: clients compare it.
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self._boundary}'
        self._is_first = True

    def head(self, headers: Mapping[str, str]) -> bytes:
        """Return what stands before the data of the next part."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        before = b"" if self._is_first else _CRLF
        self._is_first = False
        return before + f"--{self._boundary}\r\n{lines}\r\n".encode("latin-1")

    def end(self) -> bytes:
        """Return what stands behind the last part; of an answer that fails it is never sent."""
        return (b"" if self._is_first else _CRLF) + f"--{self._boundary}--\r\n".encode("latin-1")

    def length(self, parts: Iterable[tuple[Mapping[str, str], int]]) -> int:
        """Return the bytes of a whole answer, from the headers and the bytes of each part."""
        framing = Multipart.__new__(Multipart)
        framing._boundary, framing._is_first = self._boundary, True  # noqa: SLF001  # its own
        return sum(len(framing.head(headers)) + size for headers, size in parts) + len(framing.end())
