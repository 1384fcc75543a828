"""Data sets made at random from a seed: indexed attributes under any VR, in any character set, whole and broken."""

import random
import struct

from data_sets import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, JPEG, deflate, element, item, sequence

from dicomflow.dicom.attributes import ATTRIBUTES
from dicomflow.dicom.part10 import encode_file_meta

CT = "1.2.840.10008.5.1.4.1.1.2"
_UIDS = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
_OTHERS = tuple(attribute for attribute in ATTRIBUTES if attribute.tag not in {*_UIDS, 0x00020010, 0x00080005})
_VRS = (
    *"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split(),  # noqa: SIM905  # the standard's list
    *("??", "  ", "\0\0", "RE", "ZZ"),
)
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_CHARACTER_SETS = (
    *(
        b"ISO_IR 100",
        b"ISO_IR 192",
        b"GB18030",
        b"\\ISO 2022 IR 87",
        b"\\ISO 2022 IR 58",
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
    ),
    *(
        b"\\ISO 2022 IR 149",
        b"UNDEFINED",
        b"IDNA",
        b"ISO_IR\x00100",
        b"ISO_IR 203",
        b"KLINGON",
        b"",
        b"\xff\xfe",
        b"hex",
    ),
    *(
        b"punycode",
        b"utf_16",
        b"utf_7",
        b"unicode_escape",
        b"base64",
        b"rot13",
        b"mbcs",
        b"ISO_IR 166",
        b"ISO_IR 999999999",
    ),
)
_TEXTS = (
    *(
        b"",
        b" ",
        b"\0",
        b"Demo^Patient",
        b"M\xfcller^J\xf6rg",
        "王^小东".encode(),
        "王^小东".encode("gbk"),
        b"\xff" * 9,
    ),
    *(
        b"20260102",
        b"2026.01.02",
        b"20260230",
        b"00000101",
        b"99991231",
        b"101112.5",
        b"256061",
        b"20260102101112+0100",
    ),
    *(
        b"1",
        b"-1",
        b"+5",
        b"1.5",
        b"1e999",
        b"NaN",
        b"inf",
        b"9" * 19,
        b"9" * 40,
        b"-9223372036854775809",
        b"1_0",
        b"\xb2",
    ),
    *(
        b"A\\B",
        b"\\",
        b"\\\\\\",
        b"0.5\\0.25",
        b"0.5\\",
        b"1\\x",
        b"a=b=c",
        b"a\0b",
        b"\x1b$B;3ED\x1b(B^\x1b$",
        b"\x1b\x1b",
    ),
    *(
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xef\xbf\xbf",
        b"\xc0\x80",
        b"\x1b-L\xbb\xee",
        b"\x1b$)A\xd5",
        b"x" * 300,
    ),
    *(b"1.2.3", b"1..2", b"2.25." + b"9" * 60, b"\x84\x31\xa4\x37", b"\xfe\xff\0\xe0\0\0\0\0", b"\xf0\x9f\x98\x80" * 9),
)


def random_object(source: random.Random, number: int) -> tuple[str, bytes]:
    """Return an object's SOP Instance UID and its bytes; the receiver would have stored most of them."""
    uid = f"1.2.3.{number}"
    declared = source.choice((EXPLICIT,) * 6 + (IMPLICIT, BIG_ENDIAN, DEFLATED, JPEG))
    actual = EXPLICIT if declared in {DEFLATED, JPEG} else declared
    if source.random() < 0.1:
        actual = source.choice((EXPLICIT, IMPLICIT, BIG_ENDIAN))
    data_set = _random_data_set(source, uid, actual)
    if source.random() < 0.1:
        data_set = _broken(source, data_set)
    if declared == DEFLATED:
        data_set = deflate(data_set)
    calling = source.choice(("CT1", "MR", "A B"))
    return uid, encode_file_meta(CT, uid, declared, calling, "EDGE") + data_set


def _random_data_set(source: random.Random, uid: str, syntax: str) -> bytes:
    study = source.randrange(40)
    parts = {
        0x00080016: element(0x00080016, "UI", CT.encode() + b"\0", syntax),
        0x00080018: element(0x00080018, "UI", uid.encode(), syntax),
        0x0020000D: element(0x0020000D, "UI", f"1.2.{study}".encode(), syntax),
        0x0020000E: element(0x0020000E, "UI", f"1.2.{study}.{source.randrange(3)}".encode(), syntax),
    }
    if source.random() < 0.7:
        value = source.choice(_CHARACTER_SETS)
        parts[0x00080005] = element(0x00080005, "CS", value, syntax)
    for attribute in source.sample(_OTHERS, source.randrange(2, 9)):
        vr = attribute.vr if source.random() < 0.6 else source.choice(_VRS)
        parts[attribute.tag] = _random_element(source, attribute.tag, vr, syntax)
    order = sorted(parts)
    if source.random() < 0.05:
        source.shuffle(order)
    return b"".join(parts[tag] for tag in order)


def _random_element(source: random.Random, tag: int, vr: str, syntax: str) -> bytes:
    value = source.choice(_TEXTS) if source.random() < 0.8 else source.randbytes(source.choice((1, 2, 4, 8, 8, 30)))
    if vr == "SQ" and source.random() < 0.8:
        inner = element(0x00080100, "SH", value, syntax) + element(
            0x00080104, source.choice(("LO", "IS", "DS")), value, syntax
        )
        if source.random() < 0.2:
            inner = element(0x00080005, "CS", source.choice(_CHARACTER_SETS), syntax) + inner
        return sequence(tag, item(inner, syntax, defined=source.random() < 0.5), syntax=syntax)
    if syntax == IMPLICIT:
        return element(tag, vr, value, syntax)
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in _LONG:
        return head + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + struct.pack(order + "H", len(value)) + value


def _broken(source: random.Random, data_set: bytes) -> bytes:
    changed = bytearray(data_set)
    for _ in range(source.randrange(1, 4)):
        place = source.randrange(len(changed))
        how = source.randrange(3)
        if how == 0:
            changed[place] = source.randrange(256)
        elif how == 1:
            del changed[place : place + source.randrange(1, 20)]
        else:
            changed[place:place] = source.randbytes(source.randrange(1, 9))
        if not changed:
            break
    return bytes(changed)
