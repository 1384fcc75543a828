"""Processes that decode: they may break, take too long or want too much memory, and nothing else does for that.

An object of some hundred bytes can decode to gigabytes. Whoever asks decodes nothing itself: it reads what a process
asks for, and ends the one that does not answer in time. Threads: any.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

from obstore.exceptions import BaseError

from dicomflow.archive.pixels.picture import Channel, FrameError

__all__ = ["DRAWERS", "MEMORY_BYTES", "SECONDS", "Processes", "Read"]

DRAWERS: Final = 2
"""A browser asks for many pictures at once."""
MEMORY_BYTES: Final = 1 << 30
"""What one process may take, the frames that it keeps included."""
SECONDS: Final = 30.0
_MAX_REMEMBERED: Final = 1000

Read = Callable[[int, int], bytes]
"""Gives so many bytes of the object from a place on."""


class Processes:
    """Answers what is asked about an object; processes start when they are needed, and end with `close`.

    Args:
        seconds: how long an answer, or the next piece of one, may take, reading included.
        memory_bytes: what a process may take.
        most: how many there are at once.
    """

    def __init__(self, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES, most: int = DRAWERS) -> None:
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        # The one used last is used next: it has the frames that are looked at.
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(most):
            self._free.put(None)
        self._lock = threading.Lock()  # guards what broke a process
        self._broke: OrderedDict[str, str] = OrderedDict()

    def ask(self, request: dict[str, Any], read: Read) -> tuple[dict[str, Any], bytes]:
        """Return the one answer to a request: its fields, and the bytes behind them.

        Raises:
            FrameError: it cannot be answered; the text says why.
        """
        with contextlib.closing(self.stream(request, read)) as answers:
            return next(answers)

    def stream(self, request: dict[str, Any], read: Read) -> Generator[tuple[dict[str, Any], bytes], None, None]:
        """Yield the answers to a request as they come; raises as `ask`, also after the first of them."""
        name = json.dumps([request.get(part) for part in ("what", "key", "index")])
        with self._lock:
            if reason := self._broke.get(name):
                raise FrameError(reason)
        with self._process() as process:
            try:
                yield from process.answers(request, read)
            except _BrokenError as error:
                reason = str(error)
            else:
                return
        with self._lock:
            self._broke[name] = reason
            while len(self._broke) > _MAX_REMEMBERED:
                self._broke.popitem(last=False)
        raise FrameError(reason)

    def forget(self) -> None:
        """Forget what broke a process, so that it is tried again."""
        with self._lock:
            self._broke.clear()

    def close(self) -> None:
        """End the processes that are free; one at work ends with its parent."""
        with contextlib.suppress(queue.Empty):
            while True:
                process = self._free.get_nowait()
                if process is not None:
                    process.end()

    @contextlib.contextmanager
    def _process(self) -> Iterator["_Process"]:
        """Take a process that is free, and give it back; one that broke is ended, and started anew when needed."""
        try:
            process = self._free.get(timeout=self._seconds)
        except queue.Empty:
            raise FrameError("others are being drawn; try again") from None
        try:
            if process is None:
                try:
                    process = _Process(self._memory_bytes)
                except OSError as error:
                    raise FrameError(f"no process can be started: {error.strerror}") from error
            process.seconds = self._seconds
            yield process
        finally:
            if process is not None and not process.is_whole:
                process.end()
                process = None
            self._free.put(process)


class _BrokenError(Exception):
    """The process did not come to an end with an answer; the text says what it was."""


class _Process:
    """A process and the way to it. Thread: one owner at a time."""

    def __init__(self, memory_bytes: int) -> None:
        self.seconds = SECONDS
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

    def answers(self, request: dict[str, Any], read: Read) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield answers up to the last one, reading what is asked for.

        Raises:
            FrameError: it cannot be answered, or the store does not give the object.
            _BrokenError: the process took too long, or broke; it is of no use then.
        """
        self.is_whole = False  # until the last answer is whole
        self._within(lambda: self._channel.send(json.dumps(request).encode()))
        while True:
            answer, content = self._within(lambda: self._next(read))
            if "refused" in answer:
                self.is_whole = True
                raise FrameError(answer["refused"])
            if answer.pop("is_last"):
                self.is_whole = True
                yield answer, content
                return
            yield answer, content

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._channel.close()
        self._process.kill()
        self._process.wait()

    def _next(self, read: Read) -> tuple[dict[str, Any], bytes]:
        while "read" in (answer := json.loads(self._channel.receive())):
            self._channel.send(read(*answer["read"]))
        return answer, b"" if "refused" in answer else self._channel.receive()

    def _within(self, step: Callable[[], Any]) -> Any:
        """Take a step of the conversation, and end the process where that takes too long."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(self.seconds, give_up)
        timer.start()
        try:
            found = step()
        except (EOFError, BrokenPipeError) as error:
            if is_late.is_set():
                raise _BrokenError(f"drawing it takes longer than {self.seconds:g} s") from error
            limit = self._memory_bytes >> 20
            raise _BrokenError(f"it breaks the decoder, or needs more than {limit:,} MiB") from error
        except (BaseError, OSError) as error:
            raise FrameError(f"the store does not answer: {type(error).__name__}") from error
        finally:
            timer.cancel()
        if is_late.is_set():
            raise _BrokenError(f"drawing it takes longer than {self.seconds:g} s")
        return found
