"""Association requests and command sets with one flaw each, encoded by hand: the codec under test writes none of them.

Every request proposes context 1 (CT, Explicit VR Little Endian), which is good; the flaw stands beside it.
"""

import struct
from typing import Final

__all__ = [
    "CT",
    "FLAWED_COMMANDS",
    "FLAWED_REQUESTS",
    "GOOD",
    "REFUSED_BY_DCMTK",
    "USER",
    "element",
    "item",
    "request",
    "store_command",
]

CT: Final = b"1.2.840.10008.5.1.4.1.1.2"
MR: Final = b"1.2.840.10008.5.1.4.1.1.4"
EXPLICIT: Final = b"1.2.840.10008.1.2.1"
IMPLICIT: Final = b"1.2.840.10008.1.2"
LONG: Final = b"1." * 34 + b"22"


def item(kind: int, value: bytes, length: int | None = None) -> bytes:
    """Encode an item or sub-item, perhaps with a length that is not its own."""
    return struct.pack(">BxH", kind, len(value) if length is None else length) + value


def context(number: int, *sub_items: bytes, length: int | None = None) -> bytes:
    """Encode a presentation context of a request."""
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(sub_items), length)


def abstract(uid: bytes) -> bytes:
    """Encode an abstract syntax."""
    return item(0x30, uid)


def transfer(uid: bytes) -> bytes:
    """Encode a transfer syntax."""
    return item(0x40, uid)


GOOD: Final = context(1, abstract(CT), transfer(EXPLICIT))
MAX_LENGTH: Final = item(0x51, struct.pack(">I", 16384))
CLASS_UID: Final = item(0x52, b"1.2.3")
VERSION: Final = item(0x55, b"FLAWED")
USER: Final = MAX_LENGTH + CLASS_UID + VERSION


def request(contexts: bytes = GOOD, user: bytes | None = item(0x50, USER), *, rest: bytes = b"") -> bytes:
    """Encode an A-ASSOCIATE-RQ."""
    fixed = struct.pack(">H2x16s16s32x", 1, b"DICOMFLOW".ljust(16), b"CT1".ljust(16))
    body = fixed + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + (user or b"") + rest
    return struct.pack(">BxI", 1, len(body)) + body


def _counted(value: bytes, length: int | None = None) -> bytes:
    return struct.pack(">H", len(value) if length is None else length) + value


_CONTEXTS: Final = {
    "letters in the abstract syntax": context(3, abstract(b"1.2.abc.4"), transfer(EXPLICIT)),
    "abstract syntax of 70 characters": context(3, abstract(LONG), transfer(EXPLICIT)),
    "empty abstract syntax": context(3, abstract(b""), transfer(EXPLICIT)),
    "abstract syntax of bytes": context(3, abstract(bytes(range(128, 160))), transfer(EXPLICIT)),
    "abstract syntax with junk behind a NUL": context(3, abstract(CT + b"\0junk"), transfer(EXPLICIT)),
    "no abstract syntax": context(3, transfer(EXPLICIT)),
    "two abstract syntaxes": context(3, abstract(CT), abstract(MR), transfer(EXPLICIT)),
    "no transfer syntax": context(3, abstract(CT)),
    "empty transfer syntax": context(3, abstract(CT), transfer(b"")),
    "transfer syntax of 70 characters": context(3, abstract(CT), transfer(LONG), transfer(EXPLICIT)),
    "transfer syntax of letters": context(3, abstract(CT), transfer(b"explicit"), transfer(EXPLICIT)),
    "the same transfer syntax twice": context(3, abstract(CT), transfer(EXPLICIT), transfer(EXPLICIT)),
    "transfer syntax before abstract syntax": context(3, transfer(EXPLICIT), abstract(CT)),
    "even ID": context(4, abstract(CT), transfer(EXPLICIT)),
    "ID 0": context(0, abstract(CT), transfer(EXPLICIT)),
    "ID 255": context(255, abstract(CT), transfer(EXPLICIT)),
    "ID twice, the same": GOOD,
    "ID twice, another abstract syntax": context(1, abstract(MR), transfer(EXPLICIT)),
    "ID twice, another transfer syntax": context(1, abstract(CT), transfer(IMPLICIT)),
    "nothing but an ID": context(3),
    "empty context": item(0x20, b""),
    "context of one byte": item(0x20, b"\3"),
    "context of three bytes": item(0x20, b"\3\0\0"),
    "unknown sub-item": context(3, abstract(CT), item(0x99, b"x"), transfer(EXPLICIT)),
    "sub-item longer than its context": context(3, abstract(CT), item(0x40, EXPLICIT, 300)),
    "abstract syntax longer than its context": context(3, item(0x30, CT, 3000)),
    "half a sub-item header behind": context(3, abstract(CT), transfer(EXPLICIT), b"\x40\0"),
    "padding behind the sub-items": context(3, abstract(CT), transfer(EXPLICIT), bytes(6)),
    "padded with NULs": context(3, abstract(CT + b"\0"), transfer(EXPLICIT + b"\0\0")),
    "padded with spaces": context(3, abstract(CT + b" "), transfer(EXPLICIT + b"  ")),
    "leading spaces": context(3, abstract(b" " + CT), transfer(b" " + EXPLICIT)),
    "an answered context": item(0x21, bytes((3, 0, 0, 0)) + transfer(EXPLICIT)),
    "unknown item": item(0x99, b"xyz"),
    "empty item of type 0": item(0, b""),
}
_USERS: Final = {
    "maximum length of two bytes": item(0x51, b"\x40\0") + CLASS_UID + VERSION,
    "maximum length of eight bytes": item(0x51, bytes(4) + struct.pack(">I", 16384)) + CLASS_UID + VERSION,
    "empty maximum length": item(0x51, b"") + CLASS_UID + VERSION,
    "no maximum length": CLASS_UID + VERSION,
    "maximum length twice": MAX_LENGTH + item(0x51, struct.pack(">I", 32768)) + CLASS_UID,
    "nothing in it": b"",
    "no implementation class UID": MAX_LENGTH + VERSION,
    "implementation class UID of 70 characters": MAX_LENGTH + item(0x52, LONG),
    "implementation class UID of bytes": MAX_LENGTH + item(0x52, b"\xff\xfe\0\1"),
    "implementation class UID twice": USER + CLASS_UID,
    "version name of 40 characters": MAX_LENGTH + CLASS_UID + item(0x55, b"V" * 40),
    "version name of bytes": MAX_LENGTH + CLASS_UID + item(0x55, b"\xc4\n\0\x1b"),
    "empty version name": MAX_LENGTH + CLASS_UID + item(0x55, b""),
    "window of two bytes": USER + item(0x53, b"\0\1"),
    "empty window": USER + item(0x53, b""),
    "window twice": USER + item(0x53, b"\0\1\0\1") * 2,
    "empty role": USER + item(0x54, b""),
    "role without roles": USER + item(0x54, _counted(MR)),
    "role with a byte too many": USER + item(0x54, _counted(MR) + b"\1\0\0"),
    "role whose UID runs past it": USER + item(0x54, _counted(MR, 200) + b"\1\0"),
    "role of no UID": USER + item(0x54, _counted(b"") + b"\1\0"),
    "role of values 2 and 3": USER + item(0x54, _counted(MR) + b"\2\3"),
    "role twice": USER + item(0x54, _counted(MR) + b"\1\0") * 2,
    "extended negotiation of one byte": USER + item(0x56, b"\1"),
    "extended negotiation whose UID runs past it": USER + item(0x56, _counted(CT, 500)),
    "empty common extended negotiation": USER + item(0x57, b""),
    "common extended negotiation cut short": USER + item(0x57, _counted(MR) + _counted(b"1.2.840.10008.4.2")[:7]),
    "common extended negotiation of bad related classes": USER
    + item(0x57, _counted(MR) + _counted(b"1.2.840.10008.4.2") + _counted(_counted(CT, 99))),
    "empty user identity": USER + item(0x58, b""),
    "user identity whose name runs past it": USER + item(0x58, b"\2\0" + _counted(b"ct1", 99)),
    "user identity of type 77": USER + item(0x58, b"\x4d\0" + _counted(b"ct1") + _counted(b"")),
    "user identity twice": USER + item(0x58, b"\1\0" + _counted(b"ct1") + _counted(b"")) * 2,
    "user identity response": USER + item(0x59, _counted(b"no")),
    "unknown sub-item": USER + item(0xEE, b"whatever"),
    "sub-item longer than the item": USER + item(0x54, b"\0\1", 900),
    "half a sub-item header behind": USER + b"\x54\0",
    "padding behind the sub-items": USER + bytes(7),
}

FLAWED_REQUESTS: Final[dict[str, bytes]] = {
    **{f"context: {name}": request(GOOD + flaw) for name, flaw in _CONTEXTS.items()},
    **{f"context before: {name}": request(flaw + GOOD) for name, flaw in _CONTEXTS.items() if "ID twice" not in name},
    **{f"user information: {name}": request(user=item(0x50, flaw)) for name, flaw in _USERS.items()},
    "no user information": request(user=None),
    "user information twice": request(user=item(0x50, USER) * 2),
    "user information in two items": request(user=item(0x50, MAX_LENGTH) + item(0x50, CLASS_UID + VERSION)),
    "user information before the contexts": request(contexts=item(0x50, USER) + GOOD, user=None),
    "padding behind the items": request(rest=bytes(3)),
    "more padding behind the items": request(rest=bytes(8)),
}

# What DCMTK 3.6.7's storescp hangs up on, with the flaw before or behind the good context; it takes all the others.
REFUSED_BY_DCMTK: Final = frozenset(
    {
        "abstract syntax of 70 characters",
        "no transfer syntax",
        "transfer syntax of 70 characters",
        "nothing but an ID",
        "empty context",
        "context of one byte",
        "context of three bytes",
        "sub-item longer than its context",
        "abstract syntax longer than its context",
        "half a sub-item header behind",
        "padding behind the sub-items",
        "implementation class UID of 70 characters",
        "empty role",
        "role without roles",
        "role whose UID runs past it",
        "extended negotiation of one byte",
        "extended negotiation whose UID runs past it",
        "empty user identity",
        "user identity whose name runs past it",
        "user identity response",
        "sub-item longer than the item",
        "padding behind the items",
    }
)


def element(number: int, value: bytes, length: int | None = None, group: int = 0) -> bytes:
    """Encode an element of a command set, perhaps with a length that is not its own."""
    return struct.pack("<HHI", group, number, len(value) if length is None else length) + value


def store_command(
    uid: bytes, changes: dict[int, bytes] | None = None, *, rest: bytes = b"", message_id: int = 1
) -> bytes:
    """Encode a C-STORE-RQ of a CT; `changes` replaces encoded elements by their number, b"" leaves one out."""
    elements = {
        0x0002: element(0x0002, CT + b"\0"),
        0x0100: element(0x0100, b"\1\0"),
        0x0110: element(0x0110, struct.pack("<H", message_id)),
        0x0700: element(0x0700, b"\0\0"),
        0x0800: element(0x0800, b"\1\0"),
        0x1000: element(0x1000, uid + b"\0" * (len(uid) % 2)),
    }
    body = b"".join((elements | (changes or {})).values()) + rest
    return element(0, struct.pack("<I", len(body))) + body


def commands(uid: bytes) -> dict[str, bytes]:
    """Return C-STORE-RQs with one flaw each, of the instance `uid`."""
    return {
        "priority of four bytes": store_command(uid, {0x0700: element(0x0700, bytes(4))}),
        "priority of four bytes, LOW": store_command(uid, {0x0700: element(0x0700, b"\2\0\0\0")}),
        "priority of one byte": store_command(uid, {0x0700: element(0x0700, b"\0")}),
        "priority of eight bytes": store_command(uid, {0x0700: element(0x0700, bytes(8))}),
        "priority 77": store_command(uid, {0x0700: element(0x0700, b"\x4d\0")}),
        "empty priority": store_command(uid, {0x0700: element(0x0700, b"")}),
        "no priority": store_command(uid, {0x0700: b""}),
        "message ID of four bytes": store_command(uid, {0x0110: element(0x0110, b"\1\0\0\0")}),
        "command field of four bytes": store_command(uid, {0x0100: element(0x0100, b"\1\0\0\0")}),
        "data set type of four bytes": store_command(uid, {0x0800: element(0x0800, b"\1\0\0\0")}),
        "data set type 0": store_command(uid, {0x0800: element(0x0800, b"\0\0")}),
        "SOP class UID of odd length": store_command(uid, {0x0002: element(0x0002, CT)}),
        "SOP class UID padded with a space": store_command(uid, {0x0002: element(0x0002, CT + b" ")}),
        "SOP instance UID of odd length": store_command(
            uid, {0x1000: element(0x1000, uid + b"\0" * (1 - len(uid) % 2))}
        ),
        "three bytes of padding": store_command(uid, rest=bytes(3)),
        "eight bytes of padding": store_command(uid, rest=bytes(8)),
        "fourteen bytes of padding": store_command(uid, rest=bytes(14)),
        "spaces behind": store_command(uid, rest=b"    "),
        "no group length": store_command(uid)[12:],
        "wrong group length": element(0, b"\xff\0\0\0") + store_command(uid)[12:],
        "group length of two bytes": element(0, b"\x4c\0") + store_command(uid)[12:],
        "an unknown element": store_command(uid, rest=element(0x5110, b"x " * 7)),
        "an element that runs past the end": store_command(uid, rest=element(0x1030, b"VIEWER", 600)),
        "an element of another group": store_command(uid, rest=element(0x0018, b"1.2.3\0", group=8)),
        "an element twice": store_command(uid, rest=element(0x0700, b"\2\0")),
        "elements in descending order": store_command(uid)[:12]
        + element(0x1000, uid + b"\0" * (len(uid) % 2))
        + element(0x0800, b"\1\0")
        + element(0x0110, b"\1\0")
        + element(0x0100, b"\1\0")
        + element(0x0002, CT + b"\0"),
        "move originator without its message ID": store_command(uid, rest=element(0x1030, b"VIEWER")),
        "move originator message ID of four bytes": store_command(uid, rest=element(0x1031, b"\5\0\0\0")),
        "move originator of bytes": store_command(uid, rest=element(0x1030, b"\xff\xfe\n\0")),
        "offending element of three bytes": store_command(uid, rest=element(0x0901, b"\1\2\3")),
    }


FLAWED_COMMANDS: Final[dict[str, bytes]] = commands(b"1.2.3.4")
