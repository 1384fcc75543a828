"""Decoded frames as PNG: windowed to eight bits, or scaled down to a thumbnail; the last ones are kept in memory.

Threads: any. Needs the extra `console` (numpy, imagecodecs).
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from obstore.store import ObjectStore

from dicomflow.console.frames import Frame, FrameError, open_object, read_frame

__all__ = ["Picture", "Pictures", "Window"]

THUMBNAIL_PIXELS: Final = 128
MAX_KEPT_BYTES: Final = 192 << 20
DECODES_AT_ONCE: Final = 2
"""A decoded frame may take 256 MB; a browser asks for many at once."""
_FASTEST: Final = 1
_TAILS_PERCENT: Final = (0.5, 99.5)


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


class Pictures:
    """Makes pictures of the objects of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._decoding = threading.BoundedSemaphore(DECODES_AT_ONCE)
        self._lock = threading.Lock()  # guards what is kept
        self._kept: OrderedDict[tuple[str, int], tuple[Frame, int]] = OrderedDict()
        self._kept_bytes = 0

    def frame(self, object_key: str, index: int, window: Window) -> Picture:
        """Return a frame through a window.

        Raises:
            FrameError: it cannot be shown.
        """
        frame, count = self._frame(object_key, index)
        center, width = _window_of(frame, window)
        return Picture(_png(_shown(frame, center, width, window.is_inverted)), center, width, count)

    def thumbnail(self, object_key: str, index: int) -> bytes:
        """Return a frame, small, through the object's own window.

        Raises:
            FrameError: it cannot be shown.
        """
        frame, _ = self._frame(object_key, index)
        step = max(1, -(-max(frame.pixels.shape[:2]) // THUMBNAIL_PIXELS))
        center, width = _window_of(frame, Window())
        small = Frame(frame.pixels[::step, ::step], frame.is_color, frame.is_inverted, center, width)
        return _png(_shown(small, center, width, False))

    def _frame(self, object_key: str, index: int) -> tuple[Frame, int]:
        with self._lock:
            found = self._kept.get((object_key, index))
            if found is not None:
                self._kept.move_to_end((object_key, index))
                return found
        with self._decoding:
            opened = open_object(self._store, object_key)
            frame, count = read_frame(opened, index), opened.frames
        with self._lock:
            if (object_key, index) not in self._kept:
                self._kept[object_key, index] = frame, count
                self._kept_bytes += frame.pixels.nbytes
            while self._kept_bytes > MAX_KEPT_BYTES:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._kept_bytes -= dropped.pixels.nbytes
        return frame, count


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
    levels = (frame.pixels - (center - 0.5)) * (255.0 / scale) + 127.5
    shown = np.clip(np.nan_to_num(levels), 0, 255).astype(np.uint8)
    return 255 - shown if is_inverted != frame.is_inverted else shown


def _png(samples: Any) -> bytes:
    try:
        import imagecodecs  # noqa: PLC0415  # an extra, and 60 MB
        import numpy as np  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FrameError("frames need the extra: pip install 'dicomflow[console]'") from error
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=_FASTEST))
