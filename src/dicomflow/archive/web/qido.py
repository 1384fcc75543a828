"""Search transactions, QIDO-RS (PS3.18 10.6): studies, series and instances, at all their paths.

An answer without rows is 200 with an empty list, as the current edition has it. It is streamed: one page of rows is in
memory. Where the catalog fails on the way the connection ends within the list.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from pydicom.datadict import keyword_for_tag
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dicomflow.archive.access import Principal, Right
from dicomflow.archive.archive import Archive
from dicomflow.archive.errors import BadQueryError
from dicomflow.archive.query import Answers, Keys, Question
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.jsontype import json_type_of
from dicomflow.archive.web.search import Search, names_of, parse_search
from dicomflow.archive.web.urls import base_url
from dicomflow.dicom.attributes import Level
from dicomflow.dicom.json import json_element

__all__ = ["routes"]

_UID: Final = re.compile(r"[0-9.]{1,256}")
_STUDY_UID, _SERIES_UID, _SOP_UID = 0x0020000D, 0x0020000E, 0x00080018
_UNIQUE: Final = {Level.STUDY: _STUDY_UID, Level.SERIES: _SERIES_UID, Level.INSTANCE: _SOP_UID}
_RETRIEVE_URL: Final = "00081190"
_CHARACTER_SET: Final = "00080005"
# PS3.18 Tables 10.6.3-3 to 10.6.3-5: what each row has, empty where it is not known, as far as the index has it.
_OF_STUDY: Final = frozenset(
    {0x00080020, 0x00080030, 0x00080050, 0x00080056, 0x00080061, 0x00080090, 0x00100010, 0x00100020, 0x00100030}
    | {0x00100040, 0x0020000D, 0x00200010, 0x00201206, 0x00201208}
)
_OF_SERIES: Final = frozenset({0x00080060, 0x0008103E, 0x0020000E, 0x00200011, 0x00201209})
_OF_INSTANCE: Final = frozenset(
    {0x00080016, 0x00080018, 0x00080056, 0x00200013, 0x00280008, 0x00280010, 0x00280011, 0x00280100}
)
_ONLY_OF_IMAGES: Final = frozenset({"00280008", "00280010", "00280011", "00280100"})
_REQUIRED: Final = {Level.STUDY: _OF_STUDY, Level.SERIES: _OF_SERIES, Level.INSTANCE: _OF_INSTANCE}
_LEVELS: Final = (Level.STUDY, Level.SERIES, Level.INSTANCE)
_MOST_COUNTED: Final = 1_000
"""How many rows behind the last are counted, for the warning that there are more."""
# The path of each resource, and the level of its rows.
_RESOURCES: Final = (
    ("/studies", Level.STUDY),
    ("/studies/{study}/series", Level.SERIES),
    ("/studies/{study}/series/{series}/instances", Level.INSTANCE),
    ("/studies/{study}/instances", Level.INSTANCE),
    ("/series", Level.SERIES),
    ("/instances", Level.INSTANCE),
)
_GZIP: Final = Middleware(GZipMiddleware, minimum_size=1024, compresslevel=4)


def routes(archive: Archive, access: WebAccess) -> list[Route]:
    """Return the routes of all search resources."""
    return [Route(path, _endpoint(archive, access, level), middleware=[_GZIP]) for path, level in _RESOURCES]


def _endpoint(archive: Archive, access: WebAccess, level: Level) -> Any:
    def endpoint(request: Request) -> Response:
        principal: Principal = request.state.principal
        principal.require(Right.QUERY)
        media_type = json_type_of(request)
        search = parse_search(request.scope["query_string"])
        keys = _keys_of(request, search)
        answers, warning = _ask(archive, level, search, keys, request)
        details = {"level": level.value, "keys": _keywords(keys), "by": "QIDO-RS"}
        archive.audit.record(principal, "archive_query", request.path_params.get("study"), details)
        base = base_url(request, access)
        headers = {} if warning is None else {"warning": f'299 {request.headers.get("host", "-")} "{warning}"'}
        return StreamingResponse(_listed(answers, level, base), media_type=media_type, headers=headers)

    return endpoint


def _keys_of(request: Request, search: Search) -> dict[int, Any]:
    """Return the keys of the query and those that stand in the path."""
    keys = dict(search.keys)
    for name, tag in (("study", _STUDY_UID), ("series", _SERIES_UID)):
        uid = request.path_params.get(name)
        if uid is None:
            continue
        if not _UID.fullmatch(uid):
            raise BadQueryError(f"the {name} of the path is no UID")
        if keys.get(tag):
            raise BadQueryError(f"the {name} is given in the path and in the query")
        keys[tag] = uid
    return keys


def _ask(archive: Archive, level: Level, search: Search, keys: Keys, request: Request) -> tuple[Answers, str | None]:
    """Return the answers, and the warning where there are more of them than are given."""
    question = Question(
        level,
        keys,
        frozenset(_returned(level, request, search) | {tag for tag in keys if tag != 0x00080005}),
        offset=search.offset,
        limit=search.limit,
        is_fuzzy=search.is_fuzzy,
        matches_empty=search.matches_empty,
        matches_all_values=search.matches_all_values,
    )
    answers = archive.query.ask(question)
    if answers.unmatched:
        raise BadQueryError(f"{names_of(answers.unmatched)} cannot be searched by at this level")
    if search.limit is None:
        return answers, None
    more = archive.query.count(replace(question, offset=search.offset + search.limit), _MOST_COUNTED)
    if not more:
        return answers, None
    return answers, f"There are {more} additional results that can be requested"


def _returned(level: Level, request: Request, search: Search) -> set[int]:
    """Return what a row has by the standard and what is asked for beside; with a relational path the parents' too."""
    at = _LEVELS.index(level)
    parents = [Level.STUDY] if "study" in request.path_params else []
    parents += [Level.SERIES] if "series" in request.path_params else []
    wanted = set(_REQUIRED[level]) | search.included
    for above in _LEVELS[:at]:
        if above not in parents:
            wanted |= _REQUIRED[above]
    return wanted


def _listed(answers: Answers, level: Level, base: str) -> Iterator[bytes]:
    """Yield the list of rows as JSON, a page at a time."""
    fields = [(f"{field.tag:08X}", field.vr) for field in answers.fields]
    lead = b"["
    for batch in answers.batches:
        rows = [_row(dict(zip(fields, values, strict=True)), level, base) for values in batch]
        if rows:
            yield lead + ",".join(rows).encode("utf-8", "replace")
            lead = b","
    yield b"]" if lead == b"," else b"[]"


def _row(values: dict[tuple[str, str], Any], level: Level, base: str) -> str:
    elements = {
        tag: json_element(vr, value)
        for (tag, vr), value in values.items()
        if value is not None or tag not in _ONLY_OF_IMAGES
    }
    elements[_RETRIEVE_URL] = {"vr": "UR", "Value": [_url_of(elements, level, base)]}
    text = _dumped(elements)
    if not text.isascii():
        # What is not ASCII is UTF-8 here, whatever the objects are in (PS3.18 F.2).
        elements[_CHARACTER_SET] = {"vr": "CS", "Value": ["ISO_IR 192"]}
        return _dumped(elements)
    return text


def _dumped(elements: dict[str, Any]) -> str:
    return json.dumps(dict(sorted(elements.items())), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _url_of(elements: dict[str, Any], level: Level, base: str) -> str:
    names = ("studies", "series", "instances")[: _LEVELS.index(level) + 1]
    uids = (elements[f"{_UNIQUE[each]:08X}"]["Value"][0] for each in _LEVELS)
    return "/".join(chain([base], *zip(names, uids, strict=False)))


def _keywords(keys: Keys) -> list[str]:
    """Return what was asked by, for the audit trail: the attributes, never their values."""
    return sorted(keyword_for_tag(tag) or f"{tag:08X}" for tag, value in keys.items() if value)
