"""Image frames: lossless, with the checksums that the metadata promises."""

import gzip
import json
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from framed import ROOT, encode, image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from dicomflow.healthimaging.simulator.pixels import PixelsError, encode_frames

PIXELS = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


def import_pixels(simulation: Any, pixels: Any, **attributes: Any) -> list[dict[str, Any]]:
    """Import an object with these pixels; return its frames as the metadata lists them."""
    encoded = simulation.encode(Rows=pixels.shape[-2], Columns=pixels.shape[-1], **attributes)
    dataset = dcmread(BytesIO(encoded))
    dataset.PixelData = pixels.tobytes()
    file = BytesIO()
    dataset.save_as(file)
    return import_file(simulation, file.getvalue())


def import_file(simulation: Any, file: bytes) -> list[dict[str, Any]]:
    """Import a file; return its frames as the metadata lists them."""
    simulation.store.put("in/a.dcm", file)
    simulation.run("in/")
    (found,) = simulation.image_sets()
    answer = simulation.client.get_image_set_metadata(
        datastoreId=simulation.datastore_id, imageSetId=found["imageSetId"]
    )
    document = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
    (series,) = document["Study"]["Series"].values()
    (instance,) = series["Instances"].values()
    frames: list[dict[str, Any]] = instance["ImageFrames"]
    return frames


def get(simulation: Any, frame_id: str) -> tuple[bytes, str]:
    """Return a frame and its content type."""
    (found,) = simulation.image_sets()
    answer = simulation.client.get_image_frame(
        datastoreId=simulation.datastore_id,
        imageSetId=found["imageSetId"],
        imageFrameInformation={"imageFrameId": frame_id},
    )
    return answer["imageFrameBlob"].read(), answer["contentType"]


def test_frame_is_lossless_htj2k_with_its_checksum(simulation: Any) -> None:
    """The decoded frame is the pixel data, and the last checksum of the metadata is its CRC-32."""
    (frame,) = import_pixels(simulation, PIXELS)
    encoded, content_type = get(simulation, frame["ID"])
    decoded = imagecodecs.htj2k_decode(encoded)
    assert "image/jph" == content_type
    assert PIXELS.tobytes() == decoded.tobytes()
    levels = frame["PixelDataChecksumFromBaseToFullResolution"]
    assert (48, 64, zlib.crc32(PIXELS.tobytes())) == tuple(levels[-1][key] for key in ("Width", "Height", "Checksum"))
    assert sorted(level["Width"] for level in levels) == [level["Width"] for level in levels]
    reduced = imagecodecs.htj2k_decode(encoded, skipres=1)
    assert zlib.crc32(reduced.tobytes()) == levels[-2]["Checksum"]
    assert (int(PIXELS.min()), int(PIXELS.max())) == (frame["MinPixelValue"], frame["MaxPixelValue"])


def test_signed_pixels_keep_their_sign(simulation: Any) -> None:
    """Pixel values below zero come back as they were."""
    pixels = (PIXELS.astype(np.int32) - 1000).astype(np.int16)
    (frame,) = import_pixels(simulation, pixels, PixelRepresentation=1)
    assert (-1000, pixels.tobytes()) == (
        frame["MinPixelValue"],
        imagecodecs.htj2k_decode(get(simulation, frame["ID"])[0]).tobytes(),
    )


def test_each_frame_of_a_multiframe_object_has_its_own_id(simulation: Any) -> None:
    """Frames are told apart and come back in order."""
    stack = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])
    frames = import_pixels(simulation, stack, NumberOfFrames=3)
    assert 3 == len({frame["ID"] for frame in frames})
    for pixels, frame in zip(stack, frames, strict=True):
        assert pixels.tobytes() == imagecodecs.htj2k_decode(get(simulation, frame["ID"])[0]).tobytes()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("JPEG2000.dcm", "image/j2c"),
        ("MR_small_RLE.dcm", "image/jph"),
        ("SC_rgb_jpeg_gdcm.dcm", "image/jph"),
        ("MR_small_jp2klossless.dcm", "image/jph"),
        ("MR_small_expb.dcm", "image/jph"),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jph"),
        ("SC_rgb_jpeg_dcmtk.dcm", "image/jpeg"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_compressed_object_has_the_frame_the_service_gives(simulation: Any, name: str, content_type: str) -> None:
    """Lossless syntaxes are transcoded, and lossy ones kept as they are."""
    (frame,) = import_file(simulation, Path(get_testdata_file(name)).read_bytes())
    encoded, found = get(simulation, frame["ID"])
    assert content_type == found
    assert len(encoded) == frame["FrameSizeInBytes"]
    if name.startswith("MR_small"):
        original = dcmread(get_testdata_file("MR_small.dcm")).pixel_array
        assert original.tobytes() == imagecodecs.htj2k_decode(encoded).tobytes()


def test_unknown_frame_is_not_found(simulation: Any) -> None:
    """An id that no instance of the image set has is no frame."""
    import_pixels(simulation, PIXELS)
    with pytest.raises(simulation.client.exceptions.ResourceNotFoundException):
        get(simulation, "0" * 32)


def test_object_whose_pixels_cannot_be_read_has_no_frames(simulation: Any) -> None:
    """Pixel data that is too short is imported all the same; it has no frame to get."""
    assert [] == import_pixels(simulation, PIXELS[:2], NumberOfFrames=9)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_any_file_ends_in_frames_or_in_a_reason() -> None:
    """Of all of pydicom's bundled files, each has frames, has none, or says why they cannot be had."""
    found, reasons = 0, []
    for path in sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")):
        try:
            found += any(encode_frames(path.read_bytes()))
        except PixelsError as error:
            reasons.append(str(error))
    assert found >= 50
    assert all(reasons)


def test_frame_that_says_it_is_much_larger_than_its_file_is_no_frame() -> None:
    """A few hundred bytes that decode to gigabytes would take them from whatever runs beside the simulator."""
    small = bytearray(imagecodecs.jpegls_encode(np.zeros((16, 16), np.uint8)))
    at = small.find(b"\xff\xf7")
    small[at + 5 : at + 9] = b"\x80\0\x80\0"
    pixels = encapsulate([bytes(small)])
    file = encode(image(f"{ROOT}.4.80", pixels, is_encapsulated=True, Rows=16, Columns=16, BitsAllocated=8))
    with pytest.raises(PixelsError, match="much larger than the 256 pixels"):
        list(encode_frames(file))
