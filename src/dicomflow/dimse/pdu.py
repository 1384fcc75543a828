"""PDUs: their fields as values, their bytes as the standard lays them out (PS3.8 9.3, PS3.7 D.3.3).

All fields are big endian. Decoders take one complete PDU body (the bytes after the six-byte header) and raise
`PduError` on anything that does not fit; unknown items are skipped (PS3.8 9.3.1). P-DATA-TF is not decoded here:
`acceptor` streams it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from dicomflow.dicom.uids import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    strip_padding,
)
from dicomflow.errors import PeerError

__all__ = [
    "AE_TITLE_LENGTH",
    "HEADER",
    "AbortSource",
    "AnsweredContext",
    "AssociateAccept",
    "AssociateReject",
    "AssociateRequest",
    "PduError",
    "PduType",
    "ProposedContext",
    "Role",
    "UserIdentity",
    "decode_abort",
    "decode_associate_accept",
    "decode_associate_reject",
    "decode_associate_request",
    "encode_abort",
    "encode_associate_accept",
    "encode_associate_reject",
    "encode_associate_request",
    "encode_release_request",
    "encode_release_response",
]

AE_TITLE_LENGTH: Final = 16
MAX_CONTEXTS: Final = 128
# Type, reserved, length of what follows.
HEADER: Final = struct.Struct(">BxI")
_FIXED: Final = struct.Struct(">H2x16s16s32s")
_ITEM: Final = struct.Struct(">BxH")
_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_MAX_UID_LENGTH: Final = 64
_MAX_VERSION_NAME_LENGTH: Final = 16


class PduError(PeerError):
    """A PDU whose bytes do not follow PS3.8 9.3; the association is aborted."""


class PduType(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class AbortSource(IntEnum):
    """Who aborts (PS3.8 9.3.8)."""

    USER = 0
    PROVIDER = 2


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


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2). AE titles are stripped; `echoed` holds the raw bytes of offsets 10 to 73."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ProposedContext, ...]
    max_length: int
    protocol_version: int = 1
    application_context: str = APPLICATION_CONTEXT
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME
    asynchronous_window: tuple[int, int] | None = None
    roles: tuple[Role, ...] = ()
    # SOP class UIDs of item 57H with their service class and related general SOP classes (PS3.7 D.3.3.6).
    common_extended: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    user_identity: UserIdentity | None = None
    echoed: bytes = b""


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """A-ASSOCIATE-AC (PS3.8 9.3.3); `echoed` repeats offsets 10 to 73 of the request."""

    contexts: tuple[AnsweredContext, ...]
    max_length: int
    echoed: bytes = bytes(64)
    asynchronous_window: tuple[int, int] | None = None
    roles: tuple[Role, ...] = ()
    # The server response of item 59H; None sends no item (PS3.7 D.3.3.7.2).
    user_identity_response: bytes | None = None
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME


@dataclass(frozen=True, slots=True)
class AssociateReject:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    source: int
    reason: int


def decode_associate_request(body: bytes) -> AssociateRequest:
    """Decode the body of an A-ASSOCIATE-RQ.

    AE titles padded with NULs are understood; one that is not of the default repertoire, or empty, decodes to "".

    Raises:
        PduError: an item runs past its container, or a required item or value is missing or illegal.
    """
    version, called, calling, _ = _fixed(body)
    contexts: list[ProposedContext] = []
    application_context = ""
    user_items: dict[int, list[bytes]] | None = None
    for kind, value in _items(body, _FIXED.size):
        if kind == 0x10:
            application_context = strip_padding(value)
        elif kind == 0x20:
            contexts.append(_proposed_context(value))
        elif kind == 0x50:
            user_items = _user_items(value)
    if not contexts:
        raise PduError("A-ASSOCIATE-RQ without a presentation context")
    if len({context.context_id for context in contexts}) != len(contexts):
        raise PduError("A-ASSOCIATE-RQ uses one presentation context ID twice")
    if user_items is None:
        raise PduError("A-ASSOCIATE-RQ without user information")
    return AssociateRequest(
        called_ae_title=_ae_title(called),
        calling_ae_title=_ae_title(calling),
        contexts=tuple(contexts),
        max_length=_max_length(user_items),
        protocol_version=version,
        application_context=application_context,
        implementation_class_uid=_first_text(user_items, 0x52),
        implementation_version_name=_first_text(user_items, 0x55)[:_MAX_VERSION_NAME_LENGTH],
        asynchronous_window=_window(user_items),
        roles=tuple(_role(value) for value in user_items.get(0x54, [])),
        common_extended=tuple(_common_extended(value) for value in user_items.get(0x57, [])),
        user_identity=_user_identity(user_items[0x58][0]) if 0x58 in user_items else None,
        echoed=body[4:68],
    )


def decode_associate_accept(body: bytes) -> AssociateAccept:
    """Decode the body of an A-ASSOCIATE-AC.

    Raises:
        PduError: an item runs past its container, or a required item is missing or illegal.
    """
    _fixed(body)
    contexts: list[AnsweredContext] = []
    user_items: dict[int, list[bytes]] = {}
    for kind, value in _items(body, _FIXED.size):
        if kind == 0x21:
            contexts.append(_answered_context(value))
        elif kind == 0x50:
            user_items = _user_items(value)
    return AssociateAccept(
        contexts=tuple(contexts),
        max_length=_max_length(user_items),
        echoed=body[4:68],
        asynchronous_window=_window(user_items),
        roles=tuple(_role(value) for value in user_items.get(0x54, [])),
        user_identity_response=user_items[0x59][0][2:] if 0x59 in user_items else None,
        implementation_class_uid=_first_text(user_items, 0x52),
        implementation_version_name=_first_text(user_items, 0x55),
    )


def decode_associate_reject(body: bytes) -> AssociateReject:
    """Decode the body of an A-ASSOCIATE-RJ; raises `PduError` unless it has four bytes."""
    _four_bytes(body, "A-ASSOCIATE-RJ")
    return AssociateReject(body[1], body[2], body[3])


def decode_abort(body: bytes) -> tuple[int, int]:
    """Decode the body of an A-ABORT into source and reason; raises `PduError` unless it has four bytes."""
    _four_bytes(body, "A-ABORT")
    return body[2], body[3]


def encode_associate_request(request: AssociateRequest) -> bytes:
    """Encode an A-ASSOCIATE-RQ whole, header included; AE titles must be of the default repertoire."""
    parts = [
        _FIXED.pack(
            request.protocol_version,
            request.called_ae_title.encode("ascii").ljust(AE_TITLE_LENGTH),
            request.calling_ae_title.encode("ascii").ljust(AE_TITLE_LENGTH),
            bytes(32),
        ),
        _item(0x10, request.application_context.encode("ascii")),
    ]
    for context in request.contexts:
        syntaxes = b"".join(_item(0x40, uid.encode("ascii")) for uid in context.transfer_syntaxes)
        abstract = _item(0x30, context.abstract_syntax.encode("ascii"))
        parts.append(_item(0x20, bytes((context.context_id, 0, 0, 0)) + abstract + syntaxes))
    user = _user_information(request)
    for uid, service, related in request.common_extended:
        uids = b"".join(_counted(general.encode("ascii")) for general in related)
        user += _item(0x57, _counted(uid.encode()) + _counted(service.encode()) + _counted(uids))
    if request.user_identity is not None:
        identity = request.user_identity
        head = bytes((identity.identity_type, identity.response_requested))
        user += _item(0x58, head + _counted(identity.primary) + _counted(identity.secondary))
    parts.append(_item(0x50, user))
    return _pdu(PduType.ASSOCIATE_RQ, b"".join(parts))


def encode_associate_accept(accept: AssociateAccept) -> bytes:
    """Encode an A-ASSOCIATE-AC whole, header included."""
    parts = [b"\0\1\0\0", accept.echoed, _item(0x10, APPLICATION_CONTEXT.encode("ascii"))]
    for context in accept.contexts:
        syntax = _item(0x40, context.transfer_syntax.encode("ascii"))
        parts.append(_item(0x21, bytes((context.context_id, 0, context.result, 0)) + syntax))
    user = _user_information(accept)
    if accept.user_identity_response is not None:
        user += _item(0x59, _counted(accept.user_identity_response))
    parts.append(_item(0x50, user))
    return _pdu(PduType.ASSOCIATE_AC, b"".join(parts))


def encode_associate_reject(reject: AssociateReject) -> bytes:
    """Encode an A-ASSOCIATE-RJ whole."""
    return _pdu(PduType.ASSOCIATE_RJ, bytes((0, reject.result, reject.source, reject.reason)))


def encode_release_request() -> bytes:
    """Encode an A-RELEASE-RQ whole."""
    return _pdu(PduType.RELEASE_RQ, bytes(4))


def encode_release_response() -> bytes:
    """Encode an A-RELEASE-RP whole."""
    return _pdu(PduType.RELEASE_RP, bytes(4))


def encode_abort(source: int, reason: int) -> bytes:
    """Encode an A-ABORT whole."""
    return _pdu(PduType.ABORT, bytes((0, 0, source, reason)))


def _pdu(kind: PduType, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _counted(value: bytes) -> bytes:
    return _SHORT.pack(len(value)) + value


def _user_information(pdu: AssociateRequest | AssociateAccept) -> bytes:
    """Encode the sub-items that request and acceptance share, in the order of their types."""
    user = _item(0x51, _LONG.pack(pdu.max_length)) + _item(0x52, pdu.implementation_class_uid.encode("ascii"))
    if pdu.asynchronous_window is not None:
        user += _item(0x53, _SHORT.pack(pdu.asynchronous_window[0]) + _SHORT.pack(pdu.asynchronous_window[1]))
    for role in pdu.roles:
        user += _item(0x54, _counted(role.sop_class_uid.encode("ascii")) + bytes((role.scu, role.scp)))
    return user + _item(0x55, pdu.implementation_version_name.encode("ascii"))


def _fixed(body: bytes) -> tuple[int, bytes, bytes, bytes]:
    if len(body) < _FIXED.size:
        raise PduError(f"association PDU of {len(body)} bytes, shorter than its fixed fields of {_FIXED.size}")
    version, called, calling, reserved = _FIXED.unpack_from(body)
    return version, called, calling, reserved


def _four_bytes(body: bytes, name: str) -> None:
    if len(body) != 4:
        raise PduError(f"{name} of {len(body)} bytes after its header instead of 4")


def _items(container: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of the items from `offset` to the container's end."""
    end = len(container)
    while offset < end:
        if offset + _ITEM.size > end:
            raise PduError(f"{end - offset} bytes are left where an item header needs {_ITEM.size}")
        kind, length = _ITEM.unpack_from(container, offset)
        offset += _ITEM.size
        if offset + length > end:
            raise PduError(f"item {kind:02X}H of {length} bytes runs past its container by {offset + length - end}")
        yield kind, container[offset : offset + length]
        offset += length


def _user_items(value: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for kind, sub_item in _items(value, 0):
        found.setdefault(kind, []).append(sub_item)
    return found


def _proposed_context(value: bytes) -> ProposedContext:
    context_id = _context_id(value)
    abstract_syntaxes: list[str] = []
    transfer_syntaxes: list[str] = []
    for kind, sub_item in _items(value, 4):
        if kind == 0x30:
            abstract_syntaxes.append(_uid(sub_item))
        elif kind == 0x40:
            transfer_syntaxes.append(_uid(sub_item))
    if len(abstract_syntaxes) != 1 or not transfer_syntaxes:
        raise PduError(
            f"presentation context {context_id} has {len(abstract_syntaxes)} abstract syntaxes"
            f" and {len(transfer_syntaxes)} transfer syntaxes"
        )
    return ProposedContext(context_id, abstract_syntaxes[0], tuple(transfer_syntaxes))


def _answered_context(value: bytes) -> AnsweredContext:
    syntaxes = [_uid(sub_item) for kind, sub_item in _items(value, 4) if kind == 0x40]
    return AnsweredContext(_context_id(value), value[2], syntaxes[0] if syntaxes else "")


def _context_id(value: bytes) -> int:
    if len(value) < 4:
        raise PduError(f"presentation context item of {len(value)} bytes")
    if value[0] % 2 == 0:
        raise PduError(f"presentation context ID {value[0]} is not odd")
    return value[0]


def _uid(value: bytes) -> str:
    if len(value) > _MAX_UID_LENGTH:
        raise PduError(f"UID of {len(value)} bytes exceeds {_MAX_UID_LENGTH}")
    return strip_padding(value)


def _ae_title(raw: bytes) -> str:
    """Return a stripped AE title, or "" for one that PS3.5 6.2 does not allow."""
    title = raw.replace(b"\0", b" ").strip(b" ")
    allowed = all(0x20 <= byte < 0x7F and byte != 0x5C for byte in title)
    return title.decode("ascii") if allowed else ""


def _max_length(user_items: dict[int, list[bytes]]) -> int:
    values = user_items.get(0x51, [])
    if len(values) != 1 or len(values[0]) != 4:
        raise PduError("user information without one maximum length item of four bytes")
    return int.from_bytes(values[0], "big")


def _first_text(user_items: dict[int, list[bytes]], kind: int) -> str:
    return strip_padding(user_items[kind][0]) if kind in user_items else ""


def _window(user_items: dict[int, list[bytes]]) -> tuple[int, int] | None:
    if 0x53 not in user_items:
        return None
    value = user_items[0x53][0]
    if len(value) != 4:
        raise PduError(f"asynchronous operations window item of {len(value)} bytes instead of 4")
    return int.from_bytes(value[:2], "big"), int.from_bytes(value[2:], "big")


def _role(value: bytes) -> Role:
    uid, rest = _take_counted(value)
    if len(rest) != 2:
        raise PduError(f"role selection item with {len(rest)} bytes after its UID instead of 2")
    return Role(strip_padding(uid), scu=rest[0] == 1, scp=rest[1] == 1)


def _common_extended(value: bytes) -> tuple[str, str, tuple[str, ...]]:
    uid, rest = _take_counted(value)
    service, rest = _take_counted(rest)
    related: list[str] = []
    if rest:
        listed, _ = _take_counted(rest)
        while listed:
            general, listed = _take_counted(listed)
            related.append(strip_padding(general))
    return strip_padding(uid), strip_padding(service), tuple(related)


def _user_identity(value: bytes) -> UserIdentity:
    if len(value) < 2:
        raise PduError(f"user identity item of {len(value)} bytes")
    primary, rest = _take_counted(value[2:])
    secondary, _ = _take_counted(rest) if rest else (b"", b"")
    return UserIdentity(value[0], value[1] == 1, primary, secondary)


def _take_counted(value: bytes) -> tuple[bytes, bytes]:
    """Split off a field that starts with its own two-byte length."""
    if len(value) < 2:
        raise PduError(f"{len(value)} bytes are left where a length field needs 2")
    length = int.from_bytes(value[:2], "big")
    if 2 + length > len(value):
        raise PduError(f"field of {length} bytes runs past its item by {2 + length - len(value)}")
    return value[2 : 2 + length], value[2 + length :]
