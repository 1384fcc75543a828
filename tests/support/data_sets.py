"""Data sets in every encoding, element by element; and the kinds that are odd, which devices send all the same."""

import struct
import zlib
from collections.abc import Callable

from dicomflow.dicom.scan import Identity

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
UNDEFINED = 0xFFFFFFFF
LONG_FORM = {"OB", "OW", "SQ", "UC", "UN", "UT"}

CLASS, INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
IDENTITY = Identity(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.3.4\0", b"1.2.5\0", b"1.2.6\0")


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """Encode an element; `length` replaces the true one."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT or tag >> 16 == 0xFFFE:
        return head + struct.pack(order + "I", size) + value
    if vr in LONG_FORM:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", size) + value
    return head + vr.encode() + struct.pack(order + "H", size & 0xFFFF) + value


def item(value: bytes, syntax: str = EXPLICIT, *, defined: bool = False) -> bytes:
    """Encode an item of a sequence."""
    if defined:
        return element(0xFFFEE000, "", value, syntax)
    return element(0xFFFEE000, "", value, syntax, UNDEFINED) + element(0xFFFEE00D, "", b"", syntax)


def sequence(tag: int, *items: bytes, syntax: str = EXPLICIT, defined: bool = False) -> bytes:
    """Encode a sequence."""
    value = b"".join(items)
    if defined:
        return element(tag, "SQ", value, syntax)
    return element(tag, "SQ", value, syntax, UNDEFINED) + element(0xFFFEE0DD, "", b"", syntax)


def identifying(syntax: str = EXPLICIT, between: bytes = b"", after: bytes = b"", **replaced: bytes | None) -> bytes:
    """Encode a data set that the scan should understand; None leaves an element out."""
    values = {
        "sop_class": (CLASS, IDENTITY.sop_class_uid),
        "sop_instance": (INSTANCE, IDENTITY.sop_instance_uid),
        "study": (STUDY, IDENTITY.study_instance_uid),
        "series": (SERIES, IDENTITY.series_instance_uid),
    }
    encoded = element(0x00080005, "CS", b"ISO_IR 100", syntax)
    for name, (tag, usual) in values.items():
        if name == "study":
            encoded += between
        value = replaced.get(name, usual)
        if value is not None:
            encoded += element(tag, "UI", value, syntax)
    return encoded + after + element(0x00280010, "US", b"\0\1", syntax)


def deflate(data_set: bytes) -> bytes:
    """Deflate a data set without a header of zlib's, padded to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(data_set) + deflater.flush()
    return deflated + b"\0" * (len(deflated) % 2)


def private_of(size: int, syntax: str = EXPLICIT) -> bytes:
    """Encode private elements of the group before 0020 that take about so many bytes."""
    whole, rest = divmod(size, 60_000)
    values = [bytes(60_000)] * whole + [bytes(rest // 2 * 2)]
    return b"".join(element(0x00111000 + number, "LT", value, syntax) for number, value in enumerate(values))


def references_of(size: int, syntax: str = EXPLICIT, *, defined: bool = False) -> bytes:
    """Encode a sequence of references to images that takes about so many bytes, as a presentation state holds it."""
    uid = b"1.2.840.113619.2.55.3.604688119.969.1199113311.0000001"
    reference = element(0x00081150, "UI", IDENTITY.sop_class_uid or b"", syntax)
    reference += element(0x00081155, "UI", uid, syntax)
    images = [item(reference, syntax, defined=defined)] * (size // len(item(reference, syntax, defined=defined)))
    if defined and syntax != IMPLICIT and size > 0xFFFF:
        return sequence(0x00081140, *images, syntax=syntax, defined=True)
    series = sequence(0x00081140, *images, syntax=syntax, defined=defined) + element(SERIES, "UI", b"9.9.9\0", syntax)
    return sequence(0x00081115, item(series, syntax, defined=defined), syntax=syntax, defined=defined)


def header_of_vr(tag: int, vr: bytes, value: bytes) -> bytes:
    """Encode an element with any two letters in the place of the VR, and a length of two bytes."""
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + struct.pack("<H", len(value)) + value


def swapped(*, last: int) -> bytes:
    """Encode a data set whose Study and Series UID stand behind another element."""
    plain = identifying(study=None, series=None, after=element(0x00280002, "US", b"\1\0"))
    uids = element(STUDY, "UI", b"1.2.5\0") + element(SERIES, "UI", b"1.2.6\0")
    return plain + element(last, "OW", bytes(5000)) + uids


def _odd(encoded: bytes) -> bytes:
    return identifying(between=encoded)


# Each readable, though not as the standard has it: a name, the declared transfer syntax, and how it is made.
_IN_UN = element(0x00091010, "UN", item(element(0x00081155, "UI", b"9.9\0", IMPLICIT), IMPLICIT), length=UNDEFINED)
_END = element(0xFFFEE0DD, "", b"")
ODD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "implicit declared explicit": (EXPLICIT, lambda: identifying(IMPLICIT)),
    "explicit declared implicit": (IMPLICIT, lambda: identifying(EXPLICIT)),
    "big endian declared little": (EXPLICIT, lambda: identifying(BIG_ENDIAN)),
    "little endian declared big": (BIG_ENDIAN, lambda: identifying(EXPLICIT)),
    "big endian declared implicit": (IMPLICIT, lambda: identifying(BIG_ENDIAN)),
    "implicit declared compressed": (JPEG, lambda: identifying(IMPLICIT)),
    "implicit declared deflated": (DEFLATED, lambda: deflate(identifying(IMPLICIT))),
    "plain declared deflated": (DEFLATED, identifying),
    "deflated with zlib's header": (DEFLATED, lambda: zlib.compress(identifying())),
    "uids behind group 0028": (EXPLICIT, lambda: swapped(last=0x00281201)),
    "uids behind the pixels": (EXPLICIT, lambda: swapped(last=0x7FE00010)),
    "uids behind compressed pixels": (
        JPEG,
        lambda: (
            identifying(study=None, series=None)
            + element(0x7FE00010, "OB", item(b"", defined=True) + item(bytes(70_000), defined=True), length=UNDEFINED)
            + _END
            + element(STUDY, "UI", b"1.2.5\0")
            + element(SERIES, "UI", b"1.2.6\0")
        ),
    ),
    "series before study": (
        EXPLICIT,
        lambda: identifying(study=None, after=element(0x00200010, "SH", b"1 ") + element(STUDY, "UI", b"1.2.5\0")),
    ),
    "class behind the rest": (
        EXPLICIT,
        lambda: identifying(sop_class=None, after=element(CLASS, "UI", IDENTITY.sop_class_uid or b"")),
    ),
    **{
        f"vr {vr!r}": (EXPLICIT, lambda vr=vr: _odd(header_of_vr(0x00080070, vr, b"ACME")))  # type: ignore[misc]
        for vr in (b"RE", b"  ", b"\0\0", b"??", b"\xff\xff", b"xs", b"--")
    },
    **{
        f"vr {vr!r} just before": (EXPLICIT, lambda vr=vr: _odd(header_of_vr(0x00200005, vr, b"L\\P ")))  # type: ignore[misc]
        for vr in (b"RE", b"  ", b"\0\0", b"??")
    },
    "vr of a later edition": (
        EXPLICIT,
        lambda: _odd(struct.pack("<HH2s2xI", 0x0009, 0x1010, b"ZZ", 70_000) + bytes(70_000)),
    ),
    "implicit among explicit": (EXPLICIT, lambda: _odd(element(0x00080070, "", b"ACME", IMPLICIT))),
    "implicit among explicit, long": (EXPLICIT, lambda: _odd(element(0x00080070, "", b"A" * 0x200A, IMPLICIT))),
    "several implicit among explicit": (
        EXPLICIT,
        lambda: _odd(b"".join(element(0x00080070 + n, "", b"ACME" * n, IMPLICIT) for n in range(4))),
    ),
    "vr unknown within an item": (
        EXPLICIT,
        lambda: _odd(sequence(0x00081140, item(header_of_vr(0x00081150, b"??", b"1.2\0")))),
    ),
    "implicit within a sequence": (
        EXPLICIT,
        lambda: _odd(sequence(0x00081140, item(element(0x00081155, "", b"9.9.9\0", IMPLICIT)))),
    ),
    "un of undefined length": (EXPLICIT, lambda: _odd(_IN_UN + _END)),
    "un of undefined length in explicit vr": (
        EXPLICIT,
        lambda: _odd(element(0x00091010, "UN", item(element(0x00081155, "UI", b"9.9\0")) * 2, length=UNDEFINED) + _END),
    ),
    "un with a length of two bytes": (EXPLICIT, lambda: _odd(header_of_vr(0x00091010, b"UN", b"abcd"))),
    "delimiter too many": (EXPLICIT, lambda: _odd(_END)),
    "first element of no vr": (
        EXPLICIT,
        lambda: header_of_vr(0x00080001, b"??", b"abcd") + identifying(),
    ),
    "group length elements": (IMPLICIT, lambda: element(0x00080000, "UL", bytes(4), IMPLICIT) + identifying(IMPLICIT)),
    "uids as text": (
        EXPLICIT,
        lambda: (
            identifying(study=None, series=None, after=b"").replace(b"UI", b"LO")
            + element(STUDY, "UN", b"1.2.5\0")
            + element(SERIES, "UC", b"1.2.6\0")
        ),
    ),
}
