"""One de-identified copy: header read, judged, walked and written, pixels copied as bytes, all hashed on the way.

Memory is that of the header and a chunk, however large the object is. An object that may not go, or that cannot be
read, is said to be quarantined and leaves no file; why is said in words, without a value of its.
"""

import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from dicomflow.deidentify.codestreams import is_known_syntax
from dicomflow.deidentify.inflating import inflated
from dicomflow.deidentify.marks import with_marks
from dicomflow.deidentify.patients import patient_of
from dicomflow.deidentify.pixels import Masked, Refused, judge_pixels
from dicomflow.deidentify.profile import Profile
from dicomflow.deidentify.rules import rules_for
from dicomflow.deidentify.streams import PixelStream
from dicomflow.deidentify.walk import Change, Walk
from dicomflow.dicom.encoding import Encoding
from dicomflow.dicom.fields import PIXEL_DATA, Field, first_value, read_fields
from dicomflow.dicom.part10 import decode_file_meta, encode_file_meta
from dicomflow.dicom.rewrite import element_header, write_field
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_usable,
    strip_padding,
)
from dicomflow.errors import DicomflowError, PeerError

__all__ = ["Outcome", "Quarantined", "Written", "deidentify"]

_HEAD_BYTES: Final = 64 << 10
_MOST_VALUE_BYTES: Final = 64 << 20
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_STUDY: Final = 0x0020000D
_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_SERIES: Final = 0x0020000E
_NATIVE: Final = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN})

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """A copy was made; UIDs and digest are the copy's, and nothing in it is the original's but the SOP class."""

    sop_class_uid: str
    study_uid: str
    series_uid: str
    sop_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    sha256: str
    changes: tuple[Change, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """No copy was made; the reason names the rule and no value."""

    reason: str


Outcome = Written | Quarantined


def deidentify(source: Path | bytes, target: Path, profile: Profile, *, is_reported: bool = False) -> Outcome:
    """Write the de-identified copy of a Part 10 object to a path that does not exist; `changes` is kept if asked for.

    It is not synced: whoever promises something about the copy syncs it. Whatever comes of an object, the next one is
    not touched by it.

    Raises:
        OSError: the source cannot be read, or the target not be written; nothing of the target remains.
    """
    try:
        with _opened(source) as file:
            return _copied(file, target, profile, is_reported=is_reported)
    except DicomflowError as error:
        return Quarantined(str(error))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # one object's: its neighbours go on
        _logger.exception("deidentify_failed")
        return Quarantined(f"internal error ({type(error).__name__})")


@contextmanager
def _opened(source: Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    else:
        with source.open("rb", buffering=0) as file:
            yield io.BufferedReader(file, _HEAD_BYTES)


def _copied(file: BinaryIO, target: Path, profile: Profile, *, is_reported: bool) -> Outcome:
    meta = decode_file_meta(file.read(_HEAD_BYTES))
    file.seek(meta.data_set_offset)
    if not is_known_syntax(meta.transfer_syntax_uid):
        # It would stand in the copy, too.
        raise PeerError("frames of this transfer syntax may hold text that is not looked for")
    if meta.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return _copied_data_set(file, meta.transfer_syntax_uid, target, profile, is_reported=is_reported)
    with inflated(file) as plain:
        return _copied_data_set(plain, EXPLICIT_VR_LITTLE_ENDIAN, target, profile, is_reported=is_reported)


def _copied_data_set(file: BinaryIO, syntax: str, target: Path, profile: Profile, *, is_reported: bool) -> Outcome:
    """Copy the data set that begins where the file stands."""
    start = file.tell()
    size_bytes = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    read = read_fields(file, syntax, size_bytes, _MOST_VALUE_BYTES)
    if any(each.stop > size_bytes for each in read.fields):
        raise PeerError("the data set ends within an element")
    verdict = judge_pixels(read.fields, read.encoding, profile.settings)
    if isinstance(verdict, Refused):
        return Quarantined(verdict.reason)
    for tag in (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES):
        _uid(read.fields, tag)
    patient = patient_of(read.fields, profile)
    walk = Walk(
        profile.settings,
        rules_for(profile.settings, _uid(read.fields, _SOP_CLASS)),
        profile.pseudonyms,
        patient.subject,
        read.encoding,
        is_reported=is_reported,
    )
    mask = verdict if isinstance(verdict, Masked) else None
    fields = with_marks(walk.level(read.fields), patient.pseudonym, profile, is_masked=mask is not None)
    if read.find(PIXEL_DATA) is not None and not any(each.tag == PIXEL_DATA for each in fields):
        raise PeerError("Pixel Data (7FE0,0010) has a VR that pixels do not have")
    out_syntax = _syntax_of_copy(syntax, read.encoding)
    pixels = PixelStream(file, start, read, syntax, mask.rule if mask else None)
    size, digest = _write(target, fields, out_syntax, read.encoding, pixels)
    return Written(
        _uid(fields, _SOP_CLASS),
        _uid(fields, _STUDY),
        _uid(fields, _SERIES),
        _uid(fields, _SOP_INSTANCE),
        out_syntax,
        size,
        digest,
        _changes(walk.changes),
    )


def _changes(changes: list[Change] | None) -> tuple[Change, ...]:
    """Return what the walk did, and what stands in the places of Patient's Name and ID after it."""
    if changes is None:
        return ()
    named = ((_PATIENT_NAME,), (_PATIENT_ID,))
    return (*(each for each in changes if each.path not in named), *(Change(path, "pseudonym") for path in named))


def _syntax_of_copy(syntax: str, encoding: Encoding) -> str:
    """Return what the copy is encoded in: Big Endian and deflated data sets become Explicit VR Little Endian."""
    if syntax in _NATIVE:
        return IMPLICIT_VR_LITTLE_ENDIAN if encoding.is_implicit else EXPLICIT_VR_LITTLE_ENDIAN
    return syntax


def _write(
    target: Path, fields: Sequence[Field], syntax: str, encoding: Encoding, pixels: PixelStream
) -> tuple[int, str]:
    """Write a Part 10 file and return its bytes' number and digest; nothing remains of one that cannot be ended."""
    digest = hashlib.sha256()
    size = 0
    with target.open("xb", buffering=0) as file:
        try:
            for chunk in _chunks(fields, syntax, encoding, pixels):
                digest.update(chunk)
                size += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
        except BaseException:
            target.unlink()
            raise
    return size, digest.hexdigest()


def _chunks(fields: Sequence[Field], syntax: str, encoding: Encoding, pixels: PixelStream) -> Iterator[bytes]:
    is_implicit = syntax == IMPLICIT_VR_LITTLE_ENDIAN
    head = [encode_file_meta(_uid(fields, _SOP_CLASS), _uid(fields, _SOP_INSTANCE), syntax)]
    for each in fields:
        if each.value is not None or each.items is not None:
            head.append(write_field(each, encoding, is_implicit=is_implicit))
            continue
        head.append(element_header(each.tag, each.vr, each.length, is_implicit=is_implicit))
        yield b"".join(head)
        head.clear()
        yield from pixels.chunks(each)
    yield b"".join(head)


def _uid(fields: Sequence[Field], tag: int) -> str:
    """Return one of the UIDs that no object is without."""
    uid = strip_padding(first_value(fields, tag) or b"")
    if not is_usable(uid):
        raise PeerError(f"the UID of ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or illegal")
    return uid
