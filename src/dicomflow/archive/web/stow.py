"""Store transaction, STOW-RS (PS3.18 10.5): objects in the body, part by part, to whoever takes images here.

Each object is durable before it is told as stored. One that is refused has its reason, and ends none of the others.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicomflow.archive.access import Right
from dicomflow.archive.archive import Archive
from dicomflow.archive.storing import ImageStore, StoredImage, Storing
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.media import DICOM, JSON
from dicomflow.archive.web.parts import BodyError, Part, PartReader, boundary_of
from dicomflow.archive.web.urls import base_url
from dicomflow.dicom.uids import is_usable

__all__ = ["routes"]

_RETRY_SECONDS: Final = "30"
_OUT_OF_RESOURCES: Final = 0xA700
_PIECE_BYTES: Final = 1 << 20


def routes(archive: Archive, access: WebAccess, store: ImageStore | None) -> list[Route]:
    """Return the routes of storing; without a store there is none, and POST is not allowed.

    Args:
        archive: whose audit trail says who stored what.
        access: says what the archive is reached by.
        store: takes the images.
    """
    if store is None:
        return []
    endpoint = _endpoint(archive, access, store)
    return [Route("/studies", endpoint, methods=["POST"]), Route("/studies/{study}", endpoint, methods=["POST"])]


def _endpoint(archive: Archive, access: WebAccess, store: ImageStore) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        principal = request.state.principal
        principal.require(Right.STORE)
        study = request.path_params.get("study")
        if study is not None and not is_usable(study):
            raise HTTPException(400, "the study's UID is none (PS3.5 9.1)")
        reader = _reader_of(request)
        peer = request.client.host if request.client else ""
        storing = store.open(principal.name, peer, study)
        body = _Body(storing)
        try:
            broken = await _read(request, reader, body)
        finally:
            await run_in_threadpool(storing.close)
        if not body.images:
            raise HTTPException(400, broken or "the body holds no object")
        stored = [each for each in body.images if not each.status]
        details = {"instances": len(stored), "refused": len(body.images) - len(stored)}
        uids = {each.study_instance_uid for each in stored}
        uid = study or (uids.pop() if len(uids) == 1 else None)
        await run_in_threadpool(archive.audit.record, principal, "archive_store", uid, details)
        return _answer(body.images, base_url(request, access), broken)

    return endpoint


class _Body:
    """Hands the pieces of a body to who takes them; `images` are those that came to an end. Thread: one at a time."""

    def __init__(self, storing: Storing) -> None:
        self.images: list[StoredImage] = []
        self._storing = storing
        self._is_open = False

    def take(self, pieces: list[Part | bytes]) -> None:
        """Take pieces in their order."""
        for piece in pieces:
            if piece is Part.BEGIN:
                self._storing.begin()
                self._is_open = True
            elif piece is Part.END:
                self.images.append(self._storing.end())
                self._is_open = False
            elif self._is_open and isinstance(piece, bytes):
                self._storing.take(piece)


async def _read(request: Request, reader: PartReader | None, body: _Body) -> str:
    """Read the body to its end; return what is wrong with its framing, "" for nothing."""
    pieces: list[Part | bytes] = [] if reader is not None else [Part.BEGIN]
    size = 0
    try:
        async for chunk in request.stream():
            pieces += reader.feed(chunk) if reader is not None else [chunk]
            size += len(chunk)
            if size >= _PIECE_BYTES:
                await run_in_threadpool(body.take, pieces)
                pieces, size = [], 0
        if reader is not None:
            reader.end()
        else:
            pieces.append(Part.END)
    except BodyError as error:
        await run_in_threadpool(body.take, pieces)
        return str(error)
    await run_in_threadpool(body.take, pieces)
    return ""


def _reader_of(request: Request) -> PartReader | None:
    """Return what reads the body; None for a body that is one object.

    Raises:
        HTTPException: 415, it is something else; 400, there is no boundary.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == DICOM:
        return None
    # Some leave the type of the parts out, which then is this one.
    if media_type != "multipart/related" or "dicom+" in content_type.lower():
        raise HTTPException(415, f'objects are stored as multipart/related; type="{DICOM}", or one as {DICOM}')
    boundary = boundary_of(content_type)
    if boundary is None:
        raise HTTPException(400, "the Content-Type names no boundary")
    return PartReader(boundary)


def _answer(images: list[StoredImage], base: str, broken: str) -> Response:
    """Return what became of each object, with the status of PS3.18 Table 10.5.3-1."""
    stored = [each for each in images if not each.status]
    failed = [each for each in images if each.status]
    studies = {each.study_instance_uid for each in stored}
    study_url = f"{base}/studies/{studies.pop()}" if len(studies) == 1 and "" not in studies else None
    document: dict[str, Any] = {"00081190": {"vr": "UR", "Value": [study_url]} if study_url else {"vr": "UR"}}
    if failed:
        items = [{**_references(each), "00081197": {"vr": "US", "Value": [each.status]}} for each in failed]
        document["00081198"] = {"vr": "SQ", "Value": items}
    if stored:
        items = [{**_references(each), **_address(each, base)} for each in stored]
        document["00081199"] = {"vr": "SQ", "Value": items}
    headers = {"content-type": JSON}
    if broken:
        headers["warning"] = f'299 {base} "{broken}: what stood behind is not stored"'
    if stored:
        status = 202 if failed or broken else 200
    elif all(each.status >> 8 == _OUT_OF_RESOURCES >> 8 for each in failed):
        status, headers["retry-after"] = 503, _RETRY_SECONDS
    else:
        status = 409
    return Response(json.dumps(document), status, headers)


def _references(image: StoredImage) -> dict[str, Any]:
    uids = (("00081150", image.sop_class_uid), ("00081155", image.sop_instance_uid))
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids if uid}


def _address(image: StoredImage, base: str) -> dict[str, Any]:
    """Return the address of an image; none where its head did not name study and series."""
    if not image.study_instance_uid or not image.series_instance_uid:
        return {}
    series = f"{base}/studies/{image.study_instance_uid}/series/{image.series_instance_uid}"
    return {"00081190": {"vr": "UR", "Value": [f"{series}/instances/{image.sop_instance_uid}"]}}
