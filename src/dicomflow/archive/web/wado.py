"""Retrieve transactions, WADO-RS (PS3.18 10.4): objects, metadata, frames, bulk data, renderings and thumbnails.

An answer is made while it is sent, piece by piece. Where an object fails on the way the connection ends without the
answer's end, so that no client takes a part of a study for the whole; what fails before the first piece is a status.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicomflow.archive.access import Right
from dicomflow.archive.ahead import ahead
from dicomflow.archive.archive import Archive
from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.metadata import MetadataWriter
from dicomflow.archive.objects import open_stored
from dicomflow.archive.retrieval import Selection, StoredInstance
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.answers import etag_of, ranged, streamed, unchanged
from dicomflow.archive.web.asked import Asked
from dicomflow.archive.web.frames import bulk_answer, frames_answer
from dicomflow.archive.web.jsontype import json_type_of
from dicomflow.archive.web.media import DICOM
from dicomflow.archive.web.multipart import Multipart
from dicomflow.archive.web.plan import Way, part_type, ways_of
from dicomflow.archive.web.rendered import rendered_answer, thumbnail_answer
from dicomflow.archive.web.urls import base_url
from dicomflow.dicom.uids import is_usable

__all__ = ["routes"]

_STUDY: Final = "/studies/{study}"
_SERIES: Final = _STUDY + "/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"
_LEVELS: Final = (_STUDY, _SERIES, _INSTANCE)
_JSON_BYTES: Final = 256 << 10
_WHOLE_BYTES: Final = 2 << 20
"""Objects of up to so many are read before their turn."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Answer = Callable[[Asked], Response]


def routes(archive: Archive, access: WebAccess) -> list[Route]:
    """Return the routes of retrieval; who asks needs the right to retrieve, and is written down.

    Args:
        archive: what is asked.
        access: says what the archive is reached by.
    """

    def route(path: str, answer: Answer, what: str) -> Route:
        def endpoint(request: Request) -> Response:
            return _answered(archive, access, request, answer, what)

        return Route(path, endpoint, methods=["GET"])

    return [
        *(route(f"{path}/metadata", _metadata, "metadata") for path in _LEVELS),
        *(route(f"{path}/thumbnail", _thumbnail, "thumbnail") for path in _LEVELS),
        route(_INSTANCE + "/rendered", _rendered, "rendered"),
        route(_INSTANCE + "/frames/{frames}/rendered", _rendered, "rendered"),
        route(_INSTANCE + "/frames/{frames}/thumbnail", _thumbnail, "thumbnail"),
        route(_INSTANCE + "/frames/{frames}", _frames, "frames"),
        route(_INSTANCE + "/bulkdata/{path:path}", _bulk, "bulkdata"),
        *(route(path, _objects, "objects") for path in _LEVELS),
    ]


def _answered(archive: Archive, access: WebAccess, request: Request, answer: Answer, what: str) -> Response:
    request.state.principal.require(Right.RETRIEVE)
    uids = [request.path_params.get(name) for name in ("study", "series", "instance")]
    for uid in uids:
        if uid is not None and not is_usable(uid):
            raise HTTPException(400, "an UID of the path is none (PS3.5 9.1)")
    study, series, instance = (() if uid is None else (uid,) for uid in uids)
    version = request.query_params.get("version")
    if version is not None and _DIGEST.fullmatch(version) is None:
        raise HTTPException(400, "a version is the SHA-256 of its file, in lower-case hexadecimal digits")
    instances = archive.retrieval.find(Selection(None, study, series, instance, version))
    if not instances:
        raise HTTPException(404, "the archive has no such study, series or instance")
    # One row for a series that is looked at, however many frames that takes.
    uid = next(uid for uid in (uids[:2] if what != "objects" else uids)[::-1] if uid is not None)
    archive.audit.record(request.state.principal, "archive_retrieve", uid, {"what": what})
    try:
        return answer(Asked(archive, request, base_url(request, access), instances))
    except NotHeldError as error:
        if len(instances) == 1:
            raise
        # The others are there: this is no "not found", and trying again does not help.
        raise HTTPException(500, f"one of {len(instances)} instances cannot be given: {error}") from error


def _objects(asked: Asked) -> Response:
    """Answer with the objects themselves: in one part each, or as they are where one alone is asked for."""
    ways = [_resolved(asked, instance) for instance in asked.instances]
    etag = etag_of(asked.request, asked.instances)
    if (answer := unchanged(asked.request, etag)) is not None:
        return answer
    if not ways[0].is_multipart:
        return _single(asked, ways[0], etag)
    multipart = Multipart(DICOM)
    parts = [
        ({"Content-Type": part_type(DICOM, way), "Content-Location": asked.url_of(way.instance)}, way) for way in ways
    ]
    length = None
    if not any(way.is_converted for way in ways):
        length = multipart.length((headers, way.instance.size_bytes) for headers, way in parts)

    def pieces() -> Iterator[bytes]:
        whole = ahead(partial(_whole, asked.archive), ways, asked.archive.retrieval.at_once)
        for (headers, way), found in zip(parts, whole, strict=True):
            head = multipart.head(headers)
            if found is not None:
                yield head + found
                continue
            for piece in _pieces_of(asked.archive, way):
                yield head + piece if head else piece
                head = b""
        yield multipart.end()

    return streamed(asked.request, pieces(), multipart.content_type, length=length, etag=etag)


def _single(asked: Asked, way: Way, etag: str | None) -> Response:
    headers = {"content-location": asked.url_of(way.instance)}
    media_type = part_type(DICOM, way)
    if way.is_converted:
        return streamed(asked.request, _pieces_of(asked.archive, way), media_type, etag=etag, headers=headers)

    def read(start: int, length: int) -> bytes:
        return asked.archive.retrieval.read(way.instance, start, length)

    return ranged(asked.request, way.instance.size_bytes, read, media_type, etag=etag, headers=headers)


def _whole(archive: Archive, way: Way) -> bytes | None:
    """Return an object that is not large and is given as it is stored; None of any other."""
    if way.is_converted or way.instance.size_bytes > _WHOLE_BYTES:
        return None
    return archive.retrieval.read(way.instance, 0, way.instance.size_bytes)


def _pieces_of(archive: Archive, way: Way) -> Iterator[bytes]:
    if way.is_converted:
        return archive.conversions.convert(way.instance)
    return archive.retrieval.chunks(way.instance)


def _resolved(asked: Asked, instance: StoredInstance) -> Way:
    """Return how an instance is given to who asks; raises 406 where it cannot be."""
    if not instance.transfer_syntax_uid:
        syntax = open_stored(asked.archive.retrieval, instance).transfer_syntax_uid
    else:
        syntax = instance.transfer_syntax_uid
    found = ways_of(instance, syntax, asked.ranges, asked.archive.conversions.can_convert, len(asked.instances))
    if found is None:
        raise HTTPException(
            406,
            f"instance {instance.sop_instance_uid} is stored in {syntax}, and is given in that"
            + (" or in 1.2.840.10008.1.2.1" if asked.archive.conversions.can_convert(syntax) else "")
            + ': multipart/related; type="application/dicom"; transfer-syntax=*'
            + ("" if len(asked.instances) > 1 else ", or application/dicom; transfer-syntax=*"),
        )
    return found


def _metadata(asked: Asked) -> Response:
    """Answer with the headers in the DICOM JSON model (PS3.18 10.4.1.1.2)."""
    media_type = json_type_of(asked.request)
    etag = etag_of(asked.request, asked.instances)
    if (answer := unchanged(asked.request, etag)) is not None:
        return answer

    def pieces() -> Iterator[bytes]:
        writer = MetadataWriter()
        waiting: list[str] = []
        size = 0
        before = "["
        opening = partial(open_stored, asked.archive.retrieval)
        for instance, opened in zip(
            asked.instances, ahead(opening, asked.instances, asked.archive.retrieval.at_once), strict=True
        ):
            text = writer.write(opened.data_set, opened.transfer_syntax_uid, f"{asked.url_of(instance)}/bulkdata")
            waiting += before, text
            before, size = ",", size + len(text)
            if size >= _JSON_BYTES:
                yield "".join(waiting).encode("utf-8", "replace")
                waiting, size = [], 0
        yield ("".join(waiting) + "]").encode("utf-8", "replace")

    return streamed(asked.request, pieces(), media_type, etag=etag, is_packed=True)


def _frames(asked: Asked) -> Response:
    return frames_answer(asked, _numbers(asked.request.path_params["frames"]))


def _bulk(asked: Asked) -> Response:
    return bulk_answer(asked, asked.request.path_params["path"])


def _rendered(asked: Asked) -> Response:
    return rendered_answer(asked, _one_number(asked))


def _thumbnail(asked: Asked) -> Response:
    return thumbnail_answer(asked, _one_number(asked))


def _one_number(asked: Asked) -> int:
    numbers = _numbers(asked.request.path_params.get("frames", "1"))
    if len(numbers) > 1:
        raise HTTPException(400, "one frame is rendered at a time")
    return numbers[0]


def _numbers(text: str) -> list[int]:
    """Return the frames of a path, the first is 1; raises 400 where one is no number or comes twice."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 and int(part) for part in parts):
        raise HTTPException(400, "frames are numbers from 1 on, with commas between them")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise HTTPException(400, "a frame is asked for twice")
    return numbers
