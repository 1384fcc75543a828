"""A series in the viewer, an instance with its custody, and the pictures of frames. Patient data, and so audited."""

import math
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Row
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.pixels.pictures import Window
from dicomflow.catalog.custody import (
    find_instance,
    find_one_series,
    instances_of_series,
    objects_of_instance,
    outcomes_of_instance,
    series_of_study,
    studies_of_series,
)
from dicomflow.console.page import Context, Page, plain, positive

__all__ = ["frame", "instance", "series", "thumbnail"]

MAX_SHOWN: Final = 5000
_ABOUT_STUDY: Final = (
    "patient_name",
    "patient_id",
    "patient_sex",
    "patient_birth_date",
    "study_instance_uid",
    "study_date",
    "study_description",
    "accession_number",
)
_PLACEHOLDER: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128" width="128" height="128">'
    '<rect width="128" height="128" fill="#1b2430"/><path d="M36 84l20-26 14 16 10-12 14 22z" fill="#3a4a5e"/>'
    '<circle cx="84" cy="44" r="8" fill="#3a4a5e"/><path d="M28 28l72 72" stroke="#7a8aa0" stroke-width="4"/></svg>'
)
_IMAGE_HEADERS: Final = {"cache-control": "no-store"}


def series(context: Context, request: Request) -> Page:
    """Show a series in the viewer, with all its instances: of studies that share its UID the one asked for."""
    uid = request.path_params["uid"]
    study = request.query_params.get("study") or None
    with context.reading() as connection:
        found = find_one_series(connection, uid, study)
        if found is None:
            raise HTTPException(404, "the catalog has no such series")
        rows = instances_of_series(connection, found.series_key, limit=MAX_SHOWN + 1)
        others = series_of_study(connection, found.study_key)
        also_in = [each for each in studies_of_series(connection, uid) if each != found.study_instance_uid]
    context.record_view(request, "view_series", uid)
    shown = rows[:MAX_SHOWN]
    document = {
        "series": found,
        "is_cut": len(rows) > MAX_SHOWN,
        "others": others,
        "also_in": also_in,
    }
    written: dict[str, Any] = plain(document)
    # Texts and numbers as they stand: a series may have thousands.
    written["instances"] = [
        {**row._mapping, "frames": _frames_of(row), "has_pixels": row.rows is not None}  # noqa: SLF001  # as in `plain`
        for row in shown
    ]
    return Page("series.html", written)


def instance(context: Context, request: Request) -> Page:
    """Show an instance: its attributes, its objects and what became of them."""
    uid = request.path_params["uid"]
    with context.reading() as connection:
        found = find_instance(connection, uid)
        if found is None:
            raise HTTPException(404, "the catalog has no such instance")
        objects = objects_of_instance(connection, uid)
        outcomes = outcomes_of_instance(connection, uid)
    context.record_view(request, "view_instance", uid)
    document = {
        "instance": found,
        "objects": objects,
        "outcomes": outcomes,
        "has_pixels": found.rows is not None,
    }
    return Page("instance.html", plain(document))


def frame(context: Context, request: Request) -> Response:
    """Answer one frame as PNG, through the window asked for; 422 with the reason when it cannot be shown."""
    row = _instance_of(context, request)
    number = positive(request.path_params["number"], "frame")
    try:
        picture = context.pictures.frame(row.object_key, number, _window(request))
    except FrameError as error:
        return JSONResponse({"error": f"cannot be shown: {error}"}, status_code=422)
    headers = _IMAGE_HEADERS | {"x-frames": str(picture.frames)}
    if picture.center is not None:
        headers |= {"x-center": str(picture.center), "x-width": str(picture.width)}
    return Response(picture.png, media_type="image/png", headers=headers)


def thumbnail(context: Context, request: Request) -> Response:
    """Answer a small picture of the middle frame; a drawing in its place when there is none."""
    row = _instance_of(context, request)
    try:
        png = context.pictures.thumbnail(row.object_key, _frames_of(row) // 2)
    except FrameError as error:
        headers = _IMAGE_HEADERS | {"x-reason": quote(str(error), safe=" :,.'()")}
        return Response(_PLACEHOLDER, media_type="image/svg+xml", headers=headers)
    return Response(png, media_type="image/png", headers=_IMAGE_HEADERS)


def _instance_of(context: Context, request: Request) -> Row[Any]:
    with context.reading() as connection:
        found = find_instance(connection, request.path_params["uid"])
    if found is None:
        raise HTTPException(404, "the catalog has no such instance")
    context.record_view(request, "view_series", found.series_instance_uid)
    return found


def _frames_of(row: Row[Any]) -> int:
    return max(1, row.number_of_frames or 1)


def _window(request: Request) -> Window:
    values: dict[str, float | None] = {}
    for name in ("center", "width"):
        text = request.query_params.get(name)
        try:
            values[name] = None if not text else float(text)
        except ValueError as error:
            raise HTTPException(400, f"{name} is no number") from error
        if values[name] is not None and not math.isfinite(values[name] or 0.0):
            raise HTTPException(400, f"{name} is no number")
    return Window(values["center"], values["width"], request.query_params.get("invert") == "1")
