"""A bucket in memory, strongly consistent, with the virtual clock's times, and a faulty way to it."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from obstore.exceptions import GenericError

from tests.simulation.box import Box


class Result:
    """What a `get` of obstore answers."""

    def __init__(self, content: bytes, meta: dict[str, Any]) -> None:
        self._content, self.meta, self.attributes = content, meta, {}

    async def bytes_async(self) -> bytes:
        """Return all of it."""
        return self._content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.stream():
            yield chunk

    def stream(self, *_args: object, **_options: object) -> Iterator[bytes]:
        """Yield it in chunks."""
        for start in range(0, max(len(self._content), 1), 1 << 16):
            yield self._content[start : start + (1 << 16)]

    def __iter__(self) -> Iterator[bytes]:
        return self.stream()

    def bytes(self) -> bytes:
        """Return all of it."""
        return self._content


class Bucket:
    """The methods of obstore's stores that we call; `put` tells `on_put` of each object, as S3 tells of it."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock, self.objects = clock, {}
        self.since: dict[str, datetime] = {}  # since when a key has had its bytes: to put them again changes nothing
        self.deleted: dict[str, tuple[bytes, datetime]] = {}  # with when
        self.on_put: Callable[[str], None] = lambda _key: None
        self.unreadable: set[str] = set()  # prefixes that no one may read, as KMS refuses

    def head(self, key: str) -> dict[str, Any]:
        """Return what is known of an object."""
        if key not in self.objects:
            raise FileNotFoundError(key)
        content, at = self.objects[key]
        return {"path": key, "size": len(content), "last_modified": at, "e_tag": None, "version": None}

    def get(self, key: str, options: dict[str, Any] | None = None) -> Result:
        """Return an object, or a range of it."""
        meta = self.head(key)
        if any(map(key.startswith, self.unreadable)):
            raise GenericError("simulated: refused by KMS")
        content = self.objects[key][0]
        if options and "range" in options:
            start, end = options["range"]
            if start >= len(content):
                raise GenericError("simulated: range not satisfiable")
            content = content[start:end]
        return Result(content, meta)

    def get_range(self, key: str, *, start: int, end: int | None = None, length: int = 0) -> bytes:
        """Return a part of an object."""
        return self.get(key).bytes()[start : start + length if end is None else end]

    def put(self, key: str, content: Any, **_options: object) -> None:
        """Store an object."""
        content = bytes(content)
        if self.objects.get(key, (None,))[0] != content:
            self.since[key] = self._clock()
        self.objects[key] = (content, self._clock())
        self.on_put(key)

    def copy(self, source: str, target: str, **_options: object) -> None:
        """Copy an object."""
        self.put(target, self.get(source).bytes())

    def delete(self, keys: str | list[str]) -> None:
        """Delete objects, those that are not there too, as S3 does."""
        for key in [keys] if isinstance(keys, str) else keys:
            if key in self.objects:
                self.deleted[key] = (self.objects.pop(key)[0], self._clock())

    def list(self, prefix: str | None = None, chunk_size: int = 50, **_options: object) -> Iterator[list[dict]]:
        """Yield pages of the objects under a prefix."""
        start = prefix.rstrip("/") + "/" if prefix else ""
        keys = sorted(key for key in self.objects if key.startswith(start))
        for first in range(0, len(keys), chunk_size):
            yield [self.head(key) for key in keys[first : first + chunk_size] if key in self.objects]


class FaultyStore:
    """A way to a bucket on which calls fail before their effect or after it, and on which processes die."""

    def __init__(self, box: Box, bucket: Bucket) -> None:
        self._box, self._bucket = box, bucket

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        box = self._box
        box.point(f"store {name} {args[0] if args else ''}")
        if box.fails("store_error", "store"):
            raise GenericError("simulated: no answer")
        if name == "get" and any(map(args[0].startswith, self._bucket.unreadable)) and box.task is not None:
            box.task.is_faulted = True
            box.counts["unreadable_results"] += 1
        answer = getattr(self._bucket, name)(*args, **options)
        if name in {"put", "copy", "delete"} and box.fails("store_after", "store"):
            raise GenericError("simulated: done, and not told")
        return answer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.endswith("_async"):

            async def call(*args: Any, **options: Any) -> Any:
                return self._call(name.removesuffix("_async"), *args, **options)

            return call
        return lambda *args, **options: self._call(name, *args, **options)


_NAMES = ("get", "get_async", "head", "head_async", "get_range", "list", "delete", "put", "put_async", "copy")


def _function(name: str) -> Callable[..., Any]:
    return lambda store, *args, **options: getattr(store, name)(*args, **options)


# obstore's functions take native stores only; these stand where our modules have `obstore`.
OBSTORE = SimpleNamespace(**{name: _function(name) for name in _NAMES})
