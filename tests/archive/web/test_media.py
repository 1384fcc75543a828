"""Accept headers as clients write them, and as nobody should (PS3.18 8.7.5)."""

import time

import pytest

from dicomflow.archive.web.media import MediaRange, accepted, frame_media_type

JPEG_LS = "1.2.840.10008.1.2.4.80"
ALL = MediaRange("*/*", None, None)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", [ALL]),
        ("rubbish", [ALL]),
        (";;,,;", [ALL]),
        ("*/*", [ALL]),
        ("multipart/related", [MediaRange("*/*", True, None)]),
        ('multipart/related; type="*/*"', [MediaRange("*/*", True, None)]),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            [MediaRange("application/octet-stream", True, "*")],
        ),
        ('Multipart/Related;Type="IMAGE/JLS" ; Transfer-Syntax="*"', [MediaRange("image/jls", True, "*")]),
        (
            f'multipart/related; type="application/dicom; transfer-syntax={JPEG_LS}"',
            [MediaRange("application/dicom", True, JPEG_LS)],
        ),
        (
            "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*",
            [MediaRange("application/dicom+json", False, None), MediaRange("application/octet-stream", True, "*")],
        ),
        (
            "image/png;q=0.2, image/jpeg;q=0.9, image/gif;q=0, image/tiff;q=x",
            [
                MediaRange("image/tiff", False, None),
                MediaRange("image/jpeg", False, None, 0.9),
                MediaRange("image/png", False, None, 0.2),
            ],
        ),
        ("image/gif;q=0", []),
        ('multipart/related; type="application/dicom', [MediaRange("*/*", True, None)]),
    ],
)
def test_header_is_read_as_it_is_meant(header: str, expected: list[MediaRange]) -> None:
    """Quoted and bare alike, the best first; what cannot be read accepts all, what refuses all accepts nothing."""
    assert expected == accepted(header)


def test_long_header_costs_little() -> None:
    """Each character is looked at once, and no more ranges are kept than make sense."""
    began = time.process_time()
    for header in ('"' * 60_000, 'a/b;x="' + "\\" * 60_000, "a/b," * 15_000, "a/b;" * 15_000):
        assert len(accepted(header)) <= 64
    assert time.process_time() - began < 2


def test_range_takes_its_types() -> None:
    """A type, all of a kind, all."""
    assert [True, True, True, False] == [
        MediaRange(name, None, None).takes("image/jpeg") for name in ("image/jpeg", "image/*", "*/*", "text/*")
    ]


def test_frames_have_the_media_type_of_their_syntax() -> None:
    """PS3.18 Table 8.7.3-5."""
    syntaxes = ("1.2.840.10008.1.2.1", JPEG_LS, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.202", "9.9")
    octets = "application/octet-stream"
    assert [octets, "image/jls", "image/dicom-rle", "image/jphc", octets] == [frame_media_type(uid) for uid in syntaxes]
