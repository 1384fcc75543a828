"""The size that a compressed frame says of itself is read as codecs read it."""

from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dicom.codestream import codestream_size, is_larger

GREY = np.zeros((24, 37), np.uint8)
ENCODED = {
    "jpeg": imagecodecs.jpeg8_encode(GREY),
    "lossless jpeg": imagecodecs.ljpeg_encode(GREY),
    "jpeg-ls": imagecodecs.jpegls_encode(GREY),
    "jpeg 2000": imagecodecs.jpeg2k_encode(GREY, codecformat="j2k"),
    "jpeg 2000 in boxes": imagecodecs.jpeg2k_encode(GREY, codecformat="jp2"),
    "htj2k": imagecodecs.htj2k_encode(GREY),
}


@pytest.mark.parametrize("encoded", ENCODED.values(), ids=ENCODED)
def test_size_of_what_a_codec_wrote_is_that_of_the_image(encoded: Any):
    """Columns and rows, whatever segments come before."""
    assert (37, 24) == codestream_size(bytes(encoded))


def test_size_is_found_behind_fill_bytes_comments_and_restart_markers():
    """ITU-T T.81 B.1.1.2: any marker may have fill bytes before it."""
    encoded = ENCODED["jpeg"]
    assert (37, 24) == codestream_size(encoded[:2] + b"\xff\xff\xff\xfe\0\x05abc\xff\xd0" + encoded[2:])


@pytest.mark.parametrize("encoded", ENCODED.values(), ids=ENCODED)
def test_size_of_a_cut_frame_is_none_or_right(encoded: Any):
    """Every prefix gives the size, or nothing."""
    assert {None, (37, 24)} == {codestream_size(bytes(encoded[:size])) for size in range(min(len(encoded), 600))}


@given(st.binary(max_size=80), st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "]))
def test_size_of_any_bytes_is_a_size_or_none(rest: bytes, start: bytes):
    """Nothing is raised, and no side is negative."""
    found = codestream_size(start + rest)
    assert found is None or min(found) >= 0


def test_frame_is_larger_only_when_it_is_much_so():
    """A padded frame, and a small one, are decoded; one of more than twice the pixels is not."""
    said = 4_000_000

    def frame(columns: int, rows: int) -> bytes:
        return b"\xff\xd8\xff\xc0\0\x0b\x08" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big")

    assert [False, False, True] == [
        is_larger(frame(*sides), said) for sides in ((2000, 2000), (4000, 2000), (4001, 2000))
    ]
    assert not is_larger(frame(1024, 1024), 1)
    assert not is_larger(b"none", 1)
