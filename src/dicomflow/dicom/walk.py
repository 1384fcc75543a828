"""A data set's elements from a file, one behind the other, within a stated bound of time and memory (PS3.5 7).

This is the patient reader, for what the two quick walks over an object's first kilobytes cannot read: UIDs behind much
else or out of order, sequences of undefined length that are long, VRs that no edition knows, elements in implicit VR
among explicit ones. Values are sought over and nesting is a list of flags, so that a hostile data set costs no
recursion; what it costs is counted, and refused above `MAX_ELEMENTS`. Edge and index walk alike.
"""

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, NamedTuple

from dicomflow.dicom.encoding import (
    EXPLICIT,
    ITEM,
    ITEM_DELIMITATION,
    ITEM_GROUP,
    LONG_FORM_VRS,
    SEQUENCE_DELIMITATION,
    SHORT_FORM_VRS,
    UNDEFINED,
    Encoding,
    judge_encoding,
)
from dicomflow.dicom.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomflow.errors import PeerError

__all__ = ["MAX_ELEMENTS", "MAX_INFLATED_BYTES", "DataSet", "Element", "open_data_set"]

MAX_ELEMENTS: Final = 500_000
"""Elements and items that are looked at, at any depth: a presentation state of 5 MB has a third of it."""
MAX_INFLATED_BYTES: Final = 16 << 20
"""What is inflated of a deflated data set; its elements are all that is wanted, and pixel data stand behind them."""
# A deflated byte may stand for a thousand, so there each element beyond these must be paid for with a byte.
_FREE_ELEMENTS: Final = 200_000

_CHUNK_BYTES: Final = 64 << 10
# How many elements of no known VR on end are looked at to see whether the first may be read in one way.
_LOOK_AHEAD: Final = 3
_inflating: Final = threading.Lock()
"""One data set at a time is inflated in a process: memory stays bounded whatever many associations send."""


class Element(NamedTuple):
    """One element of the top level; offsets count from the data set's first byte, `vr` is "" where none is stated.

    `stop` is the offset behind the value, and behind the data set's end if it is cut short; `depth` how deep items of
    undefined length nest in it.
    """

    tag: int
    vr: str
    offset: int
    value: int
    length: int
    stop: int
    depth: int


@contextmanager
def open_data_set(file: BinaryIO, transfer_syntax_uid: str) -> Iterator["DataSet"]:
    """Open the data set that begins where the file stands; a deflated one is inflated first, as far as it is read.

    Raises:
        PeerError: a deflated data set cannot be inflated.
    """
    if transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        yield DataSet(file, transfer_syntax_uid, MAX_ELEMENTS)
        return
    start = file.tell()
    packed_bytes = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    with _inflating:
        inflated = inflate(file, MAX_INFLATED_BYTES)
        yield DataSet(io.BytesIO(inflated), transfer_syntax_uid, min(MAX_ELEMENTS, _FREE_ELEMENTS + packed_bytes))


def inflate(file: BinaryIO, most_bytes: int) -> bytes:
    """Inflate the head of a deflated data set, reading no more of it than that takes (PS3.5 A.5).

    Some devices write the header of zlib's that the standard leaves out, and some deflate nothing.
    """
    start = file.tell()
    inflated = bytearray()
    for window_bits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        file.seek(start)
        inflater = zlib.decompressobj(window_bits)
        inflated.clear()
        try:
            while len(inflated) < most_bytes and not inflater.eof and (chunk := file.read(_CHUNK_BYTES)):
                inflated += inflater.decompress(chunk, most_bytes - len(inflated))
        except zlib.error:
            if inflated:
                break  # it began well
        else:
            return bytes(inflated)
    file.seek(start)
    plain = file.read(_CHUNK_BYTES)
    if not inflated and judge_encoding(plain, IMPLICIT_VR_LITTLE_ENDIAN) == EXPLICIT:
        return plain + file.read(most_bytes - len(plain))
    raise PeerError("the deflated data set cannot be inflated")


class DataSet:
    """A data set in a seekable file, judged and read through a window. Thread: one owner."""

    def __init__(self, file: BinaryIO, transfer_syntax_uid: str, most_elements: int) -> None:
        self._file = file
        self._start = file.tell()
        self._end = file.seek(0, io.SEEK_END) - self._start
        self._window, self._window_at = b"", 0
        self._left = self._most_elements = most_elements
        self.encoding: Final[Encoding] = judge_encoding(self.read(0, _CHUNK_BYTES), transfer_syntax_uid)
        order = self.encoding.order
        self._tag_and_length = struct.Struct(order + "HHI").unpack_from
        self._long_length = struct.Struct(order + "I").unpack_from
        self._short_length = struct.Struct(order + "H").unpack_from

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the data set, fewer if it ends before; a file is never asked for more than it has."""
        length = max(0, min(length, self._end - offset))
        at = offset - self._window_at
        if at >= 0 and at + length <= len(self._window):
            return self._window[at : at + length]
        self._file.seek(self._start + offset)
        if length > _CHUNK_BYTES:
            return self._file.read(length)
        self._window, self._window_at = self._file.read(max(0, min(_CHUNK_BYTES, self._end - offset))), offset
        return self._window[:length]

    def elements(self) -> Iterator[Element]:
        """Yield the elements of the top level, to the end or to what cannot be read.

        Raises:
            PeerError: group 0000 or 0002 stands in it, it cannot be read on, or there are too many elements.
        """
        offset = 0
        is_implicit = self.encoding.is_implicit
        while self._end - offset >= 8:
            self._count()
            group, element, length = self._tag_and_length(self.read(offset, 8))
            if group == ITEM_GROUP:
                if length:
                    raise self._lost(offset)
                offset += 8  # a delimiter too many
                continue
            if group == 0x0000 and offset:
                return  # padding
            if group in {0x0000, 0x0002}:
                raise PeerError(f"the data set holds ({group:04X},{element:04X}), which belongs outside it")
            tag = group << 16 | element
            vr, value, length = self._header(offset, tag, is_implicit=is_implicit, is_nested=False)
            stop, depth = value + length, 0
            if length == UNDEFINED:
                stop, depth = self._end_of_items(value, is_implicit=is_implicit or vr == "UN")
            yield Element(tag, vr, offset, value, length, stop, depth)
            offset = stop

    def items(self, sequence: Element) -> Iterator[list[Element]]:
        """Yield each item of a sequence of the top level as its elements; what nests in those is passed over.

        Raises:
            PeerError: what should be an item is none, is cut short, or there are too many elements.
        """
        is_implicit = self.encoding.is_implicit or sequence.vr == "UN"
        offset, end = sequence.value, sequence.stop
        if end > self._end:
            raise self._lost(self._end)
        while end - offset >= 8:
            self._count()
            group, element, length = self._tag_and_length(self.read(offset, 8))
            tag = group << 16 | element
            if tag == SEQUENCE_DELIMITATION:
                return
            if tag != ITEM or (length != UNDEFINED and length > end - offset - 8):
                raise self._lost(offset)
            found, offset = self._item(offset + 8, length, end, is_implicit=is_implicit)
            yield found
        if offset != end:
            raise self._lost(offset)

    def _item(self, offset: int, length: int, end: int, *, is_implicit: bool) -> tuple[list[Element], int]:
        """Return the elements of the item whose first one is at an offset, and the offset behind it."""
        found: list[Element] = []
        end = end if length == UNDEFINED else offset + length
        while end - offset >= 8:
            self._count()
            group, element, _ = self._tag_and_length(self.read(offset, 8))
            tag = group << 16 | element
            if tag == ITEM_DELIMITATION:
                return found, offset + 8
            vr, value, value_length = self._header(offset, tag, is_implicit=is_implicit, is_nested=True)
            stop, depth = value + value_length, 0
            if value_length == UNDEFINED:
                stop, depth = self._end_of_items(value, is_implicit=is_implicit or vr == "UN")
            if stop > end:
                raise self._lost(offset)
            found.append(Element(tag, vr, offset, value, value_length, stop, depth))
            offset = stop
        if length == UNDEFINED or offset != end:
            raise self._lost(offset)
        return found, end

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise PeerError(f"the data set holds more than {self._most_elements:,} elements and items")

    def _end_of_items(self, offset: int, *, is_implicit: bool) -> tuple[int, int]:
        """Return the offset behind a value of undefined length, and how deep items nest in it (PS3.5 7.5)."""
        # One flag for each sequence and item that is open: whether its elements are in implicit VR.
        levels = [is_implicit]
        depth = 0
        while levels:
            self._count()
            at = offset - self._window_at
            if at < 0 or at + 8 > len(self._window):
                if self._end - offset < 8:
                    return self._end + 1, depth  # cut short
                self.read(offset, 8)
                at = offset - self._window_at
            group, element, length = self._tag_and_length(self._window, at)
            if len(levels) % 2:  # within a sequence, where items stand
                offset += 8
                if group != ITEM_GROUP:
                    raise self._lost(offset - 8)
                if element == ITEM & 0xFFFF:
                    if length == UNDEFINED:
                        levels.append(levels[-1])
                        depth = max(depth, len(levels) // 2)
                    else:
                        offset += length
                elif element == SEQUENCE_DELIMITATION & 0xFFFF:
                    levels.pop()
                else:
                    raise self._lost(offset - 8)
            elif group == ITEM_GROUP:
                if element != ITEM_DELIMITATION & 0xFFFF:
                    raise self._lost(offset)
                levels.pop()
                offset += 8
            else:
                tag = group << 16 | element
                vr, offset, length = self._header(offset, tag, is_implicit=levels[-1], is_nested=True)
                if length == UNDEFINED:
                    levels.append(levels[-1] or vr == "UN")  # PS3.5 6.2.2: its items are in implicit VR
                else:
                    offset += length
        return offset, depth

    def _header(self, offset: int, tag: int, *, is_implicit: bool, is_nested: bool) -> tuple[str, int, int]:
        """Return VR, offset of the value and its length of the element at an offset (PS3.5 7.1.2, 7.1.3)."""
        head = self.read(offset, 12)
        vr = head[4:6]
        if is_implicit:
            # Some devices write explicit VR where PS3.5 6.2.2 wants it implicit: below UN of undefined length.
            is_explicit = not self.encoding.is_implicit and (vr in SHORT_FORM_VRS or vr in LONG_FORM_VRS)
            if not (is_explicit and self._explicit_goes_on(offset, head, tag)):
                return "", offset + 8, self._long_length(head, 4)[0]
        if vr in SHORT_FORM_VRS:
            return vr.decode(), offset + 8, self._short_length(head, 6)[0]
        if vr in LONG_FORM_VRS and head[6:8] == b"\0\0" and len(head) == 12:
            return vr.decode(), offset + 12, self._long_length(head, 8)[0]
        return self._odd_header(offset, head, tag, is_nested=is_nested)

    def _explicit_goes_on(self, offset: int, head: bytes, tag: int) -> bool:
        if head[4:6] in SHORT_FORM_VRS:
            value, length = offset + 8, self._short_length(head, 6)[0]
        else:
            value, length = offset + 12, self._long_length(head.ljust(12, b"\0"), 8)[0]
        return self._goes_on(value, length, tag, is_nested=True, steps=_LOOK_AHEAD) > 0

    def _odd_header(self, offset: int, head: bytes, tag: int, *, is_nested: bool) -> tuple[str, int, int]:
        """Read an element whose VR is none in the form behind which a data set goes on best.

        The forms are those that devices write: a length of two bytes, none but the length of implicit VR, or two
        reserved bytes and four of length, as the VRs of later editions have it (PS3.5 6.2, 7.1.2).
        """
        forms = [(offset + 8, self._short_length(head, 6)[0]), (offset + 8, self._long_length(head, 4)[0])]
        if len(head) == 12:
            forms.append((offset + 12, self._long_length(head, 8)[0]))
        best, how_well = forms[0], 0
        for value, length in forms:
            fits = self._goes_on(value, length, tag, is_nested=is_nested, steps=_LOOK_AHEAD)
            if fits > how_well:
                best, how_well = (value, length), fits
        if not how_well:
            raise self._lost(offset)
        known = head[4:6] in LONG_FORM_VRS and best != forms[1]
        return (head[4:6].decode() if known else "", *best)

    def _goes_on(self, value: int, length: int, tag: int, *, is_nested: bool, steps: int) -> int:
        """Tell how well a value may end where it would: 0 not at all, 1 perhaps, 2 surely."""
        if length == UNDEFINED:
            group, element, _ = self._tag_and_length(self.read(value, 8).ljust(8, b"\0"))
            return 2 if group << 16 | element in {ITEM, SEQUENCE_DELIMITATION} else 0
        stop = value + length
        if stop == self._end:
            return 0 if is_nested else 2
        head = self.read(stop, 8)
        if len(head) < 8:
            return 0
        group, element, next_length = self._tag_and_length(head)
        next_tag = group << 16 | element
        if group == ITEM_GROUP:
            return 2 if is_nested and next_tag == ITEM_DELIMITATION else 0
        if head[4:6] in SHORT_FORM_VRS or head[4:6] in LONG_FORM_VRS:
            return 2 if next_tag > tag else 1
        if next_tag <= tag or not steps:
            return int(next_tag > tag)
        # The next one's VR is none either; perhaps it is in implicit VR too.
        return min(1, self._goes_on(stop + 8, next_length, next_tag, is_nested=is_nested, steps=steps - 1))

    def _lost(self, offset: int) -> PeerError:
        return PeerError(f"the data set cannot be read behind {offset:,} of its {self._end:,} bytes")
