"""Frames and bulk data (PS3.18 10.4.1.1.4, 10.4.1.1.5): as stored, or as uncompressed samples.

Every part names its type and transfer syntax: a viewer that has to guess draws a flat grey picture.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from dicomflow.archive.objects import StoredObject, find_field, open_stored
from dicomflow.archive.web.answers import etag_of, ranged, streamed, unchanged
from dicomflow.archive.web.asked import Asked
from dicomflow.archive.web.media import OCTETS, MediaRange, frame_media_type
from dicomflow.archive.web.multipart import Multipart
from dicomflow.archive.web.plan import NEVER_GIVEN
from dicomflow.dicom.encoding import UNDEFINED
from dicomflow.dicom.fields import PIXEL_DATA
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN

__all__ = ["bulk_answer", "frames_answer"]

_PATH: Final = re.compile(r"[0-9A-Fa-f]{8}(?:/[1-9][0-9]{0,8}/[0-9A-Fa-f]{8}){0,50}")


def frames_answer(asked: Asked, numbers: Sequence[int]) -> Response:
    """Answer with frames of an instance, in the order of their numbers; the first is 1.

    Raises:
        HTTPException: 404, there is no such frame; 406, they cannot be had so.
        FrameError: the first one cannot be read.
    """
    stored = open_stored(asked.archive.retrieval, asked.instances[0])
    if not stored.frames:
        raise HTTPException(404, "the instance has no pixel data")
    beyond = [number for number in numbers if number > stored.frames]
    if beyond:
        raise HTTPException(404, f"there is no frame {beyond[0]}: the instance has {stored.frames}")
    chosen = _chosen(asked, stored, len(numbers))
    etag = etag_of(asked.request, asked.instances)
    if (answer := unchanged(asked.request, etag)) is not None:
        return answer
    media_type, syntax, is_multipart = chosen
    frames = _frames(asked, stored, [number - 1 for number in numbers], as_stored=syntax == _given(stored))
    part_type = f"{media_type}; transfer-syntax={syntax}"
    locations = [f"{asked.url_of(stored.instance)}/frames/{number}" for number in numbers]
    if not is_multipart:
        return streamed(asked.request, frames, part_type, etag=etag, headers={"content-location": locations[0]})
    multipart = Multipart(media_type)

    def pieces() -> Iterator[bytes]:
        for frame, location in zip(frames, locations, strict=True):
            yield multipart.head({"Content-Type": part_type, "Content-Location": location}) + frame
        yield multipart.end()

    return streamed(asked.request, pieces(), multipart.content_type, etag=etag)


def bulk_answer(asked: Asked, path: str) -> Response:
    """Answer with the value that an address of a metadata answer names; pixels are given as frames.

    Raises:
        HTTPException: 404, there is no such value; 406, it is bytes, and those are not accepted.
    """
    if _PATH.fullmatch(path) is None:
        raise HTTPException(404, "no address of bulk data: a tag, below sequences and the numbers of their items")
    stored = open_stored(asked.archive.retrieval, asked.instances[0])
    parts = path.split("/")
    field = find_field(stored.data_set, [int(part, 10 if at % 2 else 16) for at, part in enumerate(parts)])
    if field is None or field.items is not None:
        raise HTTPException(404, "the instance has no such value")
    if field.tag == PIXEL_DATA and field.length == UNDEFINED and len(parts) == 1:
        return frames_answer(asked, range(1, stored.frames + 1))
    fits = next((each for each in asked.ranges if _takes_octets(each)), None)
    if fits is None:
        raise HTTPException(406, f"bulk data is given as {OCTETS}")
    etag = etag_of(asked.request, asked.instances)
    if (answer := unchanged(asked.request, etag)) is not None:
        return answer
    location = f"{asked.url_of(stored.instance)}/bulkdata/{path.upper()}"
    part_type = f"{OCTETS}; transfer-syntax={EXPLICIT_VR_LITTLE_ENDIAN}"

    def read(start: int, length: int) -> bytes:
        return stored.value(field, start, length)

    if not fits.is_multipart:
        return ranged(asked.request, field.length, read, part_type, etag=etag, headers={"content-location": location})
    multipart = Multipart(OCTETS)
    headers = {"Content-Type": part_type, "Content-Location": location}

    def pieces() -> Iterator[bytes]:
        head = multipart.head(headers)
        for start in range(0, field.length, 1 << 20):
            yield head + read(start, min(1 << 20, field.length - start))
            head = b""
        yield head + multipart.end()

    length = multipart.length([(headers, field.length)])
    return streamed(asked.request, pieces(), multipart.content_type, length=length, etag=etag)


def _given(stored: StoredObject) -> str:
    """Return the syntax that frames have as they are stored; bytes that are not compressed are little endian."""
    return stored.transfer_syntax_uid if stored.is_encapsulated else EXPLICIT_VR_LITTLE_ENDIAN


def _takes_octets(each: MediaRange) -> bool:
    syntax = each.transfer_syntax
    return each.takes(OCTETS) and (syntax in {None, "*", EXPLICIT_VR_LITTLE_ENDIAN} and syntax not in NEVER_GIVEN)


def _chosen(asked: Asked, stored: StoredObject, count: int) -> tuple[str, str, bool]:
    """Return media type, transfer syntax and whether it is multipart, by the first range that fits.

    Raises:
        HTTPException: 406, with what would fit.
    """
    syntax = _given(stored)
    own = frame_media_type(syntax)
    can_convert = syntax == EXPLICIT_VR_LITTLE_ENDIAN or asked.archive.conversions.can_convert(syntax)
    for each in asked.ranges:
        if each.is_multipart is False and count > 1:
            continue
        is_multipart = each.is_multipart is not False
        named = each.transfer_syntax
        # Bytes without a syntax are uncompressed; the codestream's own type needs none named.
        if named in {"*", syntax} and (each.takes(own) or each.takes(OCTETS)):
            return own, syntax, is_multipart
        if named is None and (each.media_type == "*/*" or (own != OCTETS and each.takes(own))):
            return own, syntax, is_multipart
        if named in {None, EXPLICIT_VR_LITTLE_ENDIAN} and each.takes(OCTETS) and can_convert:
            return OCTETS, EXPLICIT_VR_LITTLE_ENDIAN, is_multipart
    also = f", or {OCTETS} uncompressed" if can_convert else ""
    raise HTTPException(406, f"frames of this instance are given as {own}; transfer-syntax={syntax}{also}")


def _frames(asked: Asked, stored: StoredObject, indexes: Sequence[int], *, as_stored: bool) -> Iterator[bytes]:
    if as_stored:
        for index in indexes:
            yield stored.frame(index)
        return
    yield from asked.archive.conversions.samples(stored.instance, indexes)
