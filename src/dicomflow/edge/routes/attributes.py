"""The attributes that routes look at, from the header of a file; bounded in time and memory, as reading headers is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dicomflow.dicom.header import Header, read_header, read_header_from
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.edge.routes.decision import ATTRIBUTES, Candidate
from dicomflow.errors import PeerError
from dicomflow.regularfiles import open_regular

__all__ = ["read_candidate", "read_values"]

_HEAD_BYTES: Final = 64 << 10


def read_values(path: Path) -> Mapping[str, frozenset[str]] | None:
    """Return the values by key, several of an attribute that has them; None where the header cannot be read.

    A value that is not encoded as its character set says counts as what can be read of it, and never as none.
    """
    try:
        return _values_of(_read(path)[1])
    except (OSError, PeerError):
        return None


def read_candidate(path: Path, calling_ae_title: str | None, called_ae_title: str | None) -> Candidate:
    """Return a file as routes see it; titles that are not given are those of its file meta information.

    Raises:
        PeerError: it is no instance.
        OSError: it cannot be read.
    """
    head, header = _read(path)
    meta = decode_file_meta(head)
    series = header.values.get("SeriesInstanceUID")
    if not isinstance(series, str):
        raise PeerError("its Series Instance UID is missing or cannot be read")
    return Candidate(
        meta.sop_instance_uid,
        meta.sop_class_uid,
        series,
        meta.calling_ae_title if calling_ae_title is None else calling_ae_title,
        meta.called_ae_title if called_ae_title is None else called_ae_title,
        _values_of(header),
    )


def _read(path: Path) -> tuple[bytes, Header]:
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        header = read_header(head, complete=len(head) < _HEAD_BYTES) or read_header_from(file)
    return head, header


def _values_of(header: Header) -> Mapping[str, frozenset[str]]:
    return {key: _texts(header, keyword) for key, keyword in ATTRIBUTES.items()}


def _texts(header: Header, keyword: str) -> frozenset[str]:
    value = header.values.get(keyword)
    if value is None:
        raw = (of_level[keyword] for of_level in header.raw_values.values() if keyword in of_level)
        return frozenset(part.strip() for text in raw for part in text.split("\\"))
    parts = value if isinstance(value, list) else str(value).split("\\")
    return frozenset(str(each).strip() for each in parts if each is not None)
