"""PDUs: their fields as values, their bytes as the standard lays them out (PS3.8 9.3, PS3.7 D.3.3).

All fields are big endian. Decoders take one complete PDU body (the bytes after the six-byte header) and raise
`PduError` where it cannot be told what follows; unknown items are skipped (PS3.8 9.3.1), and a flaw within one item
costs that item, see `items`. P-DATA-TF is not decoded here: `acceptor` streams it.
"""

import functools
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from dicomflow.dicom.uids import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    strip_padding,
)
from dicomflow.dimse.items import (
    AnsweredContext,
    ItemType,
    PduError,
    ProposedContext,
    Role,
    UserIdentity,
    decode_ae_title,
    decode_answered_context,
    decode_common_extended,
    decode_each,
    decode_extended,
    decode_max_length,
    decode_proposed_context,
    decode_role,
    decode_user_identity,
    decode_user_identity_response,
    decode_user_items,
    decode_window,
    encode_answered_context,
    encode_common_extended,
    encode_extended,
    encode_item,
    encode_max_length,
    encode_proposed_context,
    encode_role,
    encode_user_identity,
    encode_user_identity_response,
    encode_window,
    first_text,
    iterate_items,
)
from dicomflow.errors import PermanentError

__all__ = [
    "AE_TITLE_LENGTH",
    "HEADER",
    "MAX_CONTEXTS",
    "PDV",
    "PDV_COUNTED_BYTES",
    "AbortSource",
    "AssociateAccept",
    "AssociateReject",
    "AssociateRequest",
    "PduError",
    "PduType",
    "ProposedContext",
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
MAX_CONTEXTS: Final = 128  # the odd numbers of one byte (PS3.8 9.3.2.2)
# Type, reserved, length of what follows.
HEADER: Final = struct.Struct(">BxI")
PDV: Final = struct.Struct(">IBB")
"""Item length, presentation context ID and message control header (PS3.8 9.3.5.1)."""
PDV_COUNTED_BYTES: Final = 2
"""Of these what the item length counts: all but itself."""
# Protocol version, reserved, called and calling AE title, reserved (PS3.8 9.3.2).
_FIXED: Final = struct.Struct(">H2x16s16s32s")
_ECHOED: Final = slice(4, _FIXED.size)  # offsets 10 to 73 of the PDU
_MAX_VERSION_NAME_LENGTH: Final = 16


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
    # SOP class UIDs of item 56H with their application information (PS3.7 D.3.3.5).
    extended: tuple[tuple[str, bytes], ...] = ()
    # SOP class UIDs of item 57H with their service class and related general SOP classes (PS3.7 D.3.3.6).
    common_extended: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    user_identity: UserIdentity | None = None
    echoed: bytes = b""
    # Whether it is decoded once and kept, so that what is made of it may be kept too.
    is_kept: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """A-ASSOCIATE-AC (PS3.8 9.3.3); `echoed` repeats offsets 10 to 73 of the request."""

    contexts: tuple[AnsweredContext, ...]
    max_length: int
    echoed: bytes = bytes(64)
    asynchronous_window: tuple[int, int] | None = None
    roles: tuple[Role, ...] = ()
    extended: tuple[tuple[str, bytes], ...] = ()
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


# A device proposes the same in each of its associations, and some open one for each image. 128 contexts take 14 KB.
_MAX_KNOWN: Final = 64
_MAX_KNOWN_BYTES: Final = 32 << 10
_known_requests: Final[dict[bytes, AssociateRequest]] = {}


def decode_associate_request(body: bytes) -> AssociateRequest:
    """Decode the body of an A-ASSOCIATE-RQ; one that came before costs a look-up, unless it holds a user identity.

    AE titles padded with NULs are understood; see `decode_ae_title` for those of another repertoire.
    Of several contexts with one ID the first counts, as with DCMTK and pynetdicom: it is answered once.

    Raises:
        PduError: an item runs past the PDU, or there is no presentation context.
    """
    request = _known_requests.get(body)
    if request is None:
        request = _decode_associate_request(body)
        if request.is_kept:
            if len(_known_requests) >= _MAX_KNOWN:
                _known_requests.clear()
            _known_requests[body] = request
    return request


def _decode_associate_request(body: bytes) -> AssociateRequest:
    version, called, calling, _ = _fixed(body)
    contexts: dict[int, ProposedContext] = {}
    application_context = ""
    user_items: dict[int, list[bytes]] = {}
    for kind, value in iterate_items(body, _FIXED.size):
        if kind == ItemType.APPLICATION_CONTEXT:
            application_context = strip_padding(value)
        elif kind == ItemType.PROPOSED_CONTEXT:
            context = decode_proposed_context(value)
            if context is not None:
                contexts.setdefault(context.context_id, context)
        elif kind == ItemType.USER_INFORMATION:
            _add_user_items(user_items, value)
    if not contexts:
        raise PduError("A-ASSOCIATE-RQ without a presentation context")
    identities = user_items.get(ItemType.USER_IDENTITY, [])
    return AssociateRequest(
        called_ae_title=decode_ae_title(called),
        calling_ae_title=decode_ae_title(calling),
        contexts=tuple(contexts.values()),
        max_length=decode_max_length(user_items),
        protocol_version=version,
        application_context=application_context,
        implementation_class_uid=first_text(user_items, ItemType.IMPLEMENTATION_CLASS_UID),
        implementation_version_name=_version_name(user_items),
        asynchronous_window=decode_window(user_items),
        roles=decode_each(user_items.get(ItemType.ROLE, []), decode_role),
        extended=decode_each(user_items.get(ItemType.EXTENDED, []), decode_extended),
        common_extended=decode_each(user_items.get(ItemType.COMMON_EXTENDED, []), decode_common_extended),
        # Who a peer says it is must not depend on which of two identities is flawed.
        user_identity=next(iter(decode_each(identities[:1], decode_user_identity)), None),
        echoed=body[_ECHOED],
        is_kept=not identities and len(body) <= _MAX_KNOWN_BYTES,
    )


def _add_user_items(user_items: dict[int, list[bytes]], value: bytes) -> None:
    for kind, values in decode_user_items(value).items():
        user_items.setdefault(kind, []).extend(values)


def decode_associate_accept(body: bytes) -> AssociateAccept:
    """Decode the body of an A-ASSOCIATE-AC.

    Raises:
        PduError: an item runs past the PDU.
    """
    _fixed(body)
    contexts: list[AnsweredContext] = []
    user_items: dict[int, list[bytes]] = {}
    for kind, value in iterate_items(body, _FIXED.size):
        if kind == ItemType.ANSWERED_CONTEXT:
            context = decode_answered_context(value)
            if context is not None:
                contexts.append(context)
        elif kind == ItemType.USER_INFORMATION:
            _add_user_items(user_items, value)
    responses = decode_each(user_items.get(ItemType.USER_IDENTITY_RESPONSE, []), decode_user_identity_response)
    return AssociateAccept(
        contexts=tuple(contexts),
        max_length=decode_max_length(user_items),
        echoed=body[_ECHOED],
        asynchronous_window=decode_window(user_items),
        roles=decode_each(user_items.get(ItemType.ROLE, []), decode_role),
        user_identity_response=responses[0] if responses else None,
        implementation_class_uid=first_text(user_items, ItemType.IMPLEMENTATION_CLASS_UID),
        implementation_version_name=_version_name(user_items),
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
    """Encode an A-ASSOCIATE-RQ whole, header included.

    Raises:
        PermanentError: an AE title is empty, too long or not of the default repertoire (PS3.5 6.2).
    """
    called = _encode_ae_title("called", request.called_ae_title)
    calling = _encode_ae_title("calling", request.calling_ae_title)
    parts = [
        _FIXED.pack(request.protocol_version, called, calling, bytes(32)),
        encode_item(ItemType.APPLICATION_CONTEXT, request.application_context.encode("ascii")),
        *(encode_proposed_context(context) for context in request.contexts),
    ]
    user = _user_information(request)
    user += b"".join(encode_extended(*each) for each in request.extended)
    user += b"".join(encode_common_extended(*each) for each in request.common_extended)
    if request.user_identity is not None:
        user += encode_user_identity(request.user_identity)
    parts.append(encode_item(ItemType.USER_INFORMATION, user))
    return _pdu(PduType.ASSOCIATE_RQ, b"".join(parts))


@functools.lru_cache(maxsize=_MAX_KNOWN)
def encode_associate_accept(accept: AssociateAccept) -> bytes:
    """Encode an A-ASSOCIATE-AC whole, header included; one that was encoded before costs a look-up."""
    parts = [
        b"\0\1\0\0",  # protocol version 1
        accept.echoed,
        encode_item(ItemType.APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode("ascii")),
        *(encode_answered_context(context) for context in accept.contexts),
    ]
    user = _user_information(accept)
    user += b"".join(encode_extended(*each) for each in accept.extended)
    if accept.user_identity_response is not None:
        user += encode_user_identity_response(accept.user_identity_response)
    parts.append(encode_item(ItemType.USER_INFORMATION, user))
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


def _user_information(pdu: AssociateRequest | AssociateAccept) -> bytes:
    """Encode the sub-items that request and acceptance share, in the order of their types."""
    user = encode_max_length(pdu.max_length)
    user += encode_item(ItemType.IMPLEMENTATION_CLASS_UID, pdu.implementation_class_uid.encode("ascii"))
    if pdu.asynchronous_window is not None:
        user += encode_window(*pdu.asynchronous_window)
    user += b"".join(encode_role(role) for role in pdu.roles)
    return user + encode_item(ItemType.IMPLEMENTATION_VERSION_NAME, pdu.implementation_version_name.encode("ascii"))


def _fixed(body: bytes) -> tuple[int, bytes, bytes, bytes]:
    if len(body) < _FIXED.size:
        raise PduError(f"association PDU of {len(body)} bytes, shorter than its fixed fields of {_FIXED.size}")
    version, called, calling, reserved = _FIXED.unpack_from(body)
    return version, called, calling, reserved


def _four_bytes(body: bytes, name: str) -> None:
    if len(body) != 4:
        raise PduError(f"{name} of {len(body)} bytes after its header instead of 4")


def _version_name(user_items: dict[int, list[bytes]]) -> str:
    """Return the implementation version name, cut where a peer exceeds its 16 characters (PS3.7 D.3.3.2)."""
    return first_text(user_items, ItemType.IMPLEMENTATION_VERSION_NAME)[:_MAX_VERSION_NAME_LENGTH]


def _encode_ae_title(name: str, title: str) -> bytes:
    raw = title.encode("ascii", "replace")
    stripped = decode_ae_title(raw)
    if not stripped or stripped != title.strip(" "):
        raise PermanentError(f"{name} AE title is empty or holds characters that PS3.5 6.2 does not allow")
    if len(raw) > AE_TITLE_LENGTH:
        raise PermanentError(f"{name} AE title of {len(raw)} characters exceeds {AE_TITLE_LENGTH}")
    return raw.ljust(AE_TITLE_LENGTH)
