"""Command sets: Implicit VR Little Endian whatever the context says (PS3.7 6.3.1, 9.3, 10.3, E.1).

Read tolerantly: elements that are not known are skipped, the group length is not believed, and a number may have more
bytes than its two. Only what says which command it is, and whether a data set follows, must be there.
Written strictly: ascending tags, even lengths, UIDs padded with NUL and text with a space.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from dicomflow.dimse.items import decode_ae_title
from dicomflow.errors import PeerError

__all__ = [
    "NO_DATA_SET",
    "Command",
    "CommandError",
    "CommandField",
    "Priority",
    "decode_command",
    "encode_command",
    "encode_response",
]

NO_DATA_SET: Final = 0x0101
_RESPONSE: Final = 0x8000
_MAX_ERROR_COMMENT_LENGTH: Final = 64


class CommandError(PeerError):
    """A command set that cannot be decoded; the association is aborted with source 0."""


class CommandField(IntEnum):
    """Command Field (0000,0100) of the requests; a response's is 8000H more (PS3.7 E.1)."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_GET_RQ = 0x0110
    N_SET_RQ = 0x0120
    N_ACTION_RQ = 0x0130
    N_CREATE_RQ = 0x0140
    N_DELETE_RQ = 0x0150
    C_CANCEL_RQ = 0x0FFF


class Priority(IntEnum):
    """Priority (0000,0700)."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


class _Element(IntEnum):
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008
    REMAINING_SUBOPERATIONS = 0x1020
    COMPLETED_SUBOPERATIONS = 0x1021
    FAILED_SUBOPERATIONS = 0x1022
    WARNING_SUBOPERATIONS = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


_HEADER: Final = struct.Struct("<HHI")
_TAG: Final = struct.Struct("<HH")
_GROUP_LENGTH: Final = struct.Struct("<HHII")
_US: Final = struct.Struct("<HHIH")
_RESPONSE_NUMBERS: Final = struct.Struct("<" + "HHIH" * 4)


@dataclass(frozen=True, slots=True)
class Command:
    """A command set. UIDs are the bytes of the wire, padding included; absent elements are None."""

    command_field: int
    message_id: int | None = None
    message_id_responded_to: int | None = None
    affected_sop_class_uid: bytes | None = None
    affected_sop_instance_uid: bytes | None = None
    requested_sop_class_uid: bytes | None = None
    requested_sop_instance_uid: bytes | None = None
    priority: int | None = None
    data_set_type: int = NO_DATA_SET
    status: int | None = None
    offending_elements: tuple[int, ...] = ()
    error_comment: str = ""
    event_type_id: int | None = None
    action_type_id: int | None = None
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None
    move_destination: str | None = None
    remaining_suboperations: int | None = None
    completed_suboperations: int | None = None
    failed_suboperations: int | None = None
    warning_suboperations: int | None = None

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows: any value but 0101H says so (PS3.7 E.1)."""
        return self.data_set_type != NO_DATA_SET

    @property
    def is_response(self) -> bool:
        """Whether this answers a request."""
        return bool(self.command_field & _RESPONSE)


def decode_command(encoded: bytes) -> Command:
    """Decode a whole command set.

    What an element misses is the service's to judge; what stands behind one that runs past the end is lost with it.

    Raises:
        CommandError: there is no Command Field or no Command Data Set Type.
    """
    fields: dict[str, Any] = {}
    offset, end = 0, len(encoded)
    while offset + _HEADER.size <= end:
        group, element, length = _HEADER.unpack_from(encoded, offset)
        offset += _HEADER.size
        if offset + length > end:
            break
        if group == 0 and element in _FIELDS:
            name, decode = _FIELDS[element]
            fields[name] = decode(element, encoded[offset : offset + length])
        offset += length
    if fields.get("command_field") is None or fields.get("data_set_type") is None:
        raise CommandError(f"command set of {end} bytes without Command Field or Command Data Set Type")
    return Command(**fields)


def encode_command(command: Command) -> bytes:
    """Encode a command set with its group length; bytes of UIDs are written as they are but for an even length."""
    parts = (
        _encode_bytes(_Element.AFFECTED_SOP_CLASS_UID, command.affected_sop_class_uid, b"\0"),
        _encode_bytes(_Element.REQUESTED_SOP_CLASS_UID, command.requested_sop_class_uid, b"\0"),
        _encode_number(_Element.COMMAND_FIELD, command.command_field),
        _encode_number(_Element.MESSAGE_ID, command.message_id),
        _encode_number(_Element.MESSAGE_ID_RESPONDED_TO, command.message_id_responded_to),
        _encode_bytes(_Element.MOVE_DESTINATION, _ascii(command.move_destination), b" "),
        _encode_number(_Element.PRIORITY, command.priority),
        _encode_number(_Element.DATA_SET_TYPE, command.data_set_type),
        _encode_number(_Element.STATUS, command.status),
        _encode_bytes(_Element.OFFENDING_ELEMENT, _encode_tags(command.offending_elements), b""),
        _encode_bytes(_Element.ERROR_COMMENT, _comment(command.error_comment), b" "),
        _encode_bytes(_Element.AFFECTED_SOP_INSTANCE_UID, command.affected_sop_instance_uid, b"\0"),
        _encode_bytes(_Element.REQUESTED_SOP_INSTANCE_UID, command.requested_sop_instance_uid, b"\0"),
        _encode_number(_Element.EVENT_TYPE_ID, command.event_type_id),
        _encode_number(_Element.ACTION_TYPE_ID, command.action_type_id),
        _encode_number(_Element.REMAINING_SUBOPERATIONS, command.remaining_suboperations),
        _encode_number(_Element.COMPLETED_SUBOPERATIONS, command.completed_suboperations),
        _encode_number(_Element.FAILED_SUBOPERATIONS, command.failed_suboperations),
        _encode_number(_Element.WARNING_SUBOPERATIONS, command.warning_suboperations),
        _encode_bytes(_Element.MOVE_ORIGINATOR_AE_TITLE, _ascii(command.move_originator_ae_title), b" "),
        _encode_number(_Element.MOVE_ORIGINATOR_MESSAGE_ID, command.move_originator_message_id),
    )
    return _with_group_length(parts)


def encode_response(
    request: Command, status: int, error_comment: str = "", offending_elements: tuple[int, ...] = ()
) -> bytes:
    """Encode the response to a C-ECHO, C-STORE, N-ACTION or N-EVENT-REPORT request, without a data set.

    The Affected UIDs repeat the request's bytes exactly, illegal padding included: some senders compare them.
    """
    parts = [
        _encode_bytes(
            _Element.AFFECTED_SOP_CLASS_UID, request.affected_sop_class_uid or request.requested_sop_class_uid, b"\0"
        ),
        # What each response has is packed in one go: an edge answers thousands a second.
        _RESPONSE_NUMBERS.pack(
            *(0, _Element.COMMAND_FIELD, 2, request.command_field | _RESPONSE),
            *(0, _Element.MESSAGE_ID_RESPONDED_TO, 2, request.message_id or 0),
            *(0, _Element.DATA_SET_TYPE, 2, NO_DATA_SET),
            *(0, _Element.STATUS, 2, status),
        ),
    ]
    if error_comment or offending_elements:
        parts.append(_encode_bytes(_Element.OFFENDING_ELEMENT, _encode_tags(offending_elements), b""))
        parts.append(_encode_bytes(_Element.ERROR_COMMENT, _comment(error_comment), b" "))
    instance = request.affected_sop_instance_uid or request.requested_sop_instance_uid
    parts.append(_encode_bytes(_Element.AFFECTED_SOP_INSTANCE_UID, instance, b"\0"))
    if request.event_type_id is not None or request.action_type_id is not None:
        parts.append(_encode_number(_Element.EVENT_TYPE_ID, request.event_type_id))
        parts.append(_encode_number(_Element.ACTION_TYPE_ID, request.action_type_id))
    return _with_group_length(parts)


def _with_group_length(parts: Iterable[bytes]) -> bytes:
    body = b"".join(parts)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def _number(_: int, value: bytes) -> int | None:
    """Decode the first number of an element: some devices write four bytes for one of two, as DCMTK reads them."""
    return int.from_bytes(value[:2], "little") if value else None


def _bytes(_: int, value: bytes) -> bytes:
    return value


def _text(_: int, value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _title(_: int, value: bytes) -> str:
    return decode_ae_title(value)


def _tags(_: int, value: bytes) -> tuple[int, ...]:
    return tuple(group << 16 | element for group, element in _TAG.iter_unpack(value[: len(value) // 4 * 4]))


def _encode_tags(tags: tuple[int, ...]) -> bytes | None:
    return b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in tags) or None


def _encode_number(element: _Element, value: int | None) -> bytes:
    return b"" if value is None else _US.pack(0, element, 2, value)


def _encode_bytes(element: _Element, value: bytes | None, padding: bytes) -> bytes:
    if value is None:
        return b""
    if len(value) % 2:
        value += padding
    return _HEADER.pack(0, element, len(value)) + value


def _comment(text: str) -> bytes | None:
    """Encode an Error Comment: at most 64 characters of the default repertoire (PS3.7 C.5)."""
    return text[:_MAX_ERROR_COMMENT_LENGTH].encode("ascii", "replace") if text else None


def _ascii(text: str | None) -> bytes | None:
    return None if text is None else text.encode("ascii", "replace")


# The elements that are read, each with its field of `Command`.
_FIELDS: Final[dict[int, tuple[str, Callable[[int, bytes], Any]]]] = {
    _Element.COMMAND_FIELD: ("command_field", _number),
    _Element.MESSAGE_ID: ("message_id", _number),
    _Element.MESSAGE_ID_RESPONDED_TO: ("message_id_responded_to", _number),
    _Element.AFFECTED_SOP_CLASS_UID: ("affected_sop_class_uid", _bytes),
    _Element.AFFECTED_SOP_INSTANCE_UID: ("affected_sop_instance_uid", _bytes),
    _Element.REQUESTED_SOP_CLASS_UID: ("requested_sop_class_uid", _bytes),
    _Element.REQUESTED_SOP_INSTANCE_UID: ("requested_sop_instance_uid", _bytes),
    _Element.PRIORITY: ("priority", _number),
    _Element.DATA_SET_TYPE: ("data_set_type", _number),
    _Element.STATUS: ("status", _number),
    _Element.OFFENDING_ELEMENT: ("offending_elements", _tags),
    _Element.ERROR_COMMENT: ("error_comment", _text),
    _Element.EVENT_TYPE_ID: ("event_type_id", _number),
    _Element.ACTION_TYPE_ID: ("action_type_id", _number),
    _Element.MOVE_DESTINATION: ("move_destination", _title),
    _Element.REMAINING_SUBOPERATIONS: ("remaining_suboperations", _number),
    _Element.COMPLETED_SUBOPERATIONS: ("completed_suboperations", _number),
    _Element.FAILED_SUBOPERATIONS: ("failed_suboperations", _number),
    _Element.WARNING_SUBOPERATIONS: ("warning_suboperations", _number),
    _Element.MOVE_ORIGINATOR_AE_TITLE: ("move_originator_ae_title", _title),
    _Element.MOVE_ORIGINATOR_MESSAGE_ID: ("move_originator_message_id", _number),
}
