"""Items and sub-items of the association PDUs: fields as values, bytes as laid out (PS3.8 9.3.2, PS3.7 D.3.3).

All fields are big endian. What is flawed within an item costs that item and nothing else: a presentation context loses
what negotiation then misses, a sub-item of user information is left out. Items of unknown type are the caller's to skip
(PS3.8 9.3.1). Knows no PDUs.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeVar

from dicomflow.dicom.uids import strip_padding
from dicomflow.errors import PeerError

__all__ = [
    "AnsweredContext",
    "ItemType",
    "PduError",
    "ProposedContext",
    "Role",
    "UserIdentity",
    "decode_ae_title",
    "decode_answered_context",
    "decode_common_extended",
    "decode_each",
    "decode_extended",
    "decode_max_length",
    "decode_proposed_context",
    "decode_role",
    "decode_user_identity",
    "decode_user_identity_response",
    "decode_user_items",
    "decode_window",
    "encode_answered_context",
    "encode_common_extended",
    "encode_extended",
    "encode_item",
    "encode_max_length",
    "encode_proposed_context",
    "encode_role",
    "encode_user_identity",
    "encode_user_identity_response",
    "encode_window",
    "first_text",
    "iterate_items",
]

# Type, reserved, length of the value.
_ITEM: Final = struct.Struct(">BxH")
_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_WINDOW: Final = struct.Struct(">HH")
_Value = TypeVar("_Value")
_CONTEXT_HEAD_BYTES: Final = 4  # ID, reserved, result or reserved, reserved
# What is sent to a peer that announces no length that can be read: the least that toolkits use.
_USUAL_MAX_LENGTH: Final = 16_384


class PduError(PeerError):
    """Bytes that do not follow PS3.8 9.3; of a PDU's own fields and items they abort the association."""


class ItemType(IntEnum):
    """Types of items and sub-items that are read or written (PS3.8 9.3.2, PS3.7 D.3.3); others are skipped."""

    APPLICATION_CONTEXT = 0x10
    PROPOSED_CONTEXT = 0x20
    ANSWERED_CONTEXT = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAX_LENGTH = 0x51
    IMPLEMENTATION_CLASS_UID = 0x52
    ASYNCHRONOUS_WINDOW = 0x53
    ROLE = 0x54
    IMPLEMENTATION_VERSION_NAME = 0x55
    EXTENDED = 0x56
    COMMON_EXTENDED = 0x57
    USER_IDENTITY = 0x58
    USER_IDENTITY_RESPONSE = 0x59


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context of a request (PS3.8 9.3.2.2), transfer syntaxes in the requestor's order."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnsweredContext:
    """A presentation context of an acceptance (PS3.8 9.3.3.2); the syntax is significant for result 0 only."""

    context_id: int
    result: int
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Role:
    """SCP/SCU role selection for one SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """User identity of a request (PS3.7 D.3.3.7); `repr` hides the fields, which may be a password."""

    identity_type: int
    response_requested: bool
    primary: bytes = field(repr=False)
    secondary: bytes = field(repr=False)


def iterate_items(container: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of the items from `offset` to the container's end, or to NULs that no item fits into.

    Raises:
        PduError: an item's header or value runs past the container.
    """
    end = len(container)
    while offset < end:
        if offset + _ITEM.size > end:
            if not any(container[offset:]):
                return
            raise PduError(f"{end - offset} bytes are left where an item header needs {_ITEM.size}")
        kind, length = _ITEM.unpack_from(container, offset)
        offset += _ITEM.size
        if offset + length > end:
            raise PduError(f"item {kind:02X}H of {length} bytes runs past its container by {offset + length - end}")
        yield kind, container[offset : offset + length]
        offset += length


def decode_user_items(value: bytes) -> dict[int, list[bytes]]:
    """Decode user information into the values of its sub-items, by type; what runs past its end is left out."""
    found: dict[int, list[bytes]] = {}
    with contextlib.suppress(PduError):
        for kind, sub_item in iterate_items(value, 0):
            found.setdefault(kind, []).append(sub_item)
    return found


def decode_proposed_context(value: bytes) -> ProposedContext | None:
    """Decode a presentation context of a request; None where it has no ID to answer to.

    One with a sub-item that runs past its end, or without one abstract syntax, has "" for it, which nobody supports.
    """
    if not value:
        return None
    abstract_syntaxes: list[str] = []
    transfer_syntaxes: list[str] = []
    try:
        for kind, sub_item in iterate_items(value, _CONTEXT_HEAD_BYTES):
            if kind == ItemType.ABSTRACT_SYNTAX:
                abstract_syntaxes.append(strip_padding(sub_item))
            elif kind == ItemType.TRANSFER_SYNTAX:
                transfer_syntaxes.append(strip_padding(sub_item))
    except PduError:
        abstract_syntaxes.clear()
    abstract_syntax = abstract_syntaxes[0] if len(abstract_syntaxes) == 1 else ""
    return ProposedContext(value[0], abstract_syntax, tuple(transfer_syntaxes))


def decode_answered_context(value: bytes) -> AnsweredContext | None:
    """Decode a presentation context of an acceptance; None where it is too short for a result.

    A refused one may lack its transfer syntax, which is "" then.
    """
    if len(value) < _CONTEXT_HEAD_BYTES:
        return None
    syntaxes: list[str] = []
    with contextlib.suppress(PduError):
        for kind, sub_item in iterate_items(value, _CONTEXT_HEAD_BYTES):
            if kind == ItemType.TRANSFER_SYNTAX:
                syntaxes.append(strip_padding(sub_item))
    return AnsweredContext(value[0], value[2], syntaxes[0] if syntaxes else "")


def decode_each(values: list[bytes], decode: Callable[[bytes], _Value]) -> tuple[_Value, ...]:
    """Decode the values of one type of sub-item; those that raise `PduError` are left out."""
    decoded: list[_Value] = []
    for value in values:
        with contextlib.suppress(PduError):
            decoded.append(decode(value))
    return tuple(decoded)


def decode_max_length(user_items: dict[int, list[bytes]]) -> int:
    """Decode the maximum length, which both sides must announce once (PS3.8 D.1).

    We deviate: where no value has four bytes the usual 16,384 are taken, since less does no harm.
    """
    whole = [value for value in user_items.get(ItemType.MAX_LENGTH, []) if len(value) == _LONG.size]
    return int(_LONG.unpack(whole[0])[0]) if whole else _USUAL_MAX_LENGTH


def first_text(user_items: dict[int, list[bytes]], kind: ItemType) -> str:
    """Return the first sub-item of a type as text without padding; "" for none."""
    return strip_padding(user_items[kind][0]) if kind in user_items else ""


def decode_window(user_items: dict[int, list[bytes]]) -> tuple[int, int] | None:
    """Decode the operations invoked and performed at once (PS3.7 D.3.3.3); None without an item of four bytes."""
    whole = [value for value in user_items.get(ItemType.ASYNCHRONOUS_WINDOW, []) if len(value) == _WINDOW.size]
    if not whole:
        return None
    invoked, performed = _WINDOW.unpack(whole[0])
    return invoked, performed


def decode_role(value: bytes) -> Role:
    """Decode a role selection: the SOP class, then the SCU role, then the SCP role (PS3.7 D.3.3.4)."""
    uid, rest = _take_counted(value)
    if len(rest) != 2:
        raise PduError(f"role selection item with {len(rest)} bytes after its UID instead of 2")
    return Role(strip_padding(uid), scu=rest[0] == 1, scp=rest[1] == 1)


def decode_extended(value: bytes) -> tuple[str, bytes]:
    """Decode a SOP class and its service class's application information (PS3.7 D.3.3.5)."""
    uid, information = _take_counted(value)
    return strip_padding(uid), information


def decode_common_extended(value: bytes) -> tuple[str, str, tuple[str, ...]]:
    """Decode a SOP class, its service class and its related general SOP classes (PS3.7 D.3.3.6)."""
    uid, rest = _take_counted(value)
    service, rest = _take_counted(rest)
    related: list[str] = []
    if rest:
        listed, _ = _take_counted(rest)
        while listed:
            general, listed = _take_counted(listed)
            related.append(strip_padding(general))
    return strip_padding(uid), strip_padding(service), tuple(related)


def decode_user_identity(value: bytes) -> UserIdentity:
    """Decode a user identity; the secondary field may be absent (PS3.7 D.3.3.7.1)."""
    if len(value) < 2:
        raise PduError(f"user identity item of {len(value)} bytes")
    primary, rest = _take_counted(value[2:])
    secondary, _ = _take_counted(rest) if rest else (b"", b"")
    return UserIdentity(value[0], value[1] == 1, primary, secondary)


def decode_user_identity_response(value: bytes) -> bytes:
    """Decode the server response of an acceptance (PS3.7 D.3.3.7.2)."""
    response, _ = _take_counted(value)
    return response


def decode_ae_title(raw: bytes) -> str:
    """Return a stripped AE title; "?" stands for each byte that PS3.5 6.2 does not allow.

    We deviate: such a title names its device all the same, and DCMTK takes it, so it is no reason to send images away.
    """
    title = raw.replace(b"\0", b" ").strip(b" ")
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else "?" for byte in title)


def encode_item(kind: ItemType, value: bytes) -> bytes:
    """Encode an item with its header."""
    return _ITEM.pack(kind, len(value)) + value


def encode_proposed_context(context: ProposedContext) -> bytes:
    """Encode a presentation context of a request."""
    syntaxes = [_uid_item(ItemType.TRANSFER_SYNTAX, uid) for uid in context.transfer_syntaxes]
    abstract = _uid_item(ItemType.ABSTRACT_SYNTAX, context.abstract_syntax)
    return encode_item(ItemType.PROPOSED_CONTEXT, bytes((context.context_id, 0, 0, 0)) + abstract + b"".join(syntaxes))


def encode_answered_context(context: AnsweredContext) -> bytes:
    """Encode a presentation context of an acceptance."""
    syntax = _uid_item(ItemType.TRANSFER_SYNTAX, context.transfer_syntax)
    return encode_item(ItemType.ANSWERED_CONTEXT, bytes((context.context_id, 0, context.result, 0)) + syntax)


def encode_max_length(length: int) -> bytes:
    """Encode the maximum length that is announced, in bytes; 0 means no limit."""
    return encode_item(ItemType.MAX_LENGTH, _LONG.pack(length))


def encode_window(invoked: int, performed: int) -> bytes:
    """Encode the asynchronous operations window."""
    return encode_item(ItemType.ASYNCHRONOUS_WINDOW, _WINDOW.pack(invoked, performed))


def encode_role(role: Role) -> bytes:
    """Encode a role selection."""
    return encode_item(ItemType.ROLE, _counted(role.sop_class_uid.encode("ascii")) + bytes((role.scu, role.scp)))


def encode_extended(uid: str, information: bytes) -> bytes:
    """Encode a SOP class and its service class's application information."""
    return encode_item(ItemType.EXTENDED, _counted(uid.encode("ascii")) + information)


def encode_common_extended(uid: str, service: str, related: tuple[str, ...]) -> bytes:
    """Encode a SOP class, its service class and its related general SOP classes."""
    uids = b"".join(_counted(general.encode("ascii")) for general in related)
    value = _counted(uid.encode("ascii")) + _counted(service.encode("ascii")) + _counted(uids)
    return encode_item(ItemType.COMMON_EXTENDED, value)


def encode_user_identity(identity: UserIdentity) -> bytes:
    """Encode a user identity."""
    head = bytes((identity.identity_type, identity.response_requested))
    value = head + _counted(identity.primary) + _counted(identity.secondary)
    return encode_item(ItemType.USER_IDENTITY, value)


def encode_user_identity_response(response: bytes) -> bytes:
    """Encode the server response of an acceptance."""
    return encode_item(ItemType.USER_IDENTITY_RESPONSE, _counted(response))


def _uid_item(kind: ItemType, uid: str) -> bytes:
    return encode_item(kind, uid.encode("ascii"))


def _counted(value: bytes) -> bytes:
    return _SHORT.pack(len(value)) + value


def _take_counted(value: bytes) -> tuple[bytes, bytes]:
    """Split off a field that starts with its own two-byte length."""
    if len(value) < _SHORT.size:
        raise PduError(f"{len(value)} bytes are left where a length field needs {_SHORT.size}")
    (length,) = _SHORT.unpack_from(value)
    if _SHORT.size + length > len(value):
        raise PduError(f"field of {length} bytes runs past its item by {_SHORT.size + length - len(value)}")
    return value[2 : 2 + length], value[2 + length :]
