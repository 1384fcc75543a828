"""Media types: what an Accept header asks for, as clients write it, and which types frames have (PS3.18 8.7).

Quoted and bare values are equal, names have no case, and a transfer syntax may stand inside or outside the quotes of a
`type`. A part of the header that is none is left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["DICOM", "JSON", "OCTETS", "MediaRange", "accepted", "frame_media_type"]

DICOM: Final = "application/dicom"
OCTETS: Final = "application/octet-stream"
JSON: Final = "application/dicom+json"
_MULTIPART: Final = "multipart/related"
_MAX_RANGES: Final = 64
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+*-]+/[\w!#$&^.+*-]+")
_JPEG: Final = "1.2.840.10008.1.2.4."
# PS3.18 Table 8.7.3-5: the media type of frames in each syntax.
_OF_SYNTAX: Final = {
    **dict.fromkeys((_JPEG + "50", _JPEG + "51", _JPEG + "57", _JPEG + "70"), "image/jpeg"),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), "image/jls"),
    **dict.fromkeys((_JPEG + "90", _JPEG + "91"), "image/jp2"),
    **dict.fromkeys((_JPEG + "92", _JPEG + "93"), "image/jpx"),
    **dict.fromkeys((_JPEG + "201", _JPEG + "202", _JPEG + "203"), "image/jphc"),
    **dict.fromkeys((_JPEG + "110", _JPEG + "111", _JPEG + "112"), "image/jxl"),
    **dict.fromkeys((_JPEG + "100", _JPEG + "101"), "video/mpeg"),
    **dict.fromkeys((_JPEG + "102", _JPEG + "103", _JPEG + "104", _JPEG + "105", _JPEG + "106"), "video/mp4"),
    **dict.fromkeys((_JPEG + "107", _JPEG + "108"), "video/H265"),
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One of the types that are accepted, in lower case; that of multipart is the type of its parts.

    `is_multipart` is None where either will do; `transfer_syntax` is `*` for any, None where none is named.
    """

    media_type: str
    is_multipart: bool | None
    transfer_syntax: str | None
    quality: float = 1.0

    def takes(self, media_type: str) -> bool:
        """Tell whether a type is in this range."""
        kind, _, _ = self.media_type.partition("/")
        return self.media_type in {"*/*", media_type.lower()} or self.media_type == f"{kind}/*" == (
            f"{media_type.partition('/')[0].lower()}/*"
        )


def accepted(header: str) -> list[MediaRange]:
    """Return what is accepted, the best first; of equal ones in their order. Nothing readable accepts all."""
    found: list[MediaRange] = []
    is_readable = False
    for media_type, parameters in _ranges(header):
        is_readable = True
        if len(found) >= _MAX_RANGES:
            break
        quality = _quality(parameters.get("q", "1"))
        if quality <= 0:
            continue
        syntax = parameters.get("transfer-syntax")
        if media_type == _MULTIPART:
            # Some put the transfer syntax into the quotes of the type.
            inner = list(_ranges(parameters.get("type", "*/*")))
            kind, more = inner[0] if inner else ("*/*", {})
            found.append(MediaRange(kind, True, syntax or more.get("transfer-syntax"), quality))
        elif media_type == "multipart/*":
            found.append(MediaRange("*/*", True, syntax, quality))
        else:
            found.append(MediaRange(media_type, None if media_type == "*/*" else False, syntax, quality))
    found.sort(key=lambda each: -each.quality)
    return found if is_readable else [MediaRange("*/*", None, None)]


def frame_media_type(transfer_syntax_uid: str) -> str:
    """Return the media type of a frame as it is stored; bytes where the syntax compresses nothing, or has none."""
    return _OF_SYNTAX.get(transfer_syntax_uid, OCTETS)


def _ranges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each media type with its parameters, names in lower case, values without quotes."""
    for entry in _split(header, ","):
        media_type, *rest = (part.strip() for part in _split(entry, ";"))
        if _MEDIA_TYPE.fullmatch(media_type):
            parameters: dict[str, str] = {}
            for text in rest:
                name, is_there, value = text.partition("=")
                if is_there:
                    parameters.setdefault(name.strip().lower(), _unquoted(value.strip()))
            yield media_type.lower(), parameters


def _split(text: str, separator: str) -> Iterator[str]:
    """Split text where a separator stands outside quotes."""
    begin, is_quoted, is_escaped = 0, False, False
    for at, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        elif character == separator and not is_quoted:
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 1.0
    return quality if 0 <= quality <= 1 else 1.0
