"""Objects written anew in Explicit VR Little Endian are what they were, pixel for pixel and element for element."""

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
from framed import COLUMNS, GREY, ROOT, ROWS, encode, image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomflow.archive.pixels.codecs import is_convertible
from dicomflow.archive.pixels.converting import converted
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.bucket.ranged import RangedFile
from dicomflow.dicom.part10 import encode_file_meta

COLOR = np.stack([GREY // 16, 255 - GREY // 16, (GREY * 7) % 256], axis=-1).astype(np.uint8)


def convert(content: bytes) -> Dataset:
    """Convert a file, and read what comes of it."""
    file = RangedFile(len(content), lambda start, length: content[start : start + length])
    found = dcmread(io.BytesIO(b"".join(converted(file))))
    assert ExplicitVRLittleEndian == found.file_meta.TransferSyntaxUID
    return found


def rich(syntax: str) -> Dataset:
    """Return an image with nested sequences, private elements, words, floats and a LUT, in an uncompressed syntax."""
    dataset = image(syntax, GREY.tobytes())
    inner = Dataset()
    inner.CodeValue = "1"
    inner.CodeMeaning = "größer"
    outer = Dataset()
    outer.ReferencedSOPInstanceUID = "1.2.3"
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ReferencedImageSequence = Sequence([outer, outer])
    dataset.RescaleSlope = "1.50"
    dataset.PixelPaddingValue = 2
    dataset.RedPaletteColorLookupTableDescriptor = [256, 0, 16]
    dataset.RedPaletteColorLookupTableData = bytes(range(256)) * 2
    dataset.RecommendedDisplayFrameRateInFloat = 1.5
    dataset.SelectorATValue = [0x00100020, 0x00080018]
    dataset.add_new(0x00290010, "LO", "SOMEBODY")
    dataset.add_new(0x00291001, "OB", b"\x01\x02")
    dataset.add_new(0x7FE10010, "LO", "BEHIND")
    return dataset


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian])
def test_elements_of_each_encoding_are_the_same_in_explicit_vr_little_endian(syntax: str):
    """Nested, private and binary ones; what pydicom reads before and after is equal."""
    content = encode(rich(syntax))
    before, after = dcmread(io.BytesIO(content)), convert(content)
    assert np.array_equal(before.pixel_array, after.pixel_array)
    for element in before:
        found = after[element.tag]
        value = element.value
        if element.VR == "OW" and syntax == ExplicitVRBigEndian:  # pydicom leaves words as they stand
            value = np.frombuffer(value, ">u2").astype("<u2").tobytes()
        assert (element.tag, value) == (found.tag, found.value)
    assert len(before) == len(after)


def test_deflated_object_is_inflated():
    """And its elements are all there."""
    content = encode(rich("1.2.840.10008.1.2.1.99"))
    assert dcmread(io.BytesIO(content)) == convert(content)


@pytest.mark.parametrize(
    ("last", "frames"),
    [
        ("4.80", [imagecodecs.jpegls_encode(GREY)]),
        ("4.90", [imagecodecs.jpeg2k_encode(GREY, reversible=True, codecformat="j2k")]),
        ("4.202", [imagecodecs.htj2k_encode(GREY, reversible=True)] * 3),
        ("4.70", [imagecodecs.ljpeg_encode(GREY, bitspersample=12)] * 2),
    ],
)
def test_lossless_pixels_are_decompressed_to_what_they_were(last: str, frames: list[bytes]):
    """Each frame, with what stands behind the pixels."""
    dataset = image(f"{ROOT}.{last}", encapsulate(frames), is_encapsulated=True, NumberOfFrames=len(frames))
    dataset.add_new(0x7FE10010, "LO", "BEHIND")
    after = convert(encode(dataset))
    expected = GREY if len(frames) == 1 else np.stack([GREY] * len(frames))
    assert np.array_equal(expected, after.pixel_array)
    assert "BEHIND" == after[0x7FE10010].value


def test_colors_become_rgb_and_stand_pixel_by_pixel():
    """What describes them is changed with them."""
    encoded = imagecodecs.jpeg2k_encode(COLOR, reversible=True, codecformat="j2k")
    dataset = image(f"{ROOT}.4.90", encapsulate([encoded]), is_encapsulated=True, color=True)
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_RCT", 1
    after = convert(encode(dataset))
    assert ("RGB", 0) == (after.PhotometricInterpretation, after.PlanarConfiguration)
    assert np.array_equal(COLOR, after.pixel_array)


def test_object_without_pixels_and_with_a_long_value_is_rewritten():
    """A document of 3 MB in Implicit VR, whose value is copied piece by piece; odd lengths are made even."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.3"
    dataset.EncapsulatedDocument = bytes(range(256)) * 12_000
    whole = encode_file_meta("1.2", "1.2.3", str(ImplicitVRLittleEndian), "A", "B")
    stream = io.BytesIO()
    dataset.save_as(stream, implicit_vr=True, little_endian=True, enforce_file_format=False)
    after = convert(whole + stream.getvalue())
    assert dataset.EncapsulatedDocument == after.EncapsulatedDocument


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0" * 900, "no Part 10 file"),
        (encode(image(f"{ROOT}.4.80", encapsulate([b"rubbish!"]), is_encapsulated=True)), "cannot be read"),
        (encode(image(f"{ROOT}.4.102", encapsulate([b"movie..."]), is_encapsulated=True)), "is not shown"),
        (encode(image(f"{ROOT}.1", GREY.tobytes()))[:-100], "the object ends within (7FE0,0010)"),
        (
            encode(
                image(
                    f"{ROOT}.4.80", encapsulate([imagecodecs.jpegls_encode(GREY)]), is_encapsulated=True, Rows=ROWS * 2
                )
            ),
            "decoding gives",
        ),
    ],
)
def test_what_cannot_be_converted_says_why(content: bytes, reason: str):
    """And never ends as if it were whole."""
    with pytest.raises(FrameError) as caught:
        convert(content)
    assert reason in str(caught.value)


def test_what_is_convertible_has_a_codec():
    """A video has none."""
    assert [True, True, False] == [is_convertible(f"{ROOT}{last}") for last in ("", ".4.80", ".4.102")]
    assert (ROWS, COLUMNS) == GREY.shape


def test_element_that_comes_twice_or_out_of_order_is_written_once_and_in_order():
    """Strict when writing: the first of two counts."""
    content: Any = bytearray(encode(image(f"{ROOT}", GREY.tobytes())))
    at = content.find(b"\x28\0\x10\0")
    content[at:at] = content[at : at + 10]
    after = convert(bytes(content))
    assert (ROWS, True) == (after.Rows, np.array_equal(GREY, after.pixel_array))
