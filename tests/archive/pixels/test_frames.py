"""Frames of every syntax that is stored are shown as they were measured; what cannot be shown says why."""

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from framed import COLUMNS, GREY, ROOT, ROWS, encode, image
from obstore.store import LocalStore, MemoryStore
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from dicomflow.archive.pixels.frames import open_object, read_frame
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.bucket.ranged import BLOCK_BYTES, RangedFile
from dicomflow.dicom.part10 import decode_file_meta, encode_file_meta

COLOR = np.stack([GREY // 16, 255 - GREY // 16, (GREY * 7) % 256], axis=-1).astype(np.uint8)

Put = Callable[..., Any]


@pytest.fixture
def store() -> MemoryStore:
    """Give an empty store."""
    return MemoryStore()


@pytest.fixture
def read(store: MemoryStore) -> Put:
    """Store a data set, or bytes, and read one of its frames."""

    def _read(dataset: Dataset | bytes, index: int = 0) -> Any:
        store.put("image.dcm", dataset if isinstance(dataset, bytes) else encode(dataset))
        return read_frame(open_object(store, "image.dcm"), index)

    return _read


def rle(pixels: Any) -> bytes:
    """Return RLE segments of a frame."""
    dataset = image(RLELossless, b"", color=pixels.ndim == 3)
    encoder = get_encoder(RLELossless)
    return encoder.encode(
        pixels,
        rows=ROWS,
        columns=COLUMNS,
        samples_per_pixel=dataset.SamplesPerPixel,
        photometric_interpretation=dataset.PhotometricInterpretation,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsStored,
        pixel_representation=0,
        number_of_frames=1,
        planar_configuration=0,
    )


LOSSLESS = {
    f"{ROOT}.4.57": lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
    f"{ROOT}.4.70": lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
    f"{ROOT}.4.80": imagecodecs.jpegls_encode,
    f"{ROOT}.4.81": imagecodecs.jpegls_encode,
    f"{ROOT}.4.90": lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k"),
    f"{ROOT}.4.91": lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k"),
    f"{ROOT}.4.110": lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True),
    f"{ROOT}.4.201": lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    f"{ROOT}.4.202": lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    f"{ROOT}.5": rle,
}


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_frame_is_what_was_encoded(read: Put, syntax: str):
    """Each value comes back."""
    frame = read(image(syntax, encapsulate([LOSSLESS[syntax](GREY)]), is_encapsulated=True))
    assert np.array_equal(GREY, frame.pixels)


@pytest.mark.parametrize("syntax", [f"{ROOT}.4.80", f"{ROOT}.4.90", f"{ROOT}.4.110", f"{ROOT}.4.201", f"{ROOT}.5"])
def test_lossless_colors_are_what_was_encoded(read: Put, syntax: str):
    """Red, green and blue are not exchanged."""
    frame = read(image(syntax, encapsulate([LOSSLESS[syntax](COLOR)]), color=True, is_encapsulated=True))
    assert frame.is_color
    assert np.array_equal(COLOR, frame.pixels)


@pytest.mark.parametrize(("colors", "space"), [("YBR_FULL_422", "ycbcr"), ("RGB", "rgb")])
def test_baseline_jpeg_colors_follow_the_photometric_interpretation(read: Put, colors: str, space: str):
    """A JPEG that is RGB within is not taken for YBR."""
    flat = np.full((ROWS, COLUMNS, 3), (200, 40, 90), np.uint8)
    encoded = imagecodecs.jpeg8_encode(flat, level=95, colorspace="rgb", outcolorspace=space)
    frame = read(
        image(
            f"{ROOT}.4.50", encapsulate([encoded]), color=True, is_encapsulated=True, PhotometricInterpretation=colors
        )
    )
    assert np.abs(frame.pixels.astype(int) - flat).max() < 6


@pytest.mark.parametrize("syntax", [ROOT, f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.1.99"])
def test_native_frame_of_each_encoding(read: Put, syntax: str):
    """Implicit and explicit VR, either byte order, deflated."""
    pixels = GREY.astype(">u2" if syntax == f"{ROOT}.2" else "<u2").tobytes()
    assert np.array_equal(GREY, read(image(syntax, pixels)).pixels)


def test_native_colors_by_plane_and_by_palette(read: Put):
    """Planes are put together, indices looked up."""
    planes = np.moveaxis(COLOR, -1, 0).tobytes()
    assert np.array_equal(COLOR, read(image(f"{ROOT}.1", planes, color=True, PlanarConfiguration=1)).pixels)
    palette = image(
        f"{ROOT}.1",
        (GREY % 4).astype(np.uint8).tobytes(),
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PhotometricInterpretation="PALETTE COLOR",
    )
    for color, table in (("Red", (0, 50, 100, 255)), ("Green", (9, 8, 7, 6)), ("Blue", (0, 0, 0, 1))):
        setattr(palette, f"{color}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(palette, f"{color}PaletteColorLookupTableData", bytes(table))
    frame = read(palette)
    assert frame.is_color
    assert [100, 7, 0] == frame.pixels[
        0, 2 // 1 * 0 + 2 if GREY[0, 2] % 4 == 2 else int(np.argmax(GREY[0] % 4 == 2))
    ].tolist()


def test_modality_values_are_signed_and_rescaled(read: Put):
    """Hounsfield units are what is windowed."""
    signed = GREY.astype(np.int16) - 2048
    frame = read(
        image(
            f"{ROOT}.1",
            signed.tobytes(),
            PixelRepresentation=1,
            BitsStored=16,
            HighBit=15,
            RescaleSlope=2,
            RescaleIntercept=-1000,
            WindowCenter=[40, 300],
            WindowWidth=[400, 1500],
        )
    )
    assert np.array_equal(signed * 2.0 - 1000, frame.pixels)
    assert (40, 400) == (frame.center, frame.width)


@pytest.mark.parametrize(("padding", "limit"), [(-2000, None), (-1990, -2000), (-2000, -1990)])
def test_window_of_an_image_with_padding_is_that_of_what_was_measured(read: Put, padding: int, limit: int | None):
    """Else what lies around a CT's circle makes it flat."""
    pixels = (GREY % 200).astype(np.int16)
    measured = pixels[ROWS // 2 :].copy()
    pixels[: ROWS // 2] = -2000
    about = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15, "PixelPaddingValue": padding}
    if limit is not None:
        about["PixelPaddingRangeLimit"] = limit
    made = image(f"{ROOT}.1", pixels.tobytes(), **about)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in made:
            made[keyword].VR = "SS"
    frame = read(made)
    low, high = np.percentile(measured, (0.5, 99.5))
    assert ((low + high) / 2, high - low) == (frame.center, frame.width)
    del made.PixelPaddingValue
    assert (None, None) == (read(made).center, read(made).width)


def test_signed_values_of_a_codec_keep_their_sign(read: Put):
    """Twelve stored bits in the codec's unsigned words are sign-extended."""
    signed = GREY.astype(np.int32) - 2048
    words = (signed & 0xFFF).astype(np.uint16)
    dataset = image(
        f"{ROOT}.4.80", encapsulate([imagecodecs.jpegls_encode(words)]), is_encapsulated=True, PixelRepresentation=1
    )
    assert np.array_equal(signed, read(dataset).pixels)


def test_functional_groups_of_a_frame_go_before_shared_ones(read: Put):
    """An enhanced object has window and slope in its groups (PS3.3 C.7.6.16)."""
    shared, own, window, slope = Dataset(), Dataset(), Dataset(), Dataset()
    slope.RescaleSlope, slope.RescaleIntercept = 3, 1
    window.WindowCenter, window.WindowWidth = 70, 90
    shared.PixelValueTransformationSequence = Sequence([slope])
    own.FrameVOILUTSequence = Sequence([window])
    dataset = image(
        f"{ROOT}.1",
        np.stack([GREY, GREY[::-1]]).tobytes(),
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence([Dataset(), own]),
    )
    frame = read(dataset, 1)
    assert np.array_equal(GREY[::-1] * 3.0 + 1, frame.pixels)
    assert (70, 90) == (frame.center, frame.width)
    assert read(dataset, 0).center is None


def test_one_bit_frames_that_begin_within_a_byte(read: Put):
    """A segmentation's frames lie bit after bit."""
    masks = np.random.default_rng(1).integers(0, 2, (3, 5, 7), np.uint8)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    dataset = image(
        f"{ROOT}.1",
        packed + b"\0" * (len(packed) % 2),
        Rows=5,
        Columns=7,
        NumberOfFrames=3,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
    )
    for number in range(3):
        assert np.array_equal(masks[number], read(dataset, number).pixels)


@pytest.mark.parametrize("table", ["native", "basic", "extended", "none", "basic, in pieces", "none, in pieces"])
def test_frame_of_many_is_found_by_whatever_table_there_is(read: Put, table: str):
    """The twentieth frame is the twentieth frame."""
    frames = [(GREY + number) % 4096 for number in range(30)]
    if table == "native":
        dataset = image(f"{ROOT}.1", np.stack(frames).tobytes(), NumberOfFrames=30)
    else:
        encoded = [imagecodecs.jpegls_encode(each) for each in frames]
        if table == "extended":
            pixels, offsets, lengths = encapsulate_extended(encoded)
            extra = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
        else:
            pieces = 3 if "pieces" in table else 1
            pixels, extra = encapsulate(encoded, pieces, has_bot="basic" in table), {}
        dataset = image(f"{ROOT}.4.80", pixels, is_encapsulated=True, NumberOfFrames=30, **extra)
    assert np.array_equal(frames[19], read(dataset, 19).pixels)


def test_only_header_and_frame_are_fetched(tmp_path: Path):
    """Of an object of 60 MB one frame of 0.5 MB is read."""
    side, count = 512, 120
    store = LocalStore(tmp_path)
    frames = np.zeros((count, side, side), np.uint16)
    frames[77] = 1234
    store.put("large.dcm", encode(image(f"{ROOT}.1", frames.tobytes(), Rows=side, Columns=side, NumberOfFrames=count)))
    opened = open_object(store, "large.dcm")
    assert 1234 == read_frame(opened, 77).pixels.min()
    assert isinstance(opened.file, RangedFile)
    assert opened.file.fetched_bytes <= 2 * side * side + 2 * BLOCK_BYTES


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (b"\0" * 900, "the object is no DICOM file"),
        (image(f"{ROOT}.1", GREY.tobytes()[:-200]), "the pixel data ends before the frame does"),
        (image(f"{ROOT}.1", b""), "the object has no pixel data"),
        (image(f"{ROOT}.4.80", encapsulate([b"rubbish!"]), is_encapsulated=True), "the pixel data cannot be read"),
        (image(f"{ROOT}.4.102", encapsulate([b"movie..."]), is_encapsulated=True), "MPEG-4 AVC/H.264 High Profile"),
        (image(f"{ROOT}.1", GREY.tobytes(), Rows=0), "the object has no Rows"),
        (image(f"{ROOT}.1", GREY.tobytes(), Rows=65535, Columns=65535), "exceeds the 268,435,456 shown here"),
    ],
)
def test_frame_that_cannot_be_shown_says_why(read: Put, dataset: Dataset | bytes, reason: str):
    """The reason names the thing, and no patient."""
    with pytest.raises(FrameError) as caught:
        read(dataset)
    assert reason in str(caught.value)


ODD: tuple[tuple[str, Any], ...] = (
    ("US", b""),
    ("US", b"\0\0"),
    ("US", b"\xff\xff"),
    ("US", b"\x10\0\x10\0"),
    ("US", b"\x10"),
    ("SS", b"\xff\xff"),
    ("IS", b"-1"),
    ("IS", b"abc"),
    ("IS", b"1.5"),
    ("IS", b"99999999999999999999"),
    ("IS", b"1\\1"),
    ("DS", b"1e400"),
    ("DS", b"NaN"),
    ("DS", b"bad"),
    ("DS", b""),
    ("DS", b"-7\\bad"),
    ("LO", b"16"),
    ("UN", b"\x01\x02\x03"),
    ("FD", b"\0\0\0\0\0\0\xf0\x7f"),
    ("OB", b"\0" * 7),
    ("AT", b"\0" * 3),
    ("SQ", b""),
    ("SQ", b"\xfe\xff\x00\xe0\x00\x00\x00\x00"),
    ("CS", b"\xff\xfe"),
    ("??", b"4"),
)
READ_FOR_A_PICTURE = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "NumberOfFrames",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
SHOWN_WITHOUT = (
    "WindowCenter",
    "WindowWidth",
    "RescaleSlope",
    "RescaleIntercept",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
)


def with_value(base: bytes, keyword: str, vr: str, value: bytes) -> bytes:
    """Return a file whose element has these bytes as they stand; the file is Explicit VR Little Endian, in order."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    dataset = dcmread(io.BytesIO(base))
    head = io.BytesIO()
    before = Dataset()
    before.file_meta = dataset.file_meta
    before.update({each: element for each, element in dataset.items() if each < tag})
    before.save_as(head, enforce_file_format=True)
    rest = Dataset()
    rest.update({each: element for each, element in dataset.items() if each > tag})
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, rest)
    long = vr in {"OB", "SQ", "UN"}
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    element = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + value
    return head.getvalue() + element + file.getvalue()


@pytest.mark.parametrize("syntax", [f"{ROOT}.1", f"{ROOT}.4.80"])
def test_frame_of_any_value_is_shown_or_has_a_reason(read: Put, syntax: str):
    """Numbers that are strings, negative, huge, empty, several or none at all end in a picture or in a reason."""
    pixels = GREY.tobytes() if syntax == f"{ROOT}.1" else encapsulate([imagecodecs.jpegls_encode(GREY)])
    base = encode(image(syntax, pixels, is_encapsulated=syntax != f"{ROOT}.1"))
    for keyword in READ_FOR_A_PICTURE:
        for vr, value in ODD:
            with contextlib.suppress(FrameError):
                assert read(with_value(base, keyword, vr, value)).pixels.size, (keyword, vr, value)


@pytest.mark.parametrize("keyword", SHOWN_WITHOUT)
def test_frame_whose_window_or_scale_cannot_be_read_is_shown_without(read: Put, keyword: str):
    """What only says how a picture is looked at hides none."""
    base = encode(image(f"{ROOT}.1", GREY.tobytes()))
    for vr, value in ODD[:-1]:  # behind an unknown VR pydicom finds no pixels
        assert (ROWS, COLUMNS) == read(with_value(base, keyword, vr, value)).pixels.shape, (vr, value)


def test_frame_that_is_not_there_says_so(read: Put, store: MemoryStore):
    """Frames begin at 0 and end where the object says; an object may be gone."""
    dataset = image(f"{ROOT}.1", GREY.tobytes())
    for index in (-1, 1):
        with pytest.raises(FrameError, match="there is no frame"):
            read(dataset, index)
    with pytest.raises(FrameError, match="not in the store"):
        open_object(store, "gone.dcm")


def test_deflated_object_that_is_broken_says_so(read: Put):
    """A cut stream is no frame, and no error of ours."""
    encoded = encode(image(f"{ROOT}.1.99", GREY.tobytes()))
    with pytest.raises(FrameError, match="the object cannot be read"):
        read(encoded[:-400])


@pytest.mark.parametrize("declared", ["", ".1", ".2"])
@pytest.mark.parametrize("actual", ["", ".1", ".2"])
def test_image_of_another_encoding_than_declared_is_shown(read: Put, declared: str, actual: str):
    """As it is indexed: the elements say how they are encoded, whatever the transfer syntax says."""
    pixels = GREY.astype(">u2" if actual == ".2" else "<u2").tobytes()
    encoded = encode(image(ROOT + actual, pixels))
    offset = decode_file_meta(encoded).data_set_offset
    meta = encode_file_meta("1.2.840.10008.5.1.4.1.1.7", "1.2.3", ROOT + declared, "CT1", "EDGE")
    assert np.array_equal(GREY, read(meta + encoded[offset:]).pixels)


@pytest.mark.parametrize("vr", [b"RE", b"  ", b"\0\0", b"??"])
def test_image_with_an_unknown_vr_is_shown(read: Put, vr: bytes):
    """One element that nobody knows takes nothing from the others."""
    encoded = encode(image(f"{ROOT}.1", GREY.astype("<u2").tobytes()))
    place = encoded.index(b"\x28\0\x02\0US")
    odd = b"\x20\0\x20\0" + vr + b"\4\0L\\P "
    assert np.array_equal(GREY, read(encoded[:place] + odd + encoded[place:]).pixels)
