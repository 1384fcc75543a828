"""Status codes and reasons that are sent, each with its condition (PS3.4 B.2.3, PS3.7 C, PS3.8 9.3.4 and 9.3.8).

A refusal is always a failure, never a warning: common toolkits take warnings for "stored".
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dicomflow.dimse.pdu import AssociateReject

__all__ = ["AbortReason", "Refusal", "Rejection", "Status"]


class Status(IntEnum):
    """Status (0000,0900) values that are sent."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_SOP_INSTANCE = 0x0112
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
