"""What the console and the processes that draw for it say to each other; knows neither pixels nor pydicom.

So a console imports none of what only its drawing processes need: as a Lambda function it starts sooner.
"""

from dataclasses import dataclass
from typing import IO

__all__ = ["Channel", "FrameError", "Picture", "Window"]


class FrameError(Exception):
    """A frame cannot be shown; the text says why."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown from black to white (PS3.3 C.11.2); None takes what the object asks for."""

    center: float | None = None
    width: float | None = None
    is_inverted: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, and the window it was made with; None of it for colours."""

    png: bytes
    center: float | None
    width: float | None
    frames: int


class Channel:
    """Messages of bytes over two pipes, each behind its length: four bytes, big endian. Thread: one owner."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: bytes) -> None:
        """Send a message; raises `OSError` when the other side is gone."""
        self._writer.write(len(message).to_bytes(4, "big") + message)
        self._writer.flush()

    def receive(self) -> bytes:
        """Return the next message; raises `EOFError` when the other side is gone."""
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def close(self) -> None:
        """Close both pipes."""
        self._reader.close()
        self._writer.close()

    def _exactly(self, size: int) -> bytes:
        found = self._reader.read(size)
        if len(found) < size:
            raise EOFError
        return found
