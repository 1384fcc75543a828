"""WADO-RS: each resource, each way it is asked for, and how it fails (PS3.18 10.4)."""

import gzip
import io
import json
import re
from collections.abc import Iterator
from email import message_from_bytes
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from framed import COLUMNS, GREY, ROOT, ROWS, image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from stored_archive import SERIES, STUDY, StoredArchive, as_stored, stored_archive
from web_archive import Noted, archive_over, asking

COLOR = np.stack([GREY // 16, 255 - GREY // 16, (GREY * 7) % 256], axis=-1).astype(np.uint8)
JPEG_LS, JPEG, HTJ2K = f"{ROOT}.4.80", f"{ROOT}.4.50", f"{ROOT}.4.202"
EXPLICIT, BIG_ENDIAN = f"{ROOT}.1", f"{ROOT}.2"
MOVIE = f"{ROOT}.4.102"
ANY = 'multipart/related; type="application/dicom"; transfer-syntax=*'
PLAIN = 'multipart/related; type="application/dicom"'
NUMBERS = {"plain": 1, "jpeg-ls": 2, "implicit": 3, "big endian": 4, "jpeg": 5, "frames": 6, "report": 7, "bits": 8}
OTHER = "1.2.826.0.1.2"  # a study of a movie, which no codec reads


def compressed(syntax: str, *frames: bytes, **values: Any) -> Dataset:
    """Return an image in a compressed syntax."""
    return image(syntax, encapsulate(list(frames)), is_encapsulated=True, NumberOfFrames=len(frames), **values)


def report() -> Dataset:
    """Return an object without pixels."""
    found = image(EXPLICIT, b"")
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(found, keyword)
    found.TextValue = "nothing"
    return found


def bits() -> Dataset:
    """Return three frames of one bit a pixel, of which two begin within a byte."""
    packed = np.packbits(MASKS.ravel(), bitorder="little").tobytes()
    about = {"Rows": 5, "Columns": 7, "NumberOfFrames": 3, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    return image(EXPLICIT, packed + b"\0" * (len(packed) % 2), **about)


MASKS = np.random.default_rng(1).integers(0, 2, (3, 5, 7), np.uint8)
FRAMES = [(GREY + 100 * number) % 4096 for number in range(3)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredArchive]:
    """Give an archive with an object of each kind."""
    folder = tmp_path_factory.mktemp("archive")
    with stored_archive(folder) as found:
        overlaid = image(EXPLICIT, GREY.tobytes())
        overlaid.add_new(0x60003000, "OW", bytes(range(256)) * 32)
        kinds = {
            "plain": overlaid,
            "jpeg-ls": compressed(JPEG_LS, imagecodecs.jpegls_encode(GREY)),
            "implicit": image(ROOT, GREY.tobytes()),
            "big endian": image(BIG_ENDIAN, GREY.byteswap().tobytes()),
            "jpeg": compressed(
                JPEG, imagecodecs.jpeg8_encode((GREY // 16).astype(np.uint8)), BitsAllocated=8, BitsStored=8
            ),
            "frames": compressed(HTJ2K, *(imagecodecs.htj2k_encode(each, reversible=True) for each in FRAMES)),
            "report": report(),
            "bits": bits(),
        }
        found.receive(*(as_stored(kinds[name], number) for name, number in NUMBERS.items()))
        found.receive(as_stored(compressed(MOVIE, b"movie..."), 1, study=OTHER, series=f"{OTHER}.1"))
        yield found


@pytest.fixture(scope="module")
def noted() -> Noted:
    """Give the audit trail."""
    return Noted()


@pytest.fixture(scope="module")
def web(stored: StoredArchive, noted: Noted) -> Iterator[httpx.Client]:
    """Give a client of the archive."""
    archive = archive_over(stored.engine, noted, stored.store)
    with asking(archive) as client:
        yield client
    archive.conversions.close()


def path(name: str, behind: str = "") -> str:
    """Return the path of an instance."""
    return f"/studies/{STUDY}/series/{SERIES}/instances/{uid(name)}{behind}"


def uid(name: str) -> str:
    """Return the UID of an instance."""
    return f"{SERIES}.{NUMBERS[name]}"


def parts(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """Take a multipart answer apart, strictly: nothing before, between or behind its parts."""
    assert 200 == answer.status_code, answer.text
    match = re.fullmatch(
        r'multipart/related; type="([\w/+-]+)"; boundary=([0-9A-Za-z-]{1,70})', answer.headers["content-type"]
    )
    assert match is not None, answer.headers["content-type"]
    boundary = match[2].encode()
    pieces = answer.content.split(b"--" + boundary)
    assert (b"", b"--\r\n") == (pieces[0], pieces[-1])
    found = []
    for piece in pieces[1:-1]:
        assert piece.startswith(b"\r\n")
        assert piece.endswith(b"\r\n")
        head, _, content = piece[2:-2].partition(b"\r\n\r\n")
        headers = dict(message_from_bytes(head + b"\r\n\r\n").items())
        assert headers["Content-Type"].split(";")[0] == match[1]
        found.append((headers, content))
    return found


def get(web: httpx.Client, address: str, accept: str | None = None, **headers: str) -> httpx.Response:
    """Ask, with an Accept header or without."""
    return web.get(address, headers={**headers, "accept": accept or "*/*"})


def test_objects_are_given_as_stored_but_for_two_syntaxes(web: httpx.Client, stored: StoredArchive):
    """`transfer-syntax=*`: the bytes that were received; Implicit VR and Big Endian are rewritten (PS3.18 8.7.3)."""
    answer = get(web, f"/studies/{STUDY}", ANY)
    found = {headers["Content-Location"].rpartition("/")[2]: (headers, content) for headers, content in parts(answer)}
    assert len(NUMBERS) == len(found)
    for name in NUMBERS:
        headers, content = found[uid(name)]
        syntax = dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID
        assert f"application/dicom; transfer-syntax={syntax}" == headers["Content-Type"]
        if name in {"implicit", "big endian"}:
            assert (EXPLICIT, True) == (syntax, np.array_equal(GREY, dcmread(io.BytesIO(content)).pixel_array))
        else:
            assert stored.contents[uid(name)] == content


def test_length_is_told_where_nothing_is_converted(web: httpx.Client, stored: StoredArchive):
    """So that a part of an answer is known to be one."""
    answer = get(web, path("jpeg-ls"), ANY)
    assert int(answer.headers["content-length"]) == len(answer.content)
    ((_, content),) = parts(answer)
    assert stored.contents[uid("jpeg-ls")] == content
    assert "content-length" not in get(web, path("implicit"), ANY).headers


@pytest.mark.parametrize("accept", [PLAIN, None, "*/*", f"{PLAIN}; transfer-syntax={EXPLICIT}"])
def test_without_a_syntax_explicit_vr_little_endian_is_meant(web: httpx.Client, accept: str | None):
    """Decompressed, each frame (PS3.18 8.7.3)."""
    for name, expected in (("jpeg-ls", GREY), ("frames", np.stack(FRAMES)), ("plain", GREY), ("big endian", GREY)):
        ((headers, content),) = parts(get(web, path(name), accept))
        found = dcmread(io.BytesIO(content))
        assert (EXPLICIT, f"application/dicom; transfer-syntax={EXPLICIT}") == (
            found.file_meta.TransferSyntaxUID,
            headers["Content-Type"],
        )
        assert np.array_equal(expected, found.pixel_array)


def test_lossy_object_is_given_as_stored_unless_another_syntax_is_named(web: httpx.Client, stored: StoredArchive):
    """What a lossy compression left is not made to look like more (PS3.18 8.7.3)."""
    ((headers, content),) = parts(get(web, path("jpeg"), PLAIN))
    assert (stored.contents[uid("jpeg")], True) == (content, headers["Content-Type"].endswith(JPEG))
    ((headers, content),) = parts(get(web, path("jpeg"), f"{PLAIN}; transfer-syntax={EXPLICIT}"))
    assert EXPLICIT == dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID


def test_single_part_is_given_where_it_is_asked_for_by_name(web: httpx.Client, stored: StoredArchive):
    """With ranges; of several instances there is none."""
    answer = get(web, path("jpeg-ls"), "application/dicom; transfer-syntax=*")
    assert (stored.contents[uid("jpeg-ls")], f"application/dicom; transfer-syntax={JPEG_LS}") == (
        answer.content,
        answer.headers["content-type"],
    )
    part = get(web, path("jpeg-ls"), "application/dicom; transfer-syntax=*", range="bytes=128-131")
    assert (206, b"DICM") == (part.status_code, part.content)
    assert 406 == get(web, f"/studies/{STUDY}", "application/dicom; transfer-syntax=*").status_code


@pytest.mark.parametrize(
    "accept",
    [
        "image/tiff",
        f"multipart/related; type=application/dicom; transfer-syntax={ROOT}",
        f"multipart/related; type=application/dicom; transfer-syntax={JPEG}",
        "multipart/related; type=application/dicom+xml",
        f"{ANY}; q=0",
    ],
)
def test_what_cannot_be_given_is_not_acceptable(web: httpx.Client, accept: str):
    """406, with what could be."""
    answer = get(web, path("jpeg-ls"), accept)
    assert (406, True) == (answer.status_code, JPEG_LS in answer.text), answer.text


def test_object_without_a_codec_is_given_as_stored_alone(web: httpx.Client):
    """A movie is not decompressed: 406 with the reason; with `*` it comes."""
    address = f"/studies/{OTHER}"
    assert (406, True) == (get(web, address).status_code, MOVIE in get(web, address).text)
    ((headers, _),) = parts(get(web, address, ANY))
    assert f"application/dicom; transfer-syntax={MOVIE}" == headers["Content-Type"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", JPEG_LS),
        ('multipart/related; type="application/octet-stream"; transfer-syntax=*', JPEG_LS),
        ('multipart/related; type="image/jls"', JPEG_LS),
        ('multipart/related; type="image/jls; transfer-syntax=1.2.840.10008.1.2.4.80"', JPEG_LS),
        ('multipart/related; type="*/*"', JPEG_LS),
        ("multipart/related", JPEG_LS),
        ("*/*", JPEG_LS),
        ("image/png, multipart/related;type=image/jls", JPEG_LS),
        ("multipart/related; type=application/octet-stream", EXPLICIT),
        (f"multipart/related; type=application/octet-stream; transfer-syntax={EXPLICIT}", EXPLICIT),
        (
            "multipart/related; type=image/jls; q=0.1, multipart/related; type=application/octet-stream; q=0.9",
            EXPLICIT,
        ),
        ("application/octet-stream", EXPLICIT),
        ("image/jls", JPEG_LS),
    ],
)
def test_frame_names_its_type_and_syntax_however_it_is_asked_for(web: httpx.Client, accept: str, expected: str):
    """Every Accept header that clients send; the pixels are those that were encoded."""
    answer = get(web, path("jpeg-ls", "/frames/1"), accept)
    if accept.startswith(("application/", "image/jls")):
        kind, content = answer.headers["content-type"], answer.content
    else:
        ((headers, content),) = parts(answer)
        kind = headers["Content-Type"]
        assert headers["Content-Location"].endswith(path("jpeg-ls", "/frames/1"))
    if expected == JPEG_LS:
        assert f"image/jls; transfer-syntax={JPEG_LS}" == kind
        assert np.array_equal(GREY, imagecodecs.jpegls_decode(content))
    else:
        assert (f"application/octet-stream; transfer-syntax={EXPLICIT}", GREY.tobytes()) == (kind, content)


def test_frames_come_in_the_order_they_are_asked_for(web: httpx.Client):
    """Compressed and not, and those that begin within a byte."""
    found = parts(get(web, path("frames", "/frames/3,1")))
    assert [FRAMES[2].tolist(), FRAMES[0].tolist()] == [imagecodecs.htj2k_decode(each).tolist() for _, each in found]
    assert {f"image/jphc; transfer-syntax={HTJ2K}"} == {headers["Content-Type"] for headers, _ in found}
    accept = "multipart/related; type=application/octet-stream"
    assert [FRAMES[2].tobytes(), FRAMES[1].tobytes()] == [
        each for _, each in parts(get(web, path("frames", "/frames/3,2"), accept))
    ]
    masks = [
        np.unpackbits(np.frombuffer(each, np.uint8), bitorder="little")[:35]
        for _, each in parts(get(web, path("bits", "/frames/1,2,3")))
    ]
    assert MASKS.reshape(3, 35).tolist() == [each.tolist() for each in masks]
    for name in ("implicit", "big endian", "plain"):
        ((headers, content),) = parts(get(web, path(name, "/frames/1")))
        assert GREY.tobytes() == content
        assert f"application/octet-stream; transfer-syntax={EXPLICIT}" == headers["Content-Type"]


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ("0", 400),
        ("1,1", 400),
        ("a", 400),
        ("1;2", 400),
        ("-1", 400),
        ("", 404),
        ("4", 404),
        ("1,9999999", 404),
        ("٣", 400),
    ],
)
def test_frame_that_is_none_is_refused(web: httpx.Client, numbers: str, status: int):
    """Never a shorter answer."""
    assert status == get(web, path("frames", f"/frames/{numbers}")).status_code


def test_frames_of_what_has_none_are_not_found(web: httpx.Client):
    """404 for a report, 406 for a type that its frames do not have."""
    assert 404 == get(web, path("report", "/frames/1")).status_code
    assert 404 == get(web, path("report", "/rendered")).status_code
    answer = get(web, path("jpeg-ls", "/frames/1"), "image/png")
    assert (406, True) == (answer.status_code, "image/jls" in answer.text)


@pytest.mark.parametrize("level", [f"/studies/{STUDY}", f"/studies/{STUDY}/series/{SERIES}", path("plain")])
@pytest.mark.parametrize(
    "accept", ["application/dicom+json", "application/json", "application/dicom+json, application/json"]
)
def test_metadata_of_each_level_is_a_list(web: httpx.Client, level: str, accept: str):
    """One object an instance, without pixels."""
    answer = get(web, f"{level}/metadata", accept)
    found = json.loads(answer.content, parse_constant=pytest.fail)
    assert (1 if "instances" in level else len(NUMBERS)) == len(found)
    assert accept.split(",", maxsplit=1)[0] == answer.headers["content-type"]
    first = next(each for each in found if each["00080018"]["Value"] == [uid("plain")])
    assert [{"Alphabetic": "Ärmel^Zoë"}] == first["00100010"]["Value"]
    assert list(first) == sorted(first)


def test_bulk_data_are_found_where_the_metadata_say(web: httpx.Client):
    """Words of an overlay, pixels uncompressed and compressed; single and in a part; by ranges."""
    (found,) = get(web, path("plain", "/metadata")).json()
    overlay = found["60003000"]["BulkDataURI"]
    expected = bytes(range(256)) * 32
    single = get(web, overlay, "application/octet-stream")
    assert (expected, overlay) == (single.content, single.headers["content-location"])
    assert expected == get(web, overlay).content
    ((headers, content),) = parts(get(web, overlay, "multipart/related; type=application/octet-stream"))
    assert (expected, f"application/octet-stream; transfer-syntax={EXPLICIT}") == (content, headers["Content-Type"])
    part = get(web, overlay, "application/octet-stream", range="bytes=-10")
    assert (206, expected[-10:]) == (part.status_code, part.content)
    assert 416 == get(web, overlay, "application/octet-stream", range="bytes=99999-").status_code
    assert GREY.tobytes() == get(web, found["7FE00010"]["BulkDataURI"], "application/octet-stream").content
    (other,) = get(web, path("frames", "/metadata")).json()
    assert 3 == len(parts(get(web, other["7FE00010"]["BulkDataURI"])))
    (turned,) = get(web, path("big endian", "/metadata")).json()
    assert GREY.tobytes() == get(web, turned["7FE00010"]["BulkDataURI"], "application/octet-stream").content


@pytest.mark.parametrize(
    "address",
    [
        "00100099",
        "0010",
        "..%2f..%2fcatalog.db",
        "00100020/1/00100020",
        "60003000/1/00100020",
        "%00",
        "7FE00010/0/00100020",
    ],
)
def test_address_that_names_no_value_is_not_found(web: httpx.Client, address: str):
    """Nothing but elements of the instance can be named."""
    assert 404 == get(web, path("plain", f"/bulkdata/{address}")).status_code


def test_rendered_frame_is_a_picture_of_it(web: httpx.Client):
    """JPEG by default, PNG where it is asked for; window, viewport and region are obeyed."""
    picture = get(web, path("plain", "/rendered"))
    assert ("image/jpeg", (ROWS, COLUMNS)) == (
        picture.headers["content-type"],
        imagecodecs.jpeg8_decode(picture.content).shape,
    )
    png = get(web, path("frames", "/frames/2/rendered?window=2000,4096,linear"), "image/png")
    assert "image/png" == png.headers["content-type"]
    shown = imagecodecs.png_decode(png.content)
    levels = np.clip((FRAMES[1] - 1999.5) / 4095 * 255 + 127.5, 0, 255)
    assert 1 >= np.abs(shown.astype(float) - levels).max()
    for function in ("linear-exact", "sigmoid"):
        assert 200 == get(web, path("plain", f"/rendered?window=100,200,{function}")).status_code
    small = get(web, path("plain", "/rendered?viewport=16,16&quality=50"))
    assert (12, 16) == imagecodecs.jpeg8_decode(small.content).shape
    region = get(web, path("plain", "/rendered?viewport=100,100,0,0,10,20"), "image/png")
    assert (100, 50) == imagecodecs.png_decode(region.content).shape
    assert 200 == get(web, path("jpeg-ls", "/rendered"), "image/jpeg").status_code


@pytest.mark.parametrize(
    "query",
    [
        "viewport=0,5",
        "viewport=99999999,1",
        "viewport=a,b",
        "viewport=1,2,3",
        "window=1,2",
        "window=1,nan,linear",
        "window=1,0,linear",
        "window=1,2,cubic",
        "quality=0",
        "quality=x",
    ],
)
def test_parameter_that_is_none_is_refused(web: httpx.Client, query: str):
    """400, and no picture that looks like another."""
    assert 400 == get(web, path("plain", f"/rendered?{query}")).status_code


def test_thumbnail_of_each_level_is_small(web: httpx.Client):
    """Of a series the middle one, or the next that has pixels."""
    for address in (
        f"/studies/{STUDY}",
        f"/studies/{STUDY}/series/{SERIES}",
        path("plain"),
        path("frames", "/frames/3"),
    ):
        answer = get(web, f"{address}/thumbnail?viewport=20,20", "image/jpeg")
        assert 200 == answer.status_code, answer.text
        assert 20 == max(imagecodecs.jpeg8_decode(answer.content).shape[:2])
    assert 406 == get(web, path("plain", "/thumbnail"), "image/tiff").status_code


def test_answer_is_not_sent_again_to_who_has_it(web: httpx.Client):
    """304; another way of asking is another answer."""
    for address in (
        f"/studies/{STUDY}/metadata",
        path("plain"),
        path("plain", "/frames/1"),
        path("plain", "/rendered"),
    ):
        first = get(web, address)
        again = get(web, address, **{"if-none-match": f'"other", {first.headers["etag"]}'})
        assert (304, b"", first.headers["etag"]) == (again.status_code, again.content, again.headers["etag"])
        assert 200 == get(web, address, **{"if-none-match": '"other"'}).status_code
        assert "private, no-cache" == first.headers["cache-control"]
    tags = {get(web, path("jpeg-ls"), accept).headers["etag"] for accept in (ANY, PLAIN)}
    assert 2 == len(tags)


def test_head_has_the_headers_alone(web: httpx.Client):
    """Without making the answer."""
    whole = get(web, path("jpeg-ls"), ANY)
    head = web.head(path("jpeg-ls"), headers={"accept": ANY})
    assert (200, b"", whole.headers["content-length"]) == (
        head.status_code,
        head.content,
        head.headers["content-length"],
    )
    assert 200 == web.head(path("plain", "/metadata")).status_code


def test_metadata_is_packed_and_images_are_not(web: httpx.Client):
    """Gzip where it is accepted."""
    packed = web.get(f"/studies/{STUDY}/metadata", headers={"accept-encoding": "gzip"})
    assert "gzip" == packed.headers["content-encoding"]
    assert packed.json() == web.get(f"/studies/{STUDY}/metadata", headers={"accept-encoding": "gzip;q=0"}).json()
    assert "content-encoding" not in web.get(path("plain"), headers={"accept-encoding": "gzip"}).headers
    assert gzip  # the client unpacks


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/studies/1.2.3", 404),
        ("/studies/1.2.3/metadata", 404),
        (f"/studies/1.2.3/series/{SERIES}", 404),
        (f"/studies/{OTHER}/series/{SERIES}/instances/{SERIES}.1", 404),
        ("/studies/abc", 400),
        ("/studies/%2e%2e", 400),
        (f"/studies/{'1' * 65}", 400),
        (f"/studies/{STUDY}?version={'0' * 64}", 404),
        (f"/studies/{STUDY}?version=%00", 400),
    ],
)
def test_what_is_not_there_is_not_found(web: httpx.Client, address: str, status: int):
    """Never an empty success."""
    assert status == get(web, address).status_code


def test_retrievals_are_written_down(web: httpx.Client, noted: Noted):
    """Who, what, and of which study, series or instance."""
    noted.clear()
    get(web, path("plain"), ANY)
    get(web, path("plain", "/frames/1"))
    get(web, path("plain", "/metadata"))
    assert [
        ("archive_retrieve", uid("plain"), {"what": "objects"}),
        ("archive_retrieve", SERIES, {"what": "frames"}),
        ("archive_retrieve", SERIES, {"what": "metadata"}),
    ] == [tuple(each[1:]) for each in noted]


def test_broken_object_ends_the_answer_without_its_end(stored: StoredArchive, noted: Noted):
    """The first piece fails with a status; behind it the connection breaks, so that no part is taken for the whole."""
    series = f"{STUDY}.9"
    stored.receive(*(as_stored(image(EXPLICIT, GREY.tobytes()), number, series=series) for number in (1, 2)))
    gone = stored.folder / "objects" / stored.keys[f"{series}.2"]
    gone.unlink()
    archive = archive_over(stored.engine, noted, stored.store)
    with asking(archive) as web:
        assert 404 == get(web, f"/studies/{STUDY}/series/{series}/instances/{series}.2").status_code
        assert 404 == get(web, f"/studies/{STUDY}/series/{series}/instances/{series}.2/metadata").status_code
        for accept in (ANY, PLAIN):
            with pytest.raises(httpx.RemoteProtocolError):
                get(web, f"/studies/{STUDY}/series/{series}", accept)
        answer = get(web, f"/studies/{STUDY}/metadata")
        assert (500, True) == (answer.status_code, f"{series}.2" in answer.text)
    archive.conversions.close()
