"""Status codes and reasons that are sent, each with its condition (PS3.4 B.2.3, PS3.7 C, PS3.8 9.3.4 and 9.3.8).

A refusal is always a failure, never a warning: common toolkits take warnings for "stored".
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dicomflow.dimse.pdu import AssociateReject

__all__ = ["AbortReason", "Refusal", "Rejection", "Status", "describe_rejection", "describe_status", "is_warning"]


class Status(IntEnum):
    """Status (0000,0900) values that are sent."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_SOP_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT_VALUE = 0x0115
    INVALID_SOP_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    CLASS_INSTANCE_CONFLICT = 0x0119
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class AbortReason(IntEnum):
    """Reasons of an A-ABORT whose source is the provider (PS3.8 9.3.8)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER_VALUE = 6


@dataclass(frozen=True, slots=True)
class Refusal:
    """A C-STORE failure: status, the fixed comment for this case, and the offending elements' tags."""

    status: Status
    comment: str
    offending_elements: tuple[int, ...] = ()


class Rejection:
    """A-ASSOCIATE-RJ for each condition (PS3.8 9.3.4)."""

    NO_REASON: Final = AssociateReject(1, 1, 1)
    APPLICATION_CONTEXT: Final = AssociateReject(1, 1, 2)
    CALLING_AE_TITLE: Final = AssociateReject(1, 1, 3)
    CALLED_AE_TITLE: Final = AssociateReject(1, 1, 7)
    USER_IDENTITY: Final = AssociateReject(2, 2, 1)
    PROTOCOL_VERSION: Final = AssociateReject(1, 2, 2)
    TEMPORARY_CONGESTION: Final = AssociateReject(2, 3, 1)
    LOCAL_LIMIT: Final = AssociateReject(2, 3, 2)


# PS3.8 9.3.4, Table 9-21: by source, then reason.
_REJECTIONS: Final = {
    (1, 2): "the application context is not supported",
    (1, 3): "it does not know our calling AE title",
    (1, 7): "it does not know itself by this called AE title",
    (2, 1): "no reason given",
    (2, 2): "the protocol version is not supported",
    (3, 1): "it is too busy now",
    (3, 2): "it has as many associations as it takes",
}
_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116})
# PS3.7 C and PS3.4 B.2.3, C.4: what an SCP may answer to C-STORE, C-FIND, C-MOVE and C-GET.
_STATUSES: Final = {
    0x0000: "success",
    0x0001: "a requested optional attribute is not supported",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "an attribute is not as it should be",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such object instance",
    0x0115: "invalid argument value",
    0x0116: "an attribute value is out of range",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xA701: "out of resources, the number of matches cannot be calculated",
    0xA702: "out of resources, no sub-operation could be performed",
    0xA801: "the move destination is unknown to it",
    0xA900: "the data set does not match the SOP class",
    0xB000: "some sub-operations failed or ended with a warning",
    0xFE00: "cancelled",
}


def is_warning(status: int) -> bool:
    """Tell whether a status of a response to C-STORE is a warning: the object is stored (PS3.7 C.3, PS3.4 B.2.3)."""
    return status in _WARNINGS or status >> 12 == 0xB


def describe_rejection(reject: AssociateReject) -> str:
    """Return a rejection in numbers and words."""
    numbers = f"association rejected {reject.result}/{reject.source}/{reject.reason}"
    words = _REJECTIONS.get((reject.source, reject.reason))
    return f"{numbers}: {words}" if words else numbers


def describe_status(status: int) -> str:
    """Return a status of a response to C-STORE, C-FIND, C-MOVE or C-GET in its number and in words."""
    words = _STATUSES.get(status)
    if words is None:
        kind = status >> 8
        if kind == 0xA7:
            words = "out of resources"
        elif kind == 0xA9:
            words = "the data set does not match the SOP class"
        else:
            words = {0xA: "failure", 0xB: "warning", 0xC: "cannot understand or process"}.get(status >> 12, "unknown")
    return f"{status:04X}H ({words})"
