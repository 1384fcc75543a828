"""Pictures are drawn by a process that may break, hang or want too much: the console goes on, and says why."""

import gc
import resource
import struct
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import pytest
from framed import COLUMNS, GREY, ROOT, ROWS, encode, image
from obstore.store import MemoryStore
from pydicom.encaps import encapsulate

from dicomflow.archive.pixels.drawing import MAX_KEPT_BYTES, _Kept
from dicomflow.archive.pixels.frames import Frame
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.pixels.pictures import Pictures, Window

# How much the console itself may grow while a hostile object is looked at.
GROWTH_BYTES = 100 << 20


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    """Give a store."""
    return MemoryStore()


@pytest.fixture(scope="module")
def pictures(store: MemoryStore) -> Iterator[Pictures]:
    """Give its pictures."""
    opened = Pictures(store)
    yield opened
    opened.close()


def test_window_spreads_its_values_from_black_to_white(store: MemoryStore, pictures: Pictures):
    """PS3.3 C.11.2.1.2.1, either way round, and for MONOCHROME1."""
    ramp = np.tile(np.arange(COLUMNS, dtype=np.uint16) * 10, (ROWS, 1))
    store.put("a", encode(image(f"{ROOT}.1", ramp.tobytes())))
    store.put("b", encode(image(f"{ROOT}.1", ramp.tobytes(), PhotometricInterpretation="MONOCHROME1")))
    shown = imagecodecs.png_decode(pictures.frame("a", 0, Window(150.5, 101)).png)
    assert (0, 0, 127, 255, 255) == tuple(int(shown[0, at]) for at in (0, 9, 15, 20, 31))
    inverted = imagecodecs.png_decode(pictures.frame("a", 0, Window(150.5, 101, is_inverted=True)).png)
    assert np.array_equal(255 - shown, inverted)
    assert np.array_equal(inverted, imagecodecs.png_decode(pictures.frame("b", 0, Window(150.5, 101)).png))


def test_object_without_a_window_shows_nearly_all_its_values(store: MemoryStore, pictures: Pictures):
    """A window is made from the values; a flat image divides by nothing."""
    store.put("grey", encode(image(f"{ROOT}.1", GREY.tobytes())))
    store.put("flat", encode(image(f"{ROOT}.1", np.full_like(GREY, 7).tobytes())))
    picture = pictures.frame("grey", 0, Window())
    assert picture.center is not None
    assert 1800 < picture.center < 2100
    assert 1.0 == pictures.frame("flat", 0, Window()).width


def test_thumbnail_is_small(store: MemoryStore, pictures: Pictures):
    """It has at most 128 pixels a side."""
    big = np.zeros((300, 700), np.uint16)
    store.put("wide", encode(image(f"{ROOT}.1", big.tobytes(), Rows=300, Columns=700)))
    assert (50, 117) == imagecodecs.png_decode(pictures.thumbnail("wide", 0)).shape


def test_frames_are_kept_within_bounds():
    """What was decoded last is at hand, the rest forgotten."""
    kept = _Kept()
    frame = Frame(np.zeros(MAX_KEPT_BYTES // 3, np.uint8), False, False, None, None)
    for name in "abcd":
        kept.keep(name, 0, frame, 1)
    assert [False, True, True, True] == [kept.find(name, 0) is not None for name in "abcd"]


def jpeg(columns: int, rows: int, sof: bytes = b"\xff\xc0") -> bytes:
    """Return a JPEG of some hundred bytes that says it is large: what is missing is filled up by the decoder."""
    small = bytearray(imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8)))
    at = small.find(sof)
    small[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(small)


def jpeg_2000(columns: int, rows: int) -> bytes:
    """Return a codestream that says it is large, in one tile."""
    small = bytearray(imagecodecs.jpeg2k_encode(np.zeros((16, 16), np.uint8), codecformat="j2k"))
    at = small.find(b"\xff\x51") + 6
    small[at : at + 8] = struct.pack(">II", columns, rows)
    small[at + 16 : at + 24] = struct.pack(">II", columns, rows)
    return bytes(small)


def jpeg_ls(columns: int, rows: int) -> bytes:
    """Return a JPEG-LS frame that says it is large."""
    small = bytearray(imagecodecs.jpegls_encode(np.zeros((16, 16), np.uint8)))
    at = small.find(b"\xff\xf7")
    small[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(small)


def deflated(size: int) -> bytes:
    """Return a deflated object whose data set is inflated to so many zeros."""
    whole = encode(image(f"{ROOT}.1.99", b"\0\0", Rows=16, Columns=16))
    header = whole[: 144 + int.from_bytes(whole[140:144], "little")]
    inner = encode(image(f"{ROOT}.1", GREY.tobytes()))
    inner = inner[144 + int.from_bytes(inner[140:144], "little") :]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    parts = [
        packer.compress(inner[: inner.find(b"\xe0\x7f\x10\0")] + b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", size))
    ]
    parts += [packer.compress(b"\0" * (1 << 20)) for _ in range(size >> 20)]
    return header + b"".join(parts) + packer.flush()


@pytest.mark.parametrize(
    ("syntax", "encoded"),
    [
        (".4.50", jpeg(30_000, 30_000)),
        (".4.50", jpeg(65_500, 65_500)),
        (".4.51", jpeg(30_000, 30_000)),
        (".4.80", jpeg_ls(40_000, 40_000)),
        (".4.90", jpeg_2000(60_000, 60_000)),
        (".4.201", jpeg_2000(1 << 31, 1 << 31)),
        (".1.99", b""),
    ],
    ids=["jpeg", "jpeg of the largest size", "extended jpeg", "jpeg-ls", "jpeg 2000", "htj2k", "deflated"],
)
def test_small_object_of_gigabytes_costs_the_console_nothing(
    store: MemoryStore, pictures: Pictures, syntax: str, encoded: bytes
):
    """It is refused with a reason, the console's own memory stays as it was, and the next picture is drawn."""
    hostile = (
        deflated(1100 << 20)
        if syntax == ".1.99"
        else encode(
            image(f"{ROOT}{syntax}", encapsulate([encoded]), is_encapsulated=True, Rows=16, Columns=16, BitsAllocated=8)
        )
    )
    assert len(hostile) < 8 << 20
    store.put("hostile", hostile)
    store.put("good", encode(image(f"{ROOT}.1", GREY.tobytes())))
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        with pytest.raises(FrameError):
            pictures.thumbnail("hostile", 0)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH_BYTES
    assert (ROWS, COLUMNS) == imagecodecs.png_decode(pictures.frame("good", 0, Window()).png).shape
    pictures.processes.forget()


def test_picture_that_takes_too_long_is_given_up_and_its_process_ended(store: MemoryStore):
    """The second look costs nothing, and another object is drawn by a new process."""
    store.put("slow", encode(image(f"{ROOT}.1", GREY.tobytes())))
    hurried = Pictures(store, seconds=0.01)
    with pytest.raises(FrameError, match=r"takes longer than 0\.01 s"):
        hurried.thumbnail("slow", 0)
    hurried.processes._seconds = 60
    with pytest.raises(FrameError, match=r"takes longer than 0\.01 s"):
        hurried.thumbnail("slow", 0)
    store.put("other", encode(image(f"{ROOT}.1", GREY.tobytes())))
    assert hurried.thumbnail("other", 0)
    hurried.close()


def test_object_that_goes_while_it_is_read_says_so_and_is_drawn_when_it_is_back(store: MemoryStore, pictures: Pictures):
    """The store's failure is not the object's: nothing is remembered of it."""
    with pytest.raises(FrameError, match="not in the store"):
        pictures.thumbnail("later", 0)
    store.put("later", encode(image(f"{ROOT}.1", GREY.tobytes())))
    assert pictures.thumbnail("later", 0)
