"""Frames as PNG, windowed to eight bits or scaled down to a thumbnail, in a process of its own with bounded memory.

The process reads objects through the one that started it, and has no other way to store or catalog: what codecs and
pydicom make of a hostile object ends here. Needs the extra `console` (numpy, imagecodecs).
"""

import json
import os
import signal
import sys
from collections import OrderedDict
from dataclasses import asdict
from typing import Any, Final

from dicomflow.archive.pixels.frames import Frame, open_file, read_frame
from dicomflow.archive.pixels.picture import Channel, FrameError, Picture, Window
from dicomflow.archive.pixels.ranged import RangedFile

__all__ = ["draw", "serve_pictures"]

THUMBNAIL_PIXELS: Final = 128
MAX_KEPT_BYTES: Final = 96 << 20
_FASTEST: Final = 1
_TAILS_PERCENT: Final = (0.5, 99.5)


def serve_pictures(channel: Channel, memory_bytes: int) -> None:
    """Draw what is asked for until the other side closes.

    A request is JSON. Each read is asked for as JSON with `read`, and answered with the bytes, or with nothing where
    the object could not be read. The end is JSON with `refused`, or with a picture's fields and its PNG behind it.
    """
    _bound_memory(memory_bytes)
    kept = _Kept()
    while True:
        try:
            request = json.loads(channel.receive())
        except EOFError:
            return
        try:
            picture = _answer(request, kept, channel)
        except FrameError as error:
            channel.send(json.dumps({"refused": str(error)}).encode())
        except Exception as error:  # noqa: BLE001  # the boundary around one picture of many
            kept.clear()
            channel.send(json.dumps({"refused": f"it cannot be drawn: {type(error).__name__}"}).encode())
        else:
            about = asdict(picture)
            png = about.pop("png")
            channel.send(json.dumps(about).encode())
            channel.send(png)


def draw(frame: Frame, count: int, window: Window, *, is_small: bool) -> Picture:
    """Draw a frame of so many, through a window, or small."""
    if is_small:
        step = max(1, -(-max(frame.pixels.shape[:2]) // THUMBNAIL_PIXELS))
        center, width = _window_of(frame, window)
        frame = Frame(frame.pixels[::step, ::step], frame.is_color, frame.is_inverted, center, width)
    else:
        center, width = _window_of(frame, window)
    return Picture(_png(_shown(frame, center, width, window.is_inverted)), center, width, count)


class _Kept:
    """The last frames, so that a window can be moved without decoding again. Thread: one owner."""

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[str, int], tuple[Frame, int]] = OrderedDict()
        self._bytes = 0

    def find(self, object_key: str, index: int) -> tuple[Frame, int] | None:
        found = self._frames.get((object_key, index))
        if found is not None:
            self._frames.move_to_end((object_key, index))
        return found

    def keep(self, object_key: str, index: int, frame: Frame, count: int) -> None:
        self._frames[object_key, index] = frame, count
        self._bytes += frame.pixels.nbytes
        while self._bytes > MAX_KEPT_BYTES:
            _, (dropped, _) = self._frames.popitem(last=False)
            self._bytes -= dropped.pixels.nbytes

    def clear(self) -> None:
        self._frames.clear()
        self._bytes = 0


def _answer(request: dict[str, Any], kept: _Kept, channel: Channel) -> Picture:
    key, index = request["key"], request["index"]
    found = kept.find(key, index)
    if found is None:
        opened = open_file(lambda: _file(channel, request["size"]))
        found = read_frame(opened, index), opened.frames
        kept.keep(key, index, *found)
    return draw(*found, Window(**request["window"]), is_small=request["is_small"])


def _file(channel: Channel, size: int) -> RangedFile:
    def fetch(start: int, length: int) -> bytes:
        channel.send(json.dumps({"read": [start, length]}).encode())
        found = channel.receive()
        if len(found) != length:
            raise FrameError("the object cannot be read")
        return found

    return RangedFile(size, fetch)


def _bound_memory(limit_bytes: int) -> None:
    """Let the system refuse memory above a limit (Linux, macOS); elsewhere time alone is bounded."""
    try:
        import resource  # noqa: PLC0415  # POSIX's
    except ImportError:
        return
    # Private memory that is written to: threads and libraries reserve address space that they never touch.
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _window_of(frame: Frame, window: Window) -> tuple[float | None, float | None]:
    """Return the window to use: the one asked for, the object's, or one that shows nearly all values."""
    if frame.is_color:
        return None, None
    center = frame.center if window.center is None else window.center
    width = frame.width if window.width is None else window.width
    if center is None or width is None:
        import numpy as np  # noqa: PLC0415  # an extra

        low, high = (float(value) for value in np.percentile(frame.pixels, _TAILS_PERCENT))
        center = (low + high) / 2 if center is None else center
        width = high - low if width is None else width
    return round(center, 2), max(1.0, round(width, 2))


def _shown(frame: Frame, center: float | None, width: float | None, is_inverted: bool) -> Any:  # noqa: FBT001  # private
    """Return samples of eight bits (PS3.3 C.11.2.1.2.1)."""
    import numpy as np  # noqa: PLC0415  # an extra

    if center is None or width is None:
        return 255 - frame.pixels if is_inverted else frame.pixels
    scale = max(width - 1.0, 1e-3)
    levels = frame.pixels - np.float32(center - 0.5)
    levels *= np.float32(255.0 / scale)
    levels += np.float32(127.5)
    np.nan_to_num(levels, copy=False)
    shown = np.clip(levels, 0, 255, out=levels).astype(np.uint8)
    return 255 - shown if is_inverted != frame.is_inverted else shown


def _png(samples: Any) -> bytes:
    try:
        import imagecodecs  # noqa: PLC0415  # an extra, and 60 MB
        import numpy as np  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FrameError("frames need the extra: pip install 'dicomflow[console]'") from error
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=_FASTEST))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the end is that of the other side
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints is no message
    serve_pictures(Channel(sys.stdin.buffer, answers), int(sys.argv[1]))
