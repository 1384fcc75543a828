"""Pictures of the objects of one store, drawn by processes of their own. Threads: any."""

from dataclasses import asdict
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.archive.pixels.picture import FrameError, Picture, Window
from dicomflow.archive.pixels.processes import MEMORY_BYTES, SECONDS, Processes

__all__ = ["Picture", "Pictures", "Window"]


class Pictures:
    """Makes pictures of the objects of one store; its processes start when they are needed, and end with `close`.

    Args:
        store: the objects.
        seconds: how long a picture may take, reading included.
        memory_bytes: what a drawing process may take.
    """

    def __init__(self, store: ObjectStore, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._store = store
        self.processes = Processes(seconds, memory_bytes)

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
        self.processes.close()

    def _draw(self, object_key: str, index: int, window: Window, *, is_small: bool) -> Picture:
        size = self._size(object_key)
        request: dict[str, Any] = {"what": "picture", "key": object_key, "index": index, "size": size}
        request |= {"is_small": is_small, "window": asdict(window)}
        answer, png = self.processes.ask(request, lambda start, length: self._read(object_key, start, length))
        return Picture(png, answer["center"], answer["width"], answer["frames"])

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
