"""HealthImaging's searches by DICOMweb: which rows there are of the primary image sets, and what of each is shown.

HealthImaging Developer Guide, "Searching DICOM data in HealthImaging". Keys of no level are refused; what is to be
included and is not known is silently left out, as the guide says.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from sqlalchemy import Connection, Row, select

from dicomflow.dicom.json import json_element
from dicomflow.dicom.matching import Match, MatchError, accepts_any, match_of
from dicomflow.dicom.moments import parse_date, parse_time
from dicomflow.dicom.names import fold_words
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.imagesets import instances_of
from dicomflow.healthimaging.simulator.settings import SimulatorSettings
from dicomflow.healthimaging.simulator.state import image_set, image_set_version

__all__ = ["search"]

LEVELS: Final = ("study", "series", "instance")
MAX_LIMIT: Final = 1_000
MAX_OFFSET: Final = 1_000_000
MAX_FIELDS: Final = 50
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "study": (
        *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName"),
        *("StudyDescription", "PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime"),
        *("StudyInstanceUID", "StudyID"),
    ),
    "series": ("Modality", "SeriesInstanceUID"),
    "instance": ("SOPClassUID", "SOPInstanceUID"),
}
# Of all series of a data store some more can be asked for.
_OF_ALL_SERIES: Final = ("SeriesNumber", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime")
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "study": (*_KEYS["study"], "PatientSex"),
    "series": (*_KEYS["series"], *_OF_ALL_SERIES, "SeriesDescription", "StudyInstanceUID"),
    "instance": (
        *_KEYS["instance"],
        *("InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
        *("SeriesInstanceUID", "StudyInstanceUID"),
    ),
}
_FUZZY: Final = frozenset({"PatientName", "ReferringPhysicianName"})
_NUMBER: Final = re.compile(r"\d{1,9}")
_NO_KEYS: Final = frozenset({"limit", "offset", "includefield", "fuzzymatching"})

Document = Mapping[str, Any]


def search(
    settings: SimulatorSettings,
    connection: Connection,
    datastore_id: str,
    level: str,
    parents: Mapping[str, str],
    query: Iterable[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Return the rows of one page.

    Args:
        settings: has a limit that older texts of the guide tell of.
        connection: to the state.
        datastore_id: of the data store.
        level: "study", "series" or "instance".
        parents: the UIDs of the path by their keywords.
        query: the parameters.

    Raises:
        ServiceError: a parameter is none, or has a value that it cannot have.
    """
    pairs = list(query)
    limit = _number(pairs, "limit", MAX_LIMIT, most=MAX_LIMIT, least=1)
    offset = _number(pairs, "offset", 0, most=MAX_OFFSET)
    matches = _matches(level, parents, pairs)
    found = [row for row in _documents(connection, datastore_id, level, parents) if _is_meant(row, matches)]
    found = found[: settings.search_max_records]
    shown = dict.fromkeys((*_SHOWN[level], *parents, *_included(pairs)))
    return [_row(each, shown) for each in found[offset : offset + limit]]


def _matches(level: str, parents: Mapping[str, str], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    is_fuzzy = ("fuzzymatching", "true") in pairs
    above = LEVELS[: LEVELS.index(level) + 1] if not parents else (level,)
    allowed = {keyword for each in above for keyword in _KEYS[each]} | {"InstanceNumber"}
    allowed |= set(_OF_ALL_SERIES) if not parents else set()
    found: dict[str, Any] = {keyword: frozenset({uid}) for keyword, uid in parents.items()}
    for name, value in pairs:
        if name.lower() in _NO_KEYS:
            continue
        keyword = keyword_for_tag(int(name, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name
        if keyword not in allowed:
            raise ServiceError("ValidationException", f"{keyword or name} is not searchable at this level")
        vr = _vr_of(keyword)
        if is_fuzzy and keyword in _FUZZY:
            found[keyword] = fold_words(value)
        else:
            try:
                found[keyword] = match_of(vr, value.replace(",", "\\") if vr == "UI" else value)
            except MatchError as error:
                raise ServiceError("ValidationException", f"{keyword}: {error}") from error
    return {keyword: match for keyword, match in found.items() if match is not None}


def _is_meant(row: Document, matches: Mapping[str, Any]) -> bool:
    return all(_accepts(match, _vr_of(keyword), row.get(keyword)) for keyword, match in matches.items())


def _accepts(match: "Match | frozenset[str] | tuple[str, ...]", vr: str, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    if isinstance(match, frozenset):
        return value in match
    if isinstance(match, tuple):
        words = [word for each in values for word in fold_words(str(each or ""))]
        return all(any(word.startswith(asked) for word in words) for asked in match)
    parse = {"DA": parse_date, "TM": parse_time}.get(vr)
    if parse is not None:
        spans = [parse(str(each)) if each is not None else None for each in values]
        values = [None if span is None else span.first for span in spans]
    return accepts_any(match, values)


def _documents(connection: Connection, datastore_id: str, level: str, parents: Mapping[str, str]) -> Iterable[Document]:
    """Yield what is stored of each row: studies the newest first, series and instances by their numbers."""
    statement = (
        select(image_set, image_set_version.c.patient, image_set_version.c.study, image_set_version.c.series)
        .join(
            image_set_version,
            (image_set_version.c.image_set_id == image_set.c.image_set_id)
            & (image_set_version.c.version == image_set.c.version),
        )
        .where(image_set.c.datastore_id == datastore_id, image_set.c.is_primary, image_set.c.state != "DELETED")
        .order_by(image_set.c.updated_at.desc(), image_set.c.study_instance_uid, image_set.c.series_instance_uid)
    )
    for keyword, column in (("StudyInstanceUID", "study_instance_uid"), ("SeriesInstanceUID", "series_instance_uid")):
        if keyword in parents:
            statement = statement.where(image_set.c[column] == parents[keyword])
    rows = connection.execute(statement).all()
    if level == "study":
        yield from _studies(rows)
        return
    series = sorted(rows, key=lambda row: (row.study_instance_uid, _order(row.series.get("SeriesNumber"))))
    for row in series:
        above = {**row.patient, **row.study, **row.series}
        if level == "series":
            yield above
            continue
        documents = [each.document["DICOM"] for each in instances_of(connection, row.image_set_id, row.version)]
        for document in sorted(documents, key=lambda each: _order(each.get("InstanceNumber"))):
            yield {**above, **document}


def _studies(rows: Iterable[Row[Any]]) -> Iterable[Document]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        each = found.setdefault(row.study_instance_uid, {**row.patient, **row.study, "ModalitiesInStudy": []})
        modality = row.series.get("Modality")
        if modality and modality not in each["ModalitiesInStudy"]:
            each["ModalitiesInStudy"].append(modality)
    return found.values()


def _row(document: Document, shown: Iterable[str]) -> dict[str, Any]:
    elements = {}
    for keyword in document if "all" in shown else shown:
        tag = tag_for_keyword(keyword)
        if tag is not None and keyword in document:
            elements[f"{tag:08X}"] = _element(keyword, document[keyword])
    return dict(sorted(elements.items()))


def _element(keyword: str, value: Any) -> dict[str, Any]:
    vr = _vr_of(keyword)
    if vr == "SQ":
        items = [_row(item, item) for item in value or []]
        return {"vr": "SQ", **({"Value": items} if items else {})}
    return json_element(vr, value)


def _included(pairs: list[tuple[str, str]]) -> list[str]:
    """Return what is to be included; what is unknown, and what is beyond the fiftieth, is left out or refused."""
    names = [name.strip() for key, value in pairs if key == "includefield" for name in value.split(",")]
    if len(set(names)) > MAX_FIELDS:
        raise ServiceError("ValidationException", f"more than {MAX_FIELDS} fields are to be included")
    return [keyword_for_tag(int(name, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name for name in names]


def _number(pairs: list[tuple[str, str]], name: str, default: int, *, most: int, least: int = 0) -> int:
    text = dict(pairs).get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
        raise ServiceError("ValidationException", f"{name} is no number from {least} to {most:,}")
    return int(text)


def _vr_of(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    return "LO" if tag is None else dictionary_VR(tag).partition(" ")[0]


def _order(number: Any) -> tuple[bool, float]:
    return not isinstance(number, int | float), float(number) if isinstance(number, int | float) else 0.0
