"""Renderings and thumbnails (PS3.18 10.4.1.1.3): one frame as JPEG or PNG, by the parameters of 8.3.5."""

import math
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from dicomflow.archive.objects import open_stored
from dicomflow.archive.pixels.rendering import MAX_SIDE, MEDIA_TYPES, Rendering
from dicomflow.archive.retrieval import StoredInstance
from dicomflow.archive.web.answers import etag_of, unchanged
from dicomflow.archive.web.asked import Asked

__all__ = ["rendered_answer", "thumbnail_answer"]

_FUNCTIONS: Final = {
    "linear": "LINEAR",
    "linear-exact": "LINEAR_EXACT",
    "linear_exact": "LINEAR_EXACT",
    "sigmoid": "SIGMOID",
}
_THUMBNAIL: Final = (128, 128)
_LOOKED_AT: Final = 20
"""Instances of a study or series that are tried for one that has pixels."""


def rendered_answer(asked: Asked, number: int) -> Response:
    """Answer with a frame of an instance through a window; the first is 1.

    Raises:
        HTTPException: 400, a parameter is none; 406, no type that there is.
        FrameError: there is no such frame, or it cannot be drawn.
    """
    return _drawn(asked, asked.instances[0], number, _asked_for(asked, None))


def thumbnail_answer(asked: Asked, number: int) -> Response:
    """Answer with a small picture, of a series or study from its middle; raises as `rendered_answer`."""
    rendering = _asked_for(asked, _THUMBNAIL)
    return _drawn(asked, _shown(asked), number, rendering)


def _drawn(asked: Asked, instance: StoredInstance, number: int, rendering: Rendering) -> Response:
    etag = etag_of(asked.request, [instance])
    if (answer := unchanged(asked.request, etag)) is not None:
        return answer
    picture = asked.archive.conversions.render(instance, number - 1, rendering)
    location = f"{asked.url_of(instance)}/frames/{number}/rendered"
    headers = {"content-type": rendering.media_type, "content-location": location}
    return Response(picture, headers=headers if etag is None else {**headers, "etag": etag})


def _shown(asked: Asked) -> StoredInstance:
    """Return the instance in the middle, or the nearest behind or before it that has pixels."""
    instances = asked.instances
    if len(instances) == 1:
        return instances[0]
    first = [each for each in instances if each.series_instance_uid == instances[0].series_instance_uid]
    middle = len(first) // 2
    near = [*first[middle:], *reversed(first[:middle]), *(each for each in instances if each not in first[:1])]
    for instance in near[:_LOOKED_AT]:
        if open_stored(asked.archive.retrieval, instance).frames:
            return instance
    raise HTTPException(404, "nothing of it has pixels to show")


def _asked_for(asked: Asked, viewport: tuple[int, int] | None) -> Rendering:
    parameters = asked.request.query_params
    media_type = _media_type(asked)
    quality = _numbers(parameters.get("quality"), "quality", {1}, whole=True)
    if quality and not 1 <= quality[0] <= 100:
        raise HTTPException(400, "quality is 1 to 100")
    region = None
    if view := _numbers(parameters.get("viewport"), "viewport", {2, 6}, whole=True):
        if not (1 <= view[0] <= MAX_SIDE and 1 <= view[1] <= MAX_SIDE):
            raise HTTPException(400, f"a viewport has 1 to {MAX_SIDE:,} pixels a side")
        viewport = int(view[0]), int(view[1])
        if len(view) == 6:
            left, top, width, height = (int(each) for each in view[2:])
            region = left, top, width, height
    center = width_ = None
    function = "LINEAR"
    if window := parameters.get("window"):
        *numbers, name = window.split(",")
        if name.strip().lower() not in _FUNCTIONS:
            raise HTTPException(400, "a window is center, width and linear, linear-exact or sigmoid")
        function = _FUNCTIONS[name.strip().lower()]
        center, width_ = _numbers(",".join(numbers), "window", {2}, whole=False)
        if width_ <= 0 or (function == "LINEAR" and width_ < 1):
            raise HTTPException(400, "a window's width is at least 1")
    return Rendering(media_type, int(quality[0]) if quality else None, viewport, region, center, width_, function)


def _media_type(asked: Asked) -> str:
    for each in asked.ranges:
        if each.is_multipart:
            continue
        for media_type in MEDIA_TYPES:
            if each.takes(media_type):
                return media_type
    raise HTTPException(406, f"renderings are {' or '.join(MEDIA_TYPES)}")


def _numbers(text: str | None, name: str, counts: set[int], *, whole: bool) -> list[float]:
    """Return the numbers of a parameter; [] where it is not given."""
    if not text:
        return []
    try:
        found = [float(part or 0) for part in text.split(",")]
    except ValueError:
        found = []
    if (
        len(found) not in counts
        or not all(math.isfinite(each) and abs(each) < 1e9 for each in found)
        or (whole and any(each != int(each) for each in found))
    ):
        raise HTTPException(400, f"{name} has {' or '.join(map(str, sorted(counts)))} numbers")
    return found
