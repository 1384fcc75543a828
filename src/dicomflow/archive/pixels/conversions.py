"""Stored instances decompressed, rewritten and rendered, by processes of their own. Threads: any."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from dicomflow.archive.pixels.codecs import UNCOMPRESSED, is_convertible
from dicomflow.archive.pixels.processes import Processes
from dicomflow.archive.pixels.rendering import Rendering
from dicomflow.archive.retrieval import Retrieval, StoredInstance

__all__ = ["Conversions"]


class Conversions:
    """What an archive makes of its instances; `close` ends its processes."""

    def __init__(self, retrieval: Retrieval, processes: Processes | None = None) -> None:
        self._retrieval = retrieval
        self._processes = processes or Processes()
        self._has_codecs = find_spec("imagecodecs") is not None and find_spec("numpy") is not None

    def can_convert(self, transfer_syntax_uid: str) -> bool:
        """Tell whether instances of a transfer syntax can be had in Explicit VR Little Endian."""
        return is_convertible(transfer_syntax_uid) and (self._has_codecs or transfer_syntax_uid in UNCOMPRESSED)

    def convert(self, instance: StoredInstance, *, is_implicit: bool = False) -> Iterator[bytes]:
        """Yield an instance as a Part 10 file in Explicit VR Little Endian, or in Implicit VR Little Endian.

        Raises:
            FrameError: it cannot be converted, at the begin or on the way.
            NotHeldError, TransientError: as `Retrieval.read`.
        """
        yield from self._stream(instance, {"what": "conversion", "is_implicit": is_implicit})

    def samples(self, instance: StoredInstance, frames: Sequence[int]) -> Iterator[bytes]:
        """Yield frames, the first is 0, as uncompressed samples in little endian; raises as `convert`."""
        yield from self._stream(instance, {"what": "samples", "frames": list(frames), "index": frames[0]})

    def render(self, instance: StoredInstance, index: int, rendering: Rendering) -> bytes:
        """Return a frame, the first is 0, as a picture; raises as `convert`."""
        request = self._request(instance, {"what": "rendering", "index": index, "rendering": asdict(rendering)})
        return self._processes.ask(request, lambda start, length: self._retrieval.read(instance, start, length))[1]

    def close(self) -> None:
        """End the processes that are free; one at work ends with its parent."""
        self._processes.close()

    def _stream(self, instance: StoredInstance, request: dict[str, Any]) -> Iterator[bytes]:
        def read(start: int, length: int) -> bytes:
            return self._retrieval.read(instance, start, length)

        with closing(self._processes.stream(self._request(instance, request), read)) as answers:
            for _, piece in answers:
                if piece:
                    yield piece

    @staticmethod
    def _request(instance: StoredInstance, request: dict[str, Any]) -> dict[str, Any]:
        return {**request, "key": instance.location, "size": instance.size_bytes}
