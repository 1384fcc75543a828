"""STOW-RS: what is told as stored is in the spool as a C-STORE would have put it; each refusal has its reason."""

import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from framed import GREY, ROOT, encode, image
from obstore.store import MemoryStore
from stored_archive import SERIES, STUDY, as_stored
from web_archive import Noted, archive_over, asking

from dicomflow.archive.web.access import WebAccess
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.edge.receive.posting import Posting
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.lane import Lane
from dicomflow.visitors import Proxy

MULTIPART = 'multipart/related; type="application/dicom"; boundary=XX'


class Site:
    """A spool that takes images over the web."""

    def __init__(self, folder: Path, free_bytes: int = 10**12) -> None:
        settings = SpoolSettings(dir=folder)
        self.lane = Lane(folder, "web", fsync=True)
        self.draining = threading.Event()
        watermark = Watermark(settings, measure=lambda _: free_bytes)
        self.posting = Posting(self.lane, watermark, "ARCHIVE", self.draining)

    def stored(self) -> list[bytes]:
        """Return the files that are in the lane."""
        return sorted(path.read_bytes() for path in self.lane.folder.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a spool."""
    return Site(tmp_path / "spool")


@pytest.fixture(scope="module")
def noted() -> Noted:
    """Give the audit trail."""
    return Noted()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, noted: Noted) -> Iterator[Any]:
    """Give an archive without images."""
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('stow') / 'catalog.db'}")
    migrate(engine)
    yield archive_over(engine, noted, MemoryStore())
    engine.dispose()


@pytest.fixture
def web(archive: Any, site: Site) -> Iterator[httpx.Client]:
    """Give a client of the archive with that spool."""
    with asking(archive, store=site.posting) as client:
        yield client


def grey(number: int, syntax: str = f"{ROOT}.1", **changes: Any) -> bytes:
    """Return an object."""
    dataset = as_stored(image(syntax, GREY.tobytes()), number)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return encode(dataset)


def body_of(*objects: bytes) -> bytes:
    """Return a body with an object in each part."""
    return (
        b"".join(b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + each + b"\r\n" for each in objects)
        + b"--XX--\r\n"
    )


def post(web: httpx.Client, body: bytes, path: str = "/studies", kind: str = MULTIPART) -> httpx.Response:
    """Store."""
    return web.post(path, content=body, headers={"content-type": kind})


def data_set(file: bytes) -> bytes:
    """Return a file without its meta information."""
    return file[decode_file_meta(file).data_set_offset :]


def reasons(answer: httpx.Response) -> list[int]:
    """Return the failure reasons that are told."""
    return [item["00081197"]["Value"][0] for item in answer.json().get("00081198", {}).get("Value", [])]


def test_objects_are_stored_and_told_with_their_addresses(web: httpx.Client, site: Site, noted: Noted):
    """200; the data set as it came, the sender where a C-STORE has the calling AE title; written down."""
    noted.clear()
    objects = [grey(1), grey(2, ROOT)]
    answer = post(web, body_of(*objects))
    assert 200 == answer.status_code
    document = answer.json()
    assert [f"{web.base_url}studies/{STUDY}"] == document["00081190"]["Value"]
    assert "00081198" not in document
    first = document["00081199"]["Value"][0]
    assert f"{SERIES}.1" == first["00081155"]["Value"][0]
    assert f"{web.base_url}studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1" == first["00081190"]["Value"][0]
    stored = site.stored()
    assert sorted(map(data_set, objects)) == sorted(map(data_set, stored))
    meta = decode_file_meta(stored[0])
    assert ("ARCHIVE", True) == (meta.called_ae_title, meta.calling_ae_title.startswith("web"))
    assert [("archive_store", STUDY, {"instances": 2, "refused": 0})] == [tuple(each[1:]) for each in noted]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/dicom", grey(1)),
        ("multipart/related; type=application/dicom; boundary=XX", body_of(grey(1))),
        ('multipart/related; boundary="XX"', body_of(grey(1))),
        ('Multipart/Related; Type="application/dicom"; Boundary="XX"', b"preamble\r\n" + body_of(grey(1))),
    ],
)
def test_body_is_taken_as_clients_write_it(web: httpx.Client, site: Site, kind: str, body: bytes):
    """Quoted and bare, without a type, and one object without parts."""
    assert 200 == post(web, body, kind=kind).status_code
    assert [data_set(grey(1))] == list(map(data_set, site.stored()))


def test_same_object_again_is_stored_again(web: httpx.Client):
    """A client that got no answer sends once more: that is no error."""
    assert [200, 200] == [post(web, body_of(grey(1))).status_code for _ in range(2)]


def test_one_refused_object_ends_none_of_the_others(web: httpx.Client, site: Site):
    """202 with each reason: no DICOM, another study, a class and a syntax that are not stored."""
    verification = as_stored(image(f"{ROOT}.1", GREY.tobytes()), 7, sop_class="1.2.840.10008.1.1")
    other = as_stored(image(f"{ROOT}.1", GREY.tobytes()), 8, study="9.9")
    live = grey(9).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.6.")
    objects = [b"rubbish", grey(1), encode(verification), encode(other), live, b"", grey(2)]
    answer = post(web, body_of(*objects), f"/studies/{STUDY}")
    assert 202 == answer.status_code
    assert [0xC000, 0x0122, 0x0110, 0xC122, 0xC000] == reasons(answer)
    assert sorted([data_set(grey(1)), data_set(grey(2))]) == sorted(map(data_set, site.stored()))
    named = answer.json()["00081198"]["Value"]
    assert ("00081155" in named[0], f"{SERIES}.8") == (False, named[2]["00081155"]["Value"][0])


@pytest.mark.parametrize(
    ("body", "status"),
    [(body_of(b"rubbish"), 409), (b"rubbish", 400), (b"", 400), (b"--XX--\r\n", 400), (body_of(grey(1))[:-40], 400)],
)
def test_nothing_stored_is_no_success(web: httpx.Client, site: Site, body: bytes, status: int):
    """409 for what is well-formed and refused, 400 for what is no body; nothing is left half received."""
    assert status == post(web, body).status_code
    assert [] == site.stored()


def test_body_that_is_cut_off_keeps_what_came_whole(web: httpx.Client, site: Site):
    """202 with a warning: the part that was under way is not stored."""
    answer = post(web, body_of(grey(1), grey(2))[:-400])
    assert (202, True) == (answer.status_code, answer.headers["warning"].startswith("299 "))
    assert [data_set(grey(1))] == list(map(data_set, site.stored()))


def test_spool_without_room_asks_to_come_again(archive: Any, tmp_path: Path):
    """503 with the time, and reason A700 for each."""
    site = Site(tmp_path / "full", free_bytes=0)
    with asking(archive, store=site.posting) as web:
        answer = post(web, body_of(grey(1)))
    assert (503, [0xA700], True) == (answer.status_code, reasons(answer), "retry-after" in answer.headers)


def test_stopping_receiver_takes_nothing(web: httpx.Client, site: Site):
    """As a C-STORE is refused then."""
    site.draining.set()
    assert 503 == post(web, body_of(grey(1))).status_code


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/dicom+json", 'multipart/related; type="application/dicom+json"; boundary=XX', ""],
)
def test_other_media_types_are_not_taken(web: httpx.Client, kind: str):
    """415."""
    assert 415 == post(web, body_of(grey(1)), kind=kind).status_code


def test_without_a_spool_nothing_is_stored(archive: Any):
    """405, at both paths."""
    with asking(archive) as web:
        assert [405, 405] == [post(web, b"", path).status_code for path in ("/studies", f"/studies/{STUDY}")]


def test_large_object_costs_no_memory(web: httpx.Client, site: Site):
    """It goes to the spool piece by piece; nothing is kept but its head."""
    large = image(f"{ROOT}.1", bytes(40 << 20), Rows=4096, Columns=5120)
    content = encode(as_stored(large, 1))
    taken: list[int] = []
    original = site.posting.open

    def watched(*asked: Any) -> Any:
        session = original(*asked)
        take = session.take

        class Watching:
            begin, end, close = session.begin, session.end, session.close

            @staticmethod
            def take(data: bytes) -> None:
                taken.append(len(data))
                take(data)

        return Watching

    site.posting.open = watched  # type: ignore[method-assign]
    assert 200 == post(web, body_of(content)).status_code
    assert [data_set(content)] == list(map(data_set, site.stored()))
    assert max(taken) < 2 << 20


def test_who_may_only_read_may_not_store(archive: Any, site: Site):
    """403, and nothing of the body is taken."""
    proxy = Proxy((ip_network("127.0.0.1/32"),), "X-User")
    with asking(archive, WebAccess(proxy=proxy), site.posting) as web:
        web.headers["x-user"] = "ada"
        assert 403 == post(web, body_of(grey(1))).status_code
    assert [] == site.stored()
