"""Frames as PNG, windowed to eight bits or scaled down to a thumbnail, in a process of its own with bounded memory.

The process reads objects through the one that started it, and has no other way to store or catalog: what codecs and
pydicom make of a hostile object ends here. Needs the extra `console` (numpy, imagecodecs).
"""

import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from dicomflow.archive.pixels.converting import converted, native_samples
from dicomflow.archive.pixels.frames import Frame, open_file, read_frame
from dicomflow.archive.pixels.picture import Channel, FrameError, Picture, Window
from dicomflow.archive.pixels.rendering import Rendering, encode_png, render, shown, window_of
from dicomflow.bucket.ranged import RangedFile

__all__ = ["draw", "serve_pictures"]

THUMBNAIL_PIXELS: Final = 128
MAX_KEPT_BYTES: Final = 96 << 20


def serve_pictures(channel: Channel, memory_bytes: int) -> None:
    """Answer what is asked for until the other side closes.

    A request is JSON. Each read is asked for as JSON with `read`, and answered with the bytes, or with nothing where
    the object could not be read. An answer is JSON with `refused`, or with fields and its bytes behind it; the end of
    a request is one with `is_last`.
    """
    _bound_memory(memory_bytes)
    kept = _Kept()
    while True:
        try:
            request = json.loads(channel.receive())
        except EOFError:
            return
        try:
            for about, content in _ANSWERS[request["what"]](request, kept, channel):
                channel.send(json.dumps(about).encode())
                channel.send(content)
        except FrameError as error:
            channel.send(json.dumps({"refused": str(error)}).encode())
        except Exception as error:  # noqa: BLE001  # the boundary around one picture of many
            kept.clear()
            channel.send(json.dumps({"refused": f"it cannot be drawn: {type(error).__name__}"}).encode())


def draw(frame: Frame, count: int, window: Window, *, is_small: bool) -> Picture:
    """Draw a frame of so many, through a window, or small."""
    if is_small:
        step = max(1, -(-max(frame.pixels.shape[:2]) // THUMBNAIL_PIXELS))
        center, width = window_of(frame, window)
        frame = Frame(frame.pixels[::step, ::step], frame.is_color, frame.is_inverted, center, width)
    else:
        center, width = window_of(frame, window)
    return Picture(encode_png(shown(frame, center, width, is_inverted=window.is_inverted)), center, width, count)


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


_Answers = Iterator[tuple[dict[str, Any], bytes]]


def _picture(request: dict[str, Any], kept: _Kept, channel: Channel) -> _Answers:
    """Answer with a PNG for the console."""
    picture = draw(*_found(request, kept, channel), Window(**request["window"]), is_small=request["is_small"])
    about = asdict(picture)
    png = about.pop("png")
    yield {**about, "is_last": True}, png


def _rendering(request: dict[str, Any], kept: _Kept, channel: Channel) -> _Answers:
    """Answer with a rendered frame (PS3.18 10.4.1.1.3), in the type and size that are asked for."""
    frame, _ = _found(request, kept, channel)
    yield {"is_last": True}, render(frame, Rendering(**request["rendering"]))


def _samples(request: dict[str, Any], _kept: _Kept, channel: Channel) -> _Answers:
    """Answer with the uncompressed samples of some frames, one after the other."""
    opened = open_file(lambda: _file(channel, request["size"]))
    indexes: list[int] = request["frames"]
    for index in indexes:
        yield {"is_last": index == indexes[-1]}, native_samples(opened, index)


def _conversion(request: dict[str, Any], _kept: _Kept, channel: Channel) -> _Answers:
    """Answer with the object in Explicit VR Little Endian, piece by piece."""
    for piece in converted(_file(channel, request["size"]), is_implicit=request["is_implicit"]):
        yield {"is_last": False}, piece
    yield {"is_last": True}, b""


_ANSWERS: Final = {"picture": _picture, "rendering": _rendering, "samples": _samples, "conversion": _conversion}


def _found(request: dict[str, Any], kept: _Kept, channel: Channel) -> tuple[Frame, int]:
    key, index = request["key"], request["index"]
    found = kept.find(key, index)
    if found is None:
        opened = open_file(lambda: _file(channel, request["size"]))
        found = read_frame(opened, index), opened.frames
        kept.keep(key, index, *found)
    return found


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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the end is that of the other side
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints is no message
    serve_pictures(Channel(sys.stdin.buffer, answers), int(sys.argv[1]))
