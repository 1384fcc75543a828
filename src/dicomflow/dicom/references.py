"""Referenced instances of one transaction: what storage commitment asks and answers (PS3.4 Tables J.3-1 and J.3-3).

Read by the bounded walk and written by hand, since a request names a study's tens of thousands of instances and a
library's object for each element takes seconds of them. No I/O.
"""

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from dicomflow.dicom.encoding import ITEM
from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, is_usable, strip_padding
from dicomflow.dicom.walk import DataSet, Element
from dicomflow.errors import PeerError

__all__ = [
    "MAX_REFERENCES",
    "Reference",
    "TooManyReferencesError",
    "encode_references",
    "read_references",
    "read_report",
]

MAX_REFERENCES: Final = 100_000
"""Of one request: several times what the largest studies hold."""
# Elements and items to one reference: an item of undefined length, two UIDs and what a device writes beside them, each
# looked at twice; and those that stand beside the sequence.
_ELEMENTS: Final = 12
_OTHER_ELEMENTS: Final = 1_000
_US_BYTES: Final = 2

_TRANSACTION_UID: Final = 0x00081195
_FAILED_SOP_SEQUENCE: Final = 0x00081198
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_FAILURE_REASON: Final = 0x00081197
_REFERENCED_SOP_CLASS_UID: Final = 0x00081150
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155


class Reference(NamedTuple):
    """A referenced SOP instance."""

    sop_class_uid: str
    sop_instance_uid: str


class TooManyReferencesError(PeerError):
    """More instances are named than are taken at once."""


def read_references(
    encoded: bytes, transfer_syntax_uid: str, *, most: int = MAX_REFERENCES
) -> tuple[str, tuple[Reference, ...]]:
    """Return the Transaction UID and the instances of Referenced SOP Sequence, each once and in their order.

    Raises:
        PeerError: the data set cannot be read, names no instance, or a UID is missing or illegal.
        TooManyReferencesError: it has more than `most` items.
    """
    data_set = DataSet(io.BytesIO(encoded), transfer_syntax_uid, _ELEMENTS * most + _OTHER_ELEMENTS)
    transaction_uid, references = "", dict[Reference, None]()
    for element in data_set.elements():
        if element.tag == _TRANSACTION_UID:
            transaction_uid = _uid(data_set, element)
        elif element.tag == _REFERENCED_SOP_SEQUENCE:
            # What is named twice, as it was sent twice, is reported once (PS3.4 J.3.3.1.2).
            references.update((reference, None) for reference, _ in _named(data_set, element, most))
    if not references:
        raise PeerError("no instance is named")
    if not transaction_uid:
        raise PeerError("the Transaction UID is missing")
    return transaction_uid, tuple(references)


def read_report(
    encoded: bytes, transfer_syntax_uid: str, *, most: int = MAX_REFERENCES
) -> tuple[str, tuple[Reference, ...], tuple[tuple[Reference, int | None], ...]]:
    """Return the Transaction UID, the instances that are committed to, and those that are not with their reasons.

    A reason is None where the report has none; either sequence may be missing.

    Raises:
        PeerError: the data set cannot be read, an item names no instance, or a UID is missing or illegal.
        TooManyReferencesError: a sequence has more than `most` items.
    """
    data_set = DataSet(io.BytesIO(encoded), transfer_syntax_uid, 2 * _ELEMENTS * most + _OTHER_ELEMENTS)
    transaction_uid = ""
    found: dict[int, tuple[tuple[Reference, int | None], ...]] = {}
    for element in data_set.elements():
        if element.tag == _TRANSACTION_UID:
            transaction_uid = _uid(data_set, element)
        elif element.tag in {_REFERENCED_SOP_SEQUENCE, _FAILED_SOP_SEQUENCE}:
            found[element.tag] = tuple(_named(data_set, element, most))
    if not transaction_uid:
        raise PeerError("the Transaction UID is missing")
    committed = tuple(reference for reference, _ in found.get(_REFERENCED_SOP_SEQUENCE, ()))
    return transaction_uid, committed, found.get(_FAILED_SOP_SEQUENCE, ())


def encode_references(
    transaction_uid: str,
    referenced: Sequence[Reference],
    failed: Sequence[tuple[Reference, int]],
    transfer_syntax_uid: str,
) -> bytes:
    """Encode a Transaction UID, and the sequences that are not empty; `failed` gives each Failure Reason."""
    element = _implicit if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN else _explicit

    def _item(reference: Reference, reason: bytes = b"") -> bytes:
        value = (
            element(_REFERENCED_SOP_CLASS_UID, b"UI", _padded(reference.sop_class_uid))
            + element(_REFERENCED_SOP_INSTANCE_UID, b"UI", _padded(reference.sop_instance_uid))
            + reason
        )
        return _implicit(ITEM, b"", value)

    reasons = {reason for _, reason in failed}
    encoded = {reason: element(_FAILURE_REASON, b"US", struct.pack("<H", reason)) for reason in reasons}
    parts = [element(_TRANSACTION_UID, b"UI", _padded(transaction_uid))]
    sequences: tuple[tuple[int, Iterable[bytes]], ...] = (
        (_FAILED_SOP_SEQUENCE, (_item(reference, encoded[reason]) for reference, reason in failed)),
        (_REFERENCED_SOP_SEQUENCE, map(_item, referenced)),
    )
    for tag, items in sequences:
        value = b"".join(items)
        if value:
            parts.append(element(tag, b"SQ", value))
    return b"".join(parts)


def _named(data_set: DataSet, sequence: Element, most: int) -> Iterator[tuple[Reference, int | None]]:
    """Yield the instance that each item of a sequence names, and its Failure Reason."""
    for count, item in enumerate(data_set.items(sequence)):
        if count == most:
            raise TooManyReferencesError(f"more than {most:,} instances are named")
        found = {each.tag: each for each in item}
        if not found.keys() >= {_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID}:
            raise PeerError(f"item {count + 1:,} names no instance")
        named = (found[_REFERENCED_SOP_CLASS_UID], found[_REFERENCED_SOP_INSTANCE_UID])
        reason = found.get(_FAILURE_REASON)
        value = data_set.read(reason.value, reason.length) if reason is not None else b""
        yield (
            Reference(*(_uid(data_set, each) for each in named)),
            int.from_bytes(value, "little") if len(value) == _US_BYTES else None,
        )


def _uid(data_set: DataSet, element: Element) -> str:
    uid = strip_padding(data_set.read(element.value, element.length))
    if not is_usable(uid):
        raise PeerError(f"the UID of ({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}) is missing or illegal")
    return uid


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def _implicit(tag: int, _: bytes, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def _explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    form, length = ("<HH2sHI", (0, len(value))) if vr == b"SQ" else ("<HH2sH", (len(value),))
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr, *length) + value
