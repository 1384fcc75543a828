"""Pictures of the objects of one store, drawn by processes that may break, take too long or want too much memory.

An object of some hundred bytes can decode to gigabytes. The console, in which under `dicomflow local` the receiver's
supervisor runs, decodes nothing itself: it reads what a drawing process asks for, and ends the process that does not
answer in time. Threads: any.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.archive.pixels.picture import Channel, FrameError, Picture, Window

__all__ = ["Picture", "Pictures", "Window"]

DRAWERS: Final = 2
"""A browser asks for many pictures at once."""
MEMORY_BYTES: Final = 1 << 30
"""What one drawing process may take, the frames that it keeps included."""
SECONDS: Final = 30.0
_MAX_REMEMBERED: Final = 1000


class Pictures:
    """Makes pictures of the objects of one store; its processes start when they are needed, and end with `close`.

    Args:
        store: the objects.
        seconds: how long a picture may take, reading included.
        memory_bytes: what a drawing process may take.
    """

    def __init__(self, store: ObjectStore, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._store = store
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        # The one used last is used next: it has the frames that are looked at.
        self._free: queue.LifoQueue[_Drawer | None] = queue.LifoQueue()
        for _ in range(DRAWERS):
            self._free.put(None)
        self._lock = threading.Lock()  # guards what broke a process
        self._broke: OrderedDict[tuple[str, int], str] = OrderedDict()

    def frame(self, object_key: str, index: int, window: Window) -> Picture:
        """Return a frame through a window.

        Raises:
            FrameError: it cannot be shown.
        """
        return self._draw(object_key, index, window, is_small=False)

    def thumbnail(self, object_key: str, index: int) -> bytes:
        """Return a frame, small, through the object's own window.

        Raises:
            FrameError: it cannot be shown.
        """
        return self._draw(object_key, index, Window(), is_small=True).png

    def close(self) -> None:
        """End the processes that are free; one at work ends with its parent."""
        with contextlib.suppress(queue.Empty):
            while True:
                drawer = self._free.get_nowait()
                if drawer is not None:
                    drawer.end()

    def _draw(self, object_key: str, index: int, window: Window, *, is_small: bool) -> Picture:
        with self._lock:
            if reason := self._broke.get((object_key, index)):
                raise FrameError(reason)
        size = self._size(object_key)
        request = {"key": object_key, "index": index, "size": size, "is_small": is_small, "window": asdict(window)}
        with self._drawer() as drawer:
            try:
                return drawer.draw(request, lambda start, length: self._read(object_key, start, length))
            except _BrokenError as error:
                reason = str(error)
        with self._lock:
            self._broke[object_key, index] = reason
            while len(self._broke) > _MAX_REMEMBERED:
                self._broke.popitem(last=False)
        raise FrameError(reason)

    @contextlib.contextmanager
    def _drawer(self) -> Iterator["_Drawer"]:
        """Take a process that is free, and give it back; one that broke is ended, and started anew when needed."""
        try:
            drawer = self._free.get(timeout=self._seconds)
        except queue.Empty:
            raise FrameError("others are being drawn; try again") from None
        try:
            if drawer is None:
                try:
                    drawer = _Drawer(self._seconds, self._memory_bytes)
                except OSError as error:
                    raise FrameError(f"no process can be started: {error.strerror}") from error
            yield drawer
        finally:
            if drawer is not None and not drawer.is_whole:
                drawer.end()
                drawer = None
            self._free.put(drawer)

    def _size(self, object_key: str) -> int:
        try:
            size: int = obstore.head(self._store, object_key)["size"]
        except FileNotFoundError as error:
            raise FrameError("the object is not in the store") from error
        except (BaseError, OSError) as error:
            raise FrameError(f"the store does not answer: {type(error).__name__}") from error
        return size

    def _read(self, object_key: str, start: int, length: int) -> bytes:
        return bytes(obstore.get_range(self._store, object_key, start=start, length=length))


class _BrokenError(Exception):
    """The process did not come to an end with a picture; the text says what it was."""


class _Drawer:
    """A drawing process and the way to it. Thread: one owner at a time."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._process = subprocess.Popen(  # noqa: S603  # this program itself
            [sys.executable, "-P", "-m", "dicomflow.archive.pixels.drawing", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a codec's words may be a patient's data
            # In Lambda our packages are on this process's own path alone.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdout, self._process.stdin)
        self.is_whole = True

    def draw(self, request: dict[str, Any], read: Callable[[int, int], bytes]) -> Picture:
        """Have a picture drawn, reading what is asked for.

        Raises:
            FrameError: it cannot be shown, or the store does not give it.
            _BrokenError: the process took too long, or broke; it is of no use then.
        """
        self.is_whole = False  # until the answer is whole
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(self._seconds, give_up)
        timer.start()
        try:
            self._channel.send(json.dumps(request).encode())
            while "read" in (answer := json.loads(self._channel.receive())):
                self._channel.send(read(*answer["read"]))
            png = b"" if "refused" in answer else self._channel.receive()
        except (EOFError, BrokenPipeError) as error:
            if is_late.is_set():
                raise _BrokenError(f"drawing it takes longer than {self._seconds:g} s") from error
            limit = self._memory_bytes >> 20
            raise _BrokenError(f"it breaks the decoder, or needs more than {limit:,} MiB") from error
        except (BaseError, OSError) as error:
            raise FrameError(f"the store does not answer: {type(error).__name__}") from error
        finally:
            timer.cancel()
        self.is_whole = not is_late.is_set()
        if "refused" in answer:
            raise FrameError(answer["refused"])
        return Picture(png, answer["center"], answer["width"], answer["frames"])

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._channel.close()
        self._process.kill()
        self._process.wait()
