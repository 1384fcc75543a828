"""Objects of a site: small Part 10 files, and what devices do to some of them."""

import random
import struct
from encodings.aliases import aliases

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
SURNAMES = ("Zwiebel", "Quark", "Ypsilon", "Xanthos")
"""Of every patient's name: none of them may be in a log line."""

_LONG = {b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR", b"OD", b"OF"}
_CHARSETS = (
    *(b"ISO_IR 100", b"ISO_IR 192", b"ISO_IR 101", b"ISO 2022 IR 87", b"ISO_IR 999", b"GB18030", b"", b"hex"),
    *(b"\\ISO 2022 IR 149", b"ISO 2022 IR 58", b"latin-1", b"utf8", b"ISO_IR 203", b"ISO-IR 100", b"cp037"),
    # A device may write anything: what is no defined term, some library may take for a codec of its own.
    *sorted({name.upper().encode() for name in aliases.values()} | {b"UNDEFINED", b"IDNA", b"PUNYCODE"}),
)
_TEXTS = (
    *(b"", b"1e400", b"NaN", b"9" * 30, b"inf", b"-0", b"\xff\xfe\x00", b"20269999", b"a\\b\\c", b"x" * 300),
    *(b"1_000", b"\xd9\xa3"),
)
_VRS = (*(b"UN", b"FD", b"SL", b"AT", b"DS", b"IS", b"DA", b"TM", b"OB"), *(b"SQ", b"UT", b"ZZ", b"FL", b"US"))
_IDENTITY = ((0x20, 0xD), (0x20, 0xE), (8, 0x18), (0x7FE0, 0x10))

Elements = dict[tuple[int, int], tuple[bytes, bytes]]


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Return an element in Explicit VR Little Endian."""
    value += (b"\0" if vr in {b"UI", b"OB", b"OW"} else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", group, number, vr)
    size = struct.pack("<2xI", len(value)) if vr in _LONG else struct.pack("<H", len(value) & 0xFFFF)
    return head + size + value


def encode(elements: Elements) -> bytes:
    """Return a Part 10 file."""
    texts = {2: CT, 3: elements[8, 0x18][1].decode(), 0x10: EXPLICIT_LITTLE, 0x12: "1.2.3.4"}
    meta = element(2, 1, b"OB", b"\0\1")
    meta += b"".join(element(2, number, b"UI", text.encode()) for number, text in texts.items())
    meta += element(2, 0x16, b"AE", b"SITE")
    meta = element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta
    return b"\0" * 128 + b"DICM" + meta + b"".join(element(*tag, *value) for tag, value in sorted(elements.items()))


def elements_of(study: dict, series: str, sop: str, number: int, pixels: bytes) -> Elements:
    """Return a good image's elements."""
    return {
        (8, 5): (b"CS", b"ISO_IR 192"),
        (8, 0x16): (b"UI", CT.encode()),
        (8, 0x18): (b"UI", sop.encode()),
        (8, 0x20): (b"DA", study["date"].encode()),
        (8, 0x30): (b"TM", b"101112"),
        (8, 0x50): (b"SH", study["accession"].encode()),
        (8, 0x60): (b"CS", study["modality"].encode()),
        (8, 0x1030): (b"LO", study["description"].encode()),
        (0x10, 0x10): (b"PN", study["name"].encode()),
        (0x10, 0x20): (b"LO", study["patient"].encode()),
        (0x10, 0x30): (b"DA", b"19700101"),
        (0x10, 0x40): (b"CS", b"F"),
        (0x18, 0x50): (b"DS", b"1.25"),
        (0x20, 0xD): (b"UI", study["uid"].encode()),
        (0x20, 0xE): (b"UI", series.encode()),
        (0x20, 0x10): (b"SH", b"S1"),
        (0x20, 0x11): (b"IS", b"1"),
        (0x20, 0x13): (b"IS", str(number).encode()),
        (0x28, 0x10): (b"US", struct.pack("<H", 8)),
        (0x28, 0x11): (b"US", struct.pack("<H", 8)),
        (0x7FE0, 0x10): (b"OW", pixels),
    }


def spoil(rng: random.Random, elements: Elements) -> bytes:
    """Return an object that is odd in one place: a character set, a value, a VR, an element left out; cut; garbage."""
    elements, draw = dict(elements), rng.random()
    content = encode(elements)
    if draw < 0.25:
        elements[8, 5] = (b"CS", rng.choice(_CHARSETS) if rng.random() < 0.9 else rng.randbytes(8))
        names = (b"M\xfcller^\xc4da", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:", b"\xd0\xd7\xcd\xfe", rng.randbytes(9))
        elements[0x10, 0x10] = (b"PN", rng.choice(names))
        return encode(elements)
    if draw < 0.75:
        tag = rng.choice([tag for tag in elements if tag not in _IDENTITY])
        vr, value = elements.pop(tag)
        elements |= {
            0: {},
            1: {tag: (vr, rng.choice(_TEXTS))},
            2: {tag: (vr, rng.randbytes(rng.randrange(1, 40)))},
            3: {tag: (rng.choice(_VRS), value)},
            4: {tag: (rng.choice((b"FD", b"FL", b"US", b"UL", b"SS")), rng.randbytes(rng.choice((1, 2, 4, 8))))},
        }[rng.randrange(5)]
        return encode(elements)
    if draw < 0.85:
        return content[: rng.randrange(1, len(content))]
    if draw < 0.93:
        return rng.randbytes(300) if draw < 0.9 else b""
    position = rng.randrange(132, len(content) - 20)
    return content[:position] + rng.randbytes(3) + content[position + 3 :]
