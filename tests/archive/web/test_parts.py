"""A multipart body is read alike, whatever way it is cut, and says when it is none (RFC 2046 5.1)."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomflow.archive.web.parts import BodyError, Part, PartReader, boundary_of


def read(body: bytes, cuts: list[int], boundary: bytes = b"XX") -> list[bytes]:
    """Read a body in pieces; return the data of each part."""
    reader, parts, is_open = PartReader(boundary), [], False
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for begin, end in itertools.pairwise(edges):
        for piece in reader.feed(body[begin:end]):
            if piece is Part.BEGIN:
                parts.append(b"")
                is_open = True
            elif piece is Part.END:
                assert is_open
                is_open = False
            else:
                assert is_open
                parts[-1] += piece
    reader.end()
    assert not is_open
    return parts


def body_of(parts: list[bytes], before: bytes = b"", behind: bytes = b"\r\n") -> bytes:
    """Return a body."""
    framed = b"".join(b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts)
    return before + framed + b"--XX--" + behind


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=30), st.booleans()
)
def test_parts_are_what_was_written_however_the_body_is_cut(parts: list[bytes], cuts: list[int], has_preamble: bool):  # noqa: FBT001  # hypothesis gives it
    """With what looks like a boundary, and a preamble and an epilogue that are passed over."""
    parts = [part.replace(b"--XX", b"--X") + b"\r\n--X" for part in parts]
    body = body_of(parts, b"preamble\r\n" if has_preamble else b"", b"\r\nepilogue --XX\r\n")
    assert parts == read(body, cuts)
    assert parts == read(body, list(range(len(body))))


def test_part_without_headers_or_data_is_one():
    """And blanks may stand behind a boundary."""
    assert [b"data", b"", b""] == read(b"--XX \t\r\n\r\ndata\r\n--XX\r\nA: b\r\n\r\n\r\n--XX\r\nA: b\r\n\r\n--XX--", [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--XX\r\nContent-Type: application/dicom\r\n\r\ncut",
        b"--XX\r\nContent-Type: application/dicom\r\n\r\ncut\r\n--XX",
        b"--XXrubbish\r\n\r\n",
        b"--XX\r\n" + b"A: " + b"b" * 40_000,
    ],
)
def test_body_that_ends_too_soon_or_is_none_says_so(body: bytes):
    """What came of its last part is not taken for the whole."""
    with pytest.raises(BodyError):
        read(body, [3, 9])


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', b"a b"),
        ("multipart/related; Boundary=abc; type=application/dicom", b"abc"),
        ("multipart/related; type=application/dicom", None),
    ],
)
def test_boundary_is_found_quoted_and_bare(content_type: str, expected: bytes | None):
    """As clients write it."""
    assert expected == boundary_of(content_type)
