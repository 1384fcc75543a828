"""Pixels on their way: in either byte order, deflated, compressed, and larger than memory should be."""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from planted import Planter, encoded, reading
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import UID

from dicomflow import samples
from dicomflow.deidentify.copying import Quarantined, Written, deidentify
from dicomflow.deidentify.profile import Profile

_JPEG = "1.2.840.10008.1.2.4."


def _compressed(frames: list[bytes], syntax: str = "50", *, fragments: int = 1, has_offsets: bool = True) -> Dataset:
    made = reading()[0]
    made.Rows = made.Columns = 64
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.NumberOfFrames = len(frames)
    made.file_meta.TransferSyntaxUID = UID(_JPEG + syntax)
    made.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=has_offsets)
    made["PixelData"].VR = "OB"
    return made


def _file(made: Dataset) -> bytes:
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _jpeg() -> bytes:
    """Return a frame of a baseline JPEG."""
    image = list(samples.demo_studies())[-1]
    return next(generate_frames(image.PixelData, number_of_frames=1))


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


def _with_comments(jpeg: bytes) -> bytes:
    """Return a JPEG with text in a comment, in two applications' segments, between its scan and its end, and behind."""
    head = _segment(0xFE, b"Zqwert comment") + _segment(0xE1, b"Exif\0\0Zqwert exif") + _segment(0xE0, b"Zqwert jfif")
    body, end = jpeg[2:].rstrip(b"\0")[:-2], b"\xff\xd9"
    return jpeg[:2] + head + body + _segment(0xFE, b"Zqwert late") + end + b"Zqw"


def _jpeg_2000(comment: bytes) -> bytes:
    """Return the markers of a codestream with a comment in its main header and in its tile-part's."""
    size = _segment(0x51, bytes(2) + b"".join(n.to_bytes(4) for n in (64, 64, 0, 0, 64, 64, 0, 0)) + b"\0\1\7\1\1")
    told = _segment(0x64, b"\0\1" + comment)
    data = b"\xff\x93" + b"\x12\x34" * 8
    part = 12 + len(told) + len(data)
    tile = _segment(0x90, b"\0\0" + part.to_bytes(4) + b"\0\1") + told + data
    return b"\xff\x4f" + size + told + tile + b"\xff\xd9" + b"Zq" + comment


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("has_offsets", [True, False])
def test_comments_in_jpeg_frames_are_blanked_where_they_stand(
    fragments: int, *, has_offsets: bool, profile: Callable[..., Profile], tmp_path: Path
):
    """Nothing of them is left, the frame is as long as it was, and what it shows is the same."""
    frames = [_with_comments(_jpeg()), _jpeg(), _with_comments(_jpeg())]
    made = _compressed(frames, fragments=fragments, has_offsets=has_offsets)
    outcome = deidentify(_file(made), tmp_path / "copy.dcm", profile())
    assert isinstance(outcome, Written), outcome
    assert b"Zq" not in (tmp_path / "copy.dcm").read_bytes()
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert len(copy.PixelData) == len(made.PixelData)
    assert copy.file_meta.TransferSyntaxUID == _JPEG + "50"
    imagecodecs = pytest.importorskip("imagecodecs")
    shown = [imagecodecs.jpeg8_decode(frame) for frame in generate_frames(copy.PixelData, number_of_frames=3)]
    expected = imagecodecs.jpeg8_decode(_jpeg())
    assert all((frame == expected).all() for frame in shown)


def test_comments_in_jpeg_2000_frames_are_blanked(profile: Callable[..., Profile], tmp_path: Path):
    """Those of the main header and of a tile-part's, and what stands behind the codestream."""
    made = _compressed([_jpeg_2000(b"Zqwert says")], "90")
    outcome = deidentify(_file(made), tmp_path / "copy.dcm", profile())
    assert isinstance(outcome, Written), outcome
    whole = (tmp_path / "copy.dcm").read_bytes()
    assert b"Zq" not in whole
    assert b"\x12\x34" * 8 in whole


@pytest.mark.parametrize(
    ("frame", "syntax"),
    [
        (b"no codestream at all", "50"),
        (_jpeg()[:80], "50"),
        (b"\xff\xd8\xff\xfe\xff\xff", "70"),
        (_jpeg_2000(b"x")[:60], "90"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "90"),
        (b"\0\0\0\x1cftypmp42", "102"),
    ],
)
def test_frames_that_cannot_be_looked_through_are_quarantined(
    frame: bytes, syntax: str, profile: Callable[..., Profile], tmp_path: Path
):
    """What may hold text that nobody finds does not go, and leaves no file."""
    made = _compressed([frame + b"\0" * (len(frame) % 2)], syntax)
    assert isinstance(deidentify(_file(made), tmp_path / "copy.dcm", profile()), Quarantined)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00UN"),
        (b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.5\0"),
    ],
)
def test_pixels_that_stand_otherwise_than_pixels_do_are_quarantined(
    old: bytes, new: bytes, profile: Callable[..., Profile], tmp_path: Path
):
    """Under another VR, or whole under a compressed transfer syntax: nobody knows what those bytes are."""
    whole = encoded(reading()[0])
    assert old in whole
    assert isinstance(deidentify(whole.replace(old, new), tmp_path / "copy.dcm", profile()), Quarantined)
    assert list(tmp_path.iterdir()) == []


def test_compressed_frames_are_not_masked(profile: Callable[..., Profile], tmp_path: Path):
    """A rule with regions cannot be kept there, and the object does not go without it."""
    made = _compressed([_jpeg()])
    made.ManufacturerModelName = "model"
    rule = {"manufacturer": "dicomflow", "model": "model", "rows": 64, "columns": 64, "regions": [[0, 0, 9, 9]]}
    outcome = deidentify(_file(made), tmp_path / "copy.dcm", profile(devices=[rule]))
    assert isinstance(outcome, Quarantined)
    assert "compressed" in outcome.reason


def test_extended_offsets_lead_to_the_same_frames(profile: Callable[..., Profile], tmp_path: Path):
    """Nothing moves, so that offset tables of either kind stay right."""
    frames = [_with_comments(_jpeg()), _jpeg()]
    made = _compressed(frames)
    made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    deidentify(_file(made), tmp_path / "copy.dcm", profile())
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert copy.ExtendedOffsetTable == made.ExtendedOffsetTable
    extended = (copy.ExtendedOffsetTable, copy.ExtendedOffsetTableLengths)
    found = list(generate_frames(copy.PixelData, number_of_frames=2, extended_offsets=extended))
    assert [len(frame) for frame in found] == [len(frame) + len(frame) % 2 for frame in frames]


def test_big_endian_becomes_little_endian(profile: Callable[..., Profile], tmp_path: Path):
    """Pixels and numbers are the same, in the order that every reader knows."""
    made = reading()[0]
    pixels = made.PixelData
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.2")
    made.PixelData = b"".join(pixels[at : at + 2][::-1] for at in range(0, len(pixels), 2))
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, made, implicit_vr=False, little_endian=False, enforce_file_format=True)
    outcome = deidentify(buffer.getvalue(), tmp_path / "copy.dcm", profile())
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert isinstance(outcome, Written)
    assert copy.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert (copy.Rows, copy.PixelData) == (16, pixels)


def test_deflated_data_set_holds_nothing_that_was_planted(profile: Callable[..., Profile], tmp_path: Path):
    """What is inflated is de-identified as all else, and written plain."""
    made, planter = reading()[0], Planter()
    planter.plant(made, rows=[0x00081030, 0x00100010, 0x00104000, 0x00200010])
    whole = encoded(made)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    start = pydicom.dcmread(BytesIO(whole), stop_before_pixels=True)
    offset = 144 + start.file_meta.FileMetaInformationGroupLength
    head = whole[:offset].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    assert len(head) == offset + 2
    head = head.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    outcome = deidentify(head + deflater.compress(whole[offset:]) + deflater.flush(), tmp_path / "copy.dcm", profile())
    assert isinstance(outcome, Written), outcome
    assert planter.left_in((tmp_path / "copy.dcm").read_bytes()) == []
    assert pydicom.dcmread(tmp_path / "copy.dcm").PixelData == made.PixelData


@pytest.mark.parametrize("packed", [b"no deflated bytes", zlib.compress(bytes(10**6), wbits=-15)[:50]])
def test_data_set_that_cannot_be_inflated_is_quarantined(
    packed: bytes, profile: Callable[..., Profile], tmp_path: Path
):
    """It ends its own copy, and no other."""
    made = reading()[0]
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    whole = _file(made)
    offset = 144 + pydicom.dcmread(BytesIO(whole), stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    assert isinstance(deidentify(whole[:offset] + packed, tmp_path / "copy.dcm", profile()), Quarantined)


def test_memory_does_not_grow_with_the_object(tmp_path: Path):
    """An object of many times the memory that is used is copied, its bytes hashed; its pixels are holes on the disk."""
    made = reading()[0]
    megabytes = int(os.environ.get("DICOMFLOW_TEST_MULTI_FRAME_MB", "256"))
    made.NumberOfFrames = megabytes * 2048
    made.PixelData = b""
    whole = encoded(made)
    length = megabytes << 20
    source = tmp_path / "large.dcm"
    source.write_bytes(whole[:-4] + length.to_bytes(4, "little"))
    with source.open("r+b") as file:
        file.truncate(len(whole) + length)
    script = (
        "import resource, sys; from pathlib import Path; from dicomflow.deidentify.copying import deidentify;"
        "from dicomflow.deidentify.profile import load_profile;"
        "p = load_profile('basic', {}, secret='x' * 40, domain='research');"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print(deidentify(Path(sys.argv[1]), Path(sys.argv[2]), p).size_bytes,"
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(source), str(tmp_path / "copy.dcm")],
        capture_output=True,
        text=True,
        check=True,
    )
    size, grown = map(int, done.stdout.split())
    assert size > length
    assert grown < 48 << 10  # kilobytes
