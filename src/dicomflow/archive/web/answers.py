"""Answers as they leave: streamed, packed, by ranges, or "not modified" (RFC 9110 8.8, 13, 14)."""

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dicomflow.archive.retrieval import StoredInstance

__all__ = ["etag_of", "ranged", "streamed", "unchanged"]

_PIECE_BYTES: Final = 4 << 20
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_PACKED_FAST: Final = 1
_GZIP: Final = 16 + zlib.MAX_WBITS


def etag_of(request: Request, instances: Sequence[StoredInstance]) -> str | None:
    """Return a weak tag of what is asked for in the way it is asked for; None where a digest is not known.

    It changes with each object, and with what decides how that is given. Boundaries differ, so that it is weak.
    """
    digest = hashlib.sha256()
    for part in (request.url.path, request.url.query, ",".join(request.headers.getlist("accept"))):
        digest.update(part.encode("utf-8", "replace") + b"\0")
    for instance in instances:
        if instance.sha256 is None:
            return None
        digest.update(f"{instance.sop_instance_uid} {instance.sha256}\n".encode())
    return f'W/"{digest.hexdigest()[:40]}"'


def unchanged(request: Request, etag: str | None) -> Response | None:
    """Return 304 where the client has what it asks for."""
    asked = request.headers.get("if-none-match")
    if etag is None or asked is None:
        return None
    known = {each.strip().removeprefix("W/") for each in asked.split(",")}
    if known.isdisjoint({"*", etag.removeprefix("W/")}):
        return None
    return Response(status_code=304, headers={"etag": etag})


def streamed(
    request: Request,
    pieces: Iterator[bytes],
    media_type: str,
    *,
    length: int | None = None,
    etag: str | None = None,
    headers: Mapping[str, str] | None = None,
    is_packed: bool = False,
) -> Response:
    """Return an answer that is made while it is sent; its first piece at once, so that its failure has a status.

    Args:
        request: of HEAD nothing is made.
        pieces: the body.
        media_type: with its parameters.
        length: of the body, where it is known.
        etag: for conditional requests.
        headers: others.
        is_packed: it may be packed with gzip, where that is accepted.
    """
    found = {**(headers or {}), "content-type": media_type}
    if etag is not None:
        found["etag"] = etag
    if is_packed:
        found["vary"] = "Accept, Accept-Encoding, Authorization"
    if length is not None:
        found["content-length"] = str(length)
    if request.method == "HEAD":
        return Response(headers=found) if length is None else _WithoutBody(headers=found)
    body: Iterable[bytes] = chain([next(pieces, b"")], pieces)
    if is_packed and _accepts_gzip(request):
        found["content-encoding"] = "gzip"
        body = _packed(body)
    return StreamingResponse(body, headers=found)


def ranged(
    request: Request,
    size: int,
    read: Callable[[int, int], bytes],
    media_type: str,
    *,
    etag: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return bytes that are read by ranges, all of them or the range that is asked for; of several ranges all.

    Raises:
        HTTPException: 416, the range holds no byte.
    """
    found = {**(headers or {}), "accept-ranges": "bytes"}
    first, behind, status = 0, size, 200
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is not None and (match[1] or match[2]) and "if-range" not in request.headers:
        if match[1]:
            first, behind = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        else:
            first = max(0, size - int(match[2]))
        if first >= behind:
            raise HTTPException(416, f"there are {size:,} bytes", {"content-range": f"bytes */{size}"})
        status, found["content-range"] = 206, f"bytes {first}-{behind - 1}/{size}"

    def pieces() -> Iterator[bytes]:
        for start in range(first, behind, _PIECE_BYTES):
            yield read(start, min(_PIECE_BYTES, behind - start))

    answer = streamed(request, pieces(), media_type, length=behind - first, etag=etag, headers=found)
    answer.status_code = status
    return answer


class _WithoutBody(Response):
    """The headers of an answer to HEAD; its length is that of the body that GET has."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ]


def _accepts_gzip(request: Request) -> bool:
    for each in request.headers.get("accept-encoding", "").split(","):
        name, _, parameters = each.partition(";")
        if name.strip().lower() == "gzip":
            return parameters.replace(" ", "").lower() not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_PACKED_FAST, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()
