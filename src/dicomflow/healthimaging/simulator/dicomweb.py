"""HealthImaging's DICOMweb: searches, instances, their metadata and frames, below `/datastore/{id}`.

HealthImaging Developer Guide, "Using DICOMweb with AWS HealthImaging". Primary image sets are seen; `imageSetId`
reaches the others. Instances come in Explicit VR Little Endian unless they are asked for as they are kept, in HTJ2K.
"""

import io
import json
import re
import secrets
from collections.abc import Callable
from typing import Any, Final

from pydicom import DataElement, Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian
from sqlalchemy import Connection, Row, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicomflow.dicom.quiet import without_warnings
from dicomflow.healthimaging.simulator.datastores import require_datastore
from dicomflow.healthimaging.simulator.dicomweb_search import search
from dicomflow.healthimaging.simulator.documents import BINARY_VRS, MAX_INLINE_BYTES, dataset_warnings
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.pixels import (
    STORED_AS_THEY_ARE,
    UNCOMPRESSED,
    PixelsError,
    decode_frames,
    encode_frames,
)
from dicomflow.healthimaging.simulator.state import image_set, image_set_instance
from dicomflow.healthimaging.simulator.world import World

__all__ = ["dicomweb_routes"]

_ELE: Final = str(ExplicitVRLittleEndian)
_HTJ2K: Final = "1.2.840.10008.1.2.4.201"
_STUDY, _SERIES, _INSTANCE = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
_SYNTAX: Final = re.compile(r"transfer-syntax\s*=\s*\"?([\d.]+|\*)")

Perform = Callable[[World, Connection, Request], Response]
Begin = Callable[[str], None]


def dicomweb_routes(world: World, begin: Begin, answer: Callable[[ServiceError], Response]) -> list[Route]:
    """Return the routes.

    Args:
        world: the account.
        begin: called with an action's name; raises ServiceError where it is not to be had.
        answer: makes the answer of an error.
    """

    def route(path: str, name: str, perform: Perform) -> Route:
        def act(request: Request) -> Response:
            try:
                begin(name)
                if world.settings.require_auth and "authorization" not in request.headers:
                    raise ServiceError("AccessDeniedException", "Missing Authentication Token")  # noqa: TRY301  # as others
                with world.engine.connect() as connection:
                    require_datastore(connection, request.path_params["datastore"])
                    return perform(world, connection, request)
            except ServiceError as error:
                return answer(error)

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(act, request)

        return Route(f"/datastore/{{datastore}}{path}", endpoint, name=name)

    study, series = "/studies/{study}", "/studies/{study}/series/{series}"
    instance = f"{series}/instances/{{instance}}"
    return [
        route("/studies", "SearchDICOMStudies", _searching("study")),
        route("/series", "SearchDICOMAllSeries", _searching("series")),
        route("/instances", "SearchDICOMAllInstances", _searching("instance")),
        route(f"{study}/series", "SearchDICOMSeries", _searching("series")),
        route(f"{study}/instances", "SearchDICOMStudyInstances", _searching("instance")),
        route(f"{series}/instances", "SearchDICOMInstances", _searching("instance")),
        route(f"{series}/metadata", "GetDICOMSeriesMetadata", _metadata),
        route(f"{instance}/metadata", "GetDICOMInstanceMetadata", _metadata),
        route(f"{instance}/frames/{{frames}}", "GetDICOMInstanceFrames", _frames),
        route(f"{instance}/bulkdata/{{tag}}", "GetDICOMBulkdata", _bulk_data),
        route(instance, "GetDICOMInstance", _instance),
    ]


def _searching(level: str) -> Perform:
    def perform(world: World, connection: Connection, request: Request) -> Response:
        names = {"study": _STUDY, "series": _SERIES}
        parents = {names[name]: uid for name, uid in request.path_params.items() if name in names}
        store = request.path_params["datastore"]
        rows = search(world.settings, connection, store, level, parents, request.query_params.multi_items())
        return Response(json.dumps(rows), media_type="application/dicom+json")

    return perform


def _metadata(world: World, connection: Connection, request: Request) -> Response:
    """Answer headers; what is large and binary by its address."""
    series = str(request.url.replace(query="")).removesuffix("/metadata").partition("/instances/")[0]
    documents = []
    for row in _held(connection, request):
        data_set = _read(world, row)
        with without_warnings():
            documents.append(_header(data_set, f"{series}/instances/{row.sop_instance_uid}/bulkdata"))
    return Response(json.dumps(documents), media_type="application/dicom+json")


def _header(data_set: Dataset, bulk_url: str) -> dict[str, Any]:
    if "PixelData" in data_set:
        del data_set.PixelData
    bulk = [element.tag for element in data_set if _is_bulk(element)]
    for tag in bulk:
        del data_set[tag]
    document: dict[str, Any] = data_set.to_json_dict(suppress_invalid_tags=True)
    return document | {f"{tag:08X}": {"vr": "OB", "BulkDataURI": f"{bulk_url}/{tag:08X}"} for tag in bulk}


def _bulk_data(world: World, connection: Connection, request: Request) -> Response:
    (row,) = _held(connection, request)
    name = request.path_params["tag"]
    element = _read(world, row).get(int(name, 16)) if re.fullmatch(r"[0-9A-F]{8}", name) else None
    if element is None or not _is_bulk(element):
        raise ServiceError("ResourceNotFoundException", "There is no such bulk data")
    return Response(element.value, media_type="application/octet-stream")


def _is_bulk(element: DataElement) -> bool:
    return element.VR in BINARY_VRS and bool(element.value) and len(element.value) > MAX_INLINE_BYTES


def _instance(world: World, connection: Connection, request: Request) -> Response:
    """Answer the object: in Explicit VR Little Endian, or as it is kept where that is asked for."""
    (row,) = _held(connection, request)
    data_set = _read(world, row)
    kept = _kept_in(data_set)
    asked = _asked(request)
    if asked in {"*", kept}:
        _keep(data_set, kept)
    elif asked != _ELE:
        raise ServiceError("NotAcceptableException", f"The instance is stored in {kept}")
    elif _is_warned_of(data_set):
        raise ServiceError("NotAcceptableException", "The instance was imported with warnings")
    else:
        _decompress(data_set)
    encoded = io.BytesIO()
    with without_warnings():
        data_set.save_as(encoded, enforce_file_format=True)
    syntax = data_set.file_meta.TransferSyntaxUID
    return Response(encoded.getvalue(), headers={"content-type": f"application/dicom; transfer-syntax={syntax}"})


def _is_warned_of(data_set: Dataset) -> bool:
    with without_warnings():
        return bool(dataset_warnings(data_set))


def _frames(world: World, connection: Connection, request: Request) -> Response:
    """Answer frames as one part each; what cannot be had decompressed comes as it is kept, whatever was asked."""
    (row,) = _held(connection, request)
    data_set = _read(world, row)
    count = int(data_set.get("NumberOfFrames") or 1)
    numbers = request.path_params["frames"].split(",")
    if len(set(numbers)) != len(numbers) or not all(each.isdecimal() and 1 <= int(each) <= count for each in numbers):
        raise ServiceError("ValidationException", "The list of frames is none")
    kept = _kept_in(data_set)
    try:
        frames, syntax = (
            (_plain_frames(data_set), _ELE)
            if _asked(request) == _ELE and kept not in STORED_AS_THEY_ARE
            else ([each.encoded for each in encode_frames(_file(world, row))], kept)
        )
    except PixelsError as error:
        raise ServiceError("NotAcceptableException", str(error)) from error
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/octet-stream;transfer-syntax={syntax}\r\n\r\n".encode()
    body = b"".join(head + frames[int(each) - 1] + b"\r\n" for each in numbers) + f"--{boundary}--\r\n".encode()
    kind = f'multipart/related; type="application/octet-stream"; boundary={boundary}'
    return Response(body, headers={"content-type": kind})


def _held(connection: Connection, request: Request) -> list[Row[Any]]:
    """Return the instances of the path: of the primary image set, or of the one that is named."""
    params = request.path_params
    held = image_set_instance.c
    statement = (
        select(image_set_instance)
        .join(image_set, image_set.c.image_set_id == held.image_set_id)
        .where(image_set.c.datastore_id == params["datastore"], image_set.c.state != "DELETED")
        .where(image_set.c.study_instance_uid == params["study"], image_set.c.series_instance_uid == params["series"])
        .where(held.to_version.is_(None))
        .order_by(held.sop_instance_uid)
    )
    named = request.query_params.get("imageSetId")
    statement = statement.where(image_set.c.is_primary if named is None else image_set.c.image_set_id == named)
    if "instance" in params:
        statement = statement.where(held.sop_instance_uid == params["instance"])
    found = list(connection.execute(statement))
    if not found:
        raise ServiceError("ResourceNotFoundException", "There is no such instance in a primary image set")
    return found


def _asked(request: Request) -> str:
    found = _SYNTAX.search(request.headers.get("accept", ""))
    return found[1] if found else _ELE


def _kept_in(data_set: Dataset) -> str:
    """Return the transfer syntax that the service keeps an object in."""
    syntax = str(data_set.file_meta.TransferSyntaxUID)
    if "PixelData" not in data_set:
        return _ELE
    return syntax if syntax in STORED_AS_THEY_ARE else _HTJ2K


def _keep(data_set: Dataset, kept: str) -> None:
    """Turn an object into what the service keeps of it."""
    if kept == _HTJ2K:
        try:
            frames = [each.encoded for each in encode_frames(_encoded(data_set))]
        except PixelsError as error:
            raise ServiceError("NotAcceptableException", str(error)) from error
        data_set.PixelData = encapsulate(frames)
        data_set["PixelData"].VR, data_set["PixelData"].is_undefined_length = "OB", True
    data_set.file_meta.TransferSyntaxUID = UID(kept)


def _decompress(data_set: Dataset) -> None:
    syntax = str(data_set.file_meta.TransferSyntaxUID)
    if "PixelData" in data_set and syntax not in UNCOMPRESSED:
        try:
            pixels = b"".join(_plain_frames(data_set))
        except PixelsError as error:
            raise ServiceError("NotAcceptableException", str(error)) from error
        data_set.PixelData = pixels + b"\0" * (len(pixels) % 2)
        data_set["PixelData"].VR = "OB" if data_set.BitsAllocated <= 8 else "OW"
        data_set["PixelData"].is_undefined_length = False
    data_set.file_meta.TransferSyntaxUID = UID(_ELE)


def _plain_frames(data_set: Dataset) -> list[bytes]:
    return [pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() for pixels in decode_frames(data_set)]


def _encoded(data_set: Dataset) -> bytes:
    file = io.BytesIO()
    with without_warnings():
        data_set.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _read(world: World, row: Row[Any]) -> Dataset:
    with without_warnings():
        return dcmread(io.BytesIO(_file(world, row)))


def _file(world: World, row: Row[Any]) -> bytes:
    store = world.stores(row.bucket)
    try:
        found = None if store is None else bytes(store.get(row.key).bytes())
    except FileNotFoundError:
        found = None
    if found is None:
        raise ServiceError("InternalServerException", "The imported object is gone")
    return found
