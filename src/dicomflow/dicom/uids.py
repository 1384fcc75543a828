"""UIDs: the standard's constants, their syntax, and which SOP classes and transfer syntaxes are stored.

Owns the syntax of PS3.5 9.1 and the registry of PS3.6 A as far as storage needs it. Knows nothing of associations.
"""

import re
from typing import Final

__all__ = [
    "APPLICATION_CONTEXT",
    "DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN",
    "EXPLICIT_VR_BIG_ENDIAN",
    "EXPLICIT_VR_LITTLE_ENDIAN",
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "IMPLICIT_VR_LITTLE_ENDIAN",
    "MAX_UID_LENGTH",
    "NON_PATIENT_SOP_CLASSES",
    "PATIENT_ROOT_FIND",
    "PATIENT_ROOT_GET",
    "PATIENT_ROOT_MOVE",
    "QUERY_SOP_CLASSES_IN_STORAGE_ARC",
    "REFUSED_TRANSFER_SYNTAXES",
    "STORAGE_COMMITMENT",
    "STORAGE_COMMITMENT_INSTANCE",
    "STORAGE_OUTSIDE_ARC",
    "STORAGE_SERVICE_CLASS",
    "STUDY_ROOT_FIND",
    "STUDY_ROOT_GET",
    "STUDY_ROOT_MOVE",
    "VERIFICATION",
    "has_leading_zero",
    "is_other_sop_class",
    "is_private",
    "is_storage_sop_class",
    "is_storage_transfer_syntax",
    "is_usable",
    "strip_padding",
]

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
STORAGE_SERVICE_CLASS: Final = "1.2.840.10008.4.2"
PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

# Ours: 2.25 and the decimal form of one random UUID (PS3.5 B.2); names at most 16 characters (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID: Final = "2.25.204366271390529563721849561930487216531"
IMPLEMENTATION_VERSION_NAME: Final = "DICOMFLOW_0_1"

MAX_UID_LENGTH: Final = 64

_STANDARD_ROOT: Final = "1.2.840.10008."
_STORAGE_ARC: Final = "1.2.840.10008.5.1.4.1.1."

# RT delivery instructions, and retired print objects that were stored (PS3.6 A).
STORAGE_OUTSIDE_ARC: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.34.1",
        "1.2.840.10008.5.1.4.34.7",
        "1.2.840.10008.5.1.4.34.10",
        "1.2.840.10008.5.1.1.27",
        "1.2.840.10008.5.1.1.29",
        "1.2.840.10008.5.1.1.30",
    }
)
# FIND, MOVE, GET, Inventory Creation and Repository Query: queries whose UIDs lie under the storage arc.
QUERY_SOP_CLASSES_IN_STORAGE_ARC: Final = frozenset(
    {_STORAGE_ARC + f"200.{last}" for last in (4, 5, 6)} | {_STORAGE_ARC + f"201.{last}" for last in (2, 3, 4, 5, 6)}
)
# Stored by C-STORE too, but without patient, study or series (PS3.4 GG).
NON_PATIENT_SOP_CLASSES: Final = frozenset(
    {f"1.2.840.10008.5.1.4.{arc}.1" for arc in (38, 39, 43, 44, 45)}
    | {_STORAGE_ARC + last for last in ("200.1", "200.3", "200.7", "201.1")}
)
# All other SOP classes and meta SOP classes of PS3.6 A, without the standard's root: other services, and media.
_OTHER_SOP_CLASSES: Final = frozenset(
    _STANDARD_ROOT + rest
    for rest in """
    1.1 1.3.10 1.9 1.20.1 1.20.2 1.40 1.42 3.1.2.1.1 3.1.2.1.4 3.1.2.2.1 3.1.2.3.1 3.1.2.3.2 3.1.2.3.3
    3.1.2.3.4 3.1.2.3.5 3.1.2.5.1 3.1.2.5.4 3.1.2.5.5 3.1.2.6.1 5.1.1.1 5.1.1.2 5.1.1.4 5.1.1.4.1 5.1.1.4.2
    5.1.1.9 5.1.1.9.1 5.1.1.14 5.1.1.15 5.1.1.16 5.1.1.16.376 5.1.1.18 5.1.1.18.1 5.1.1.22 5.1.1.23 5.1.1.24
    5.1.1.24.1 5.1.1.26 5.1.1.31 5.1.1.32 5.1.1.33 5.1.1.40 5.1.4.1.2.1.1 5.1.4.1.2.1.2 5.1.4.1.2.1.3
    5.1.4.1.2.2.1 5.1.4.1.2.2.2 5.1.4.1.2.2.3 5.1.4.1.2.3.1 5.1.4.1.2.3.2 5.1.4.1.2.3.3 5.1.4.1.2.4.2
    5.1.4.1.2.4.3 5.1.4.1.2.5.3 5.1.4.20.1 5.1.4.20.2 5.1.4.20.3 5.1.4.31 5.1.4.32 5.1.4.32.1 5.1.4.32.2
    5.1.4.32.3 5.1.4.33 5.1.4.34.2 5.1.4.34.3 5.1.4.34.4.1 5.1.4.34.4.2 5.1.4.34.4.3 5.1.4.34.4.4
    5.1.4.34.6.1 5.1.4.34.6.2 5.1.4.34.6.3 5.1.4.34.6.4 5.1.4.34.6.5 5.1.4.34.8 5.1.4.34.9 5.1.4.37.1
    5.1.4.37.2 5.1.4.37.3 5.1.4.38.2 5.1.4.38.3 5.1.4.38.4 5.1.4.39.2 5.1.4.39.3 5.1.4.39.4 5.1.4.41
    5.1.4.42 5.1.4.43.2 5.1.4.43.3 5.1.4.43.4 5.1.4.44.2 5.1.4.44.3 5.1.4.44.4 5.1.4.45.2 5.1.4.45.3
    5.1.4.45.4 10.1 10.2 10.3 10.4
    """.split()  # noqa: SIM905  # one line for each quoted string would take a hundred
)
_SMPTE_ARC: Final = "1.2.840.10008.1.2.7"
# JPIP keeps the pixels elsewhere, SMPTE ST 2110 is live video, MIME and XML are retired.
REFUSED_TRANSFER_SYNTAXES: Final = frozenset(
    {IMPLICIT_VR_LITTLE_ENDIAN + last for last in (".4.94", ".4.95", ".4.204", ".4.205", ".6.1", ".6.2")}
)

_USABLE: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_LEADING_ZERO: Final = re.compile(r"(?:^|\.)0[0-9]")


def strip_padding(value: bytes) -> str:
    """Return a UID's text without trailing NULs and spaces; bytes above 7F become U+FFFD, which no UID holds."""
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def is_usable(uid: str) -> bool:
    """Tell whether a received UID may be stored and made part of a path or key (PS3.5 9.1).

    Leading zeros in a component are let pass: many devices write them; `has_leading_zero` finds them.
    """
    return len(uid) <= MAX_UID_LENGTH and _USABLE.fullmatch(uid) is not None


def has_leading_zero(uid: str) -> bool:
    """Tell whether a component starts with a zero it must not have (PS3.5 9.1)."""
    return _LEADING_ZERO.search(uid) is not None


def is_private(uid: str) -> bool:
    """Tell whether a UID lies outside the standard's root."""
    return not f"{uid}.".startswith(_STANDARD_ROOT)


def is_storage_sop_class(uid: str) -> bool:
    """Tell whether objects of this SOP class are stored: patient objects, private and future ones included.

    Private classes count as storage, since nothing else that is served has a private class and a wrong guess
    ends in a refused object, not in a lost one (PS3.4 B.4.1.1, Storage Level 2).
    """
    if not is_usable(uid):
        return False
    if is_private(uid) or uid in STORAGE_OUTSIDE_ARC:
        return True
    return uid.startswith(_STORAGE_ARC) and not is_other_sop_class(uid)


def is_other_sop_class(uid: str) -> bool:
    """Tell whether the standard registers this SOP class, and for something else than storing patient objects."""
    return uid in _OTHER_SOP_CLASSES or uid in QUERY_SOP_CLASSES_IN_STORAGE_ARC or uid in NON_PATIENT_SOP_CLASSES


def is_storage_transfer_syntax(uid: str) -> bool:
    """Tell whether objects in this transfer syntax are stored as they come.

    All of the arc of Implicit VR Little Endian is, but syntaxes whose pixels are elsewhere, live or retired.
    """
    in_arc = uid == IMPLICIT_VR_LITTLE_ENDIAN or uid.startswith(IMPLICIT_VR_LITTLE_ENDIAN + ".")
    return (
        in_arc
        and is_usable(uid)
        and uid not in REFUSED_TRANSFER_SYNTAXES
        and not (uid == _SMPTE_ARC or uid.startswith(_SMPTE_ARC + "."))
    )
