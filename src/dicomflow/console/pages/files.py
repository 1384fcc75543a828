"""What is stored as files: the header of an instance, whole, an instance, and a series as a zip. Audited, each time."""

import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dicomflow.archive.catalog.retrieval import CatalogRetrieval
from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.metadata import MetadataWriter
from dicomflow.archive.objects import open_stored
from dicomflow.archive.retrieval import Selection, StoredInstance
from dicomflow.console.access import Role
from dicomflow.console.page import Context, Page, require_role

__all__ = ["download", "header", "zipped"]

_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the same series is the same zip
_MAX_TEXT: Final = 200
_UID: Final = re.compile(r"[0-9.]{1,64}")


def header(context: Context, request: Request) -> Page:
    """Show each element of an instance's data set, as it is stored; long values by their size."""
    retrieval, found = _find(context, Selection(instances=(request.path_params["uid"],)))
    try:
        stored = open_stored(retrieval, found[0])
    except NotHeldError as error:
        raise HTTPException(409, str(error)) from error
    text = MetadataWriter().write(stored.data_set, "", "")
    context.record_view(request, "view_header", found[0].sop_instance_uid)
    document = {
        "instance": {
            "sop_instance_uid": found[0].sop_instance_uid,
            "series_instance_uid": found[0].series_instance_uid,
            "study_instance_uid": found[0].study_instance_uid,
            "transfer_syntax_uid": stored.transfer_syntax_uid,
            "bytes": found[0].size_bytes,
        },
        "elements": list(_rows(json.loads(text), 0)),
    }
    return Page("header.html", document)


def download(context: Context, request: Request) -> Response:
    """Answer an instance's object, byte for byte."""
    require_role(request, Role.ADMIN)
    retrieval, found = _find(context, Selection(instances=(request.path_params["uid"],)))
    context.record(request, "download_instance", found[0].sop_instance_uid)
    headers = _attachment(f"{found[0].sop_instance_uid}.dcm") | {"content-length": str(found[0].size_bytes)}
    return StreamingResponse(retrieval.chunks(found[0]), media_type="application/dicom", headers=headers)


def zipped(context: Context, request: Request) -> Response:
    """Answer a series as a zip, which is made as it is sent: of studies that share its UID the one asked for."""
    require_role(request, Role.ADMIN)
    uid, study = request.path_params["uid"], request.query_params.get("study") or None
    retrieval, found = _find(context, Selection(series=(uid,), studies=(study,) if study else ()))
    context.record(request, "download_series", uid, {"instances": len(found)})
    headers = _attachment(f"{uid}.zip")
    return StreamingResponse(_zip(retrieval, found), media_type="application/zip", headers=headers)


def _find(context: Context, selection: Selection) -> tuple[CatalogRetrieval, list[StoredInstance]]:
    retrieval = CatalogRetrieval(context.engine, context.store)
    found = retrieval.find(selection)
    if not found:
        raise HTTPException(404, "the catalog has no such object")
    return retrieval, found


def _attachment(name: str) -> dict[str, str]:
    shown = name if _UID.match(name) else "dicom"
    return {"content-disposition": f'attachment; filename="{shown}"'}


class _Sink:
    """What a zip is written to that nobody can seek in; `take` gives what was written since."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, content: bytes) -> int:
        self._written.append(bytes(content))
        return len(content)

    def flush(self) -> None:
        """Nothing is kept back."""

    def take(self) -> bytes:
        content = b"".join(self._written)
        self._written.clear()
        return content


def _zip(retrieval: CatalogRetrieval, instances: list[StoredInstance]) -> Iterator[bytes]:
    """Yield a zip of objects, uncompressed; where the store fails on the way it ends without its directory."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]  # the methods that are used
        for number, each in enumerate(instances, 1):
            entry = zipfile.ZipInfo(f"{number:05}-{each.sop_instance_uid}.dcm", _NO_DATE)
            with archive.open(entry, "w", force_zip64=each.size_bytes > zipfile.ZIP64_LIMIT // 2) as file:
                for chunk in retrieval.chunks(each):
                    file.write(chunk)
                    yield sink.take()
    yield sink.take()


def _rows(elements: dict[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    """Yield a row an element, those of a sequence's items below it (PS3.18 F.2)."""
    from pydicom.datadict import keyword_for_tag  # noqa: PLC0415  # a cold start of the console waits for pages alone

    for tag, element in elements.items():
        items = element.get("Value", []) if element["vr"] == "SQ" else None
        yield {
            "depth": depth,
            "tag": f"{tag[:4]},{tag[4:]}",
            "keyword": keyword_for_tag(int(tag, 16)),
            "vr": element["vr"],
            "value": f"{len(items)} items" if items is not None else _text(element),
        }
        for item in items or ():
            yield from _rows(item, depth + 1)


def _text(element: dict[str, Any]) -> str:
    if "BulkDataURI" in element:
        return "not shown: too long, or pixels"
    if "InlineBinary" in element:
        return f"binary: {element['InlineBinary'][:_MAX_TEXT]}"
    values = ["=".join(each.values()) if isinstance(each, dict) else str(each) for each in element.get("Value", [])]
    text = "\\".join(values)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
