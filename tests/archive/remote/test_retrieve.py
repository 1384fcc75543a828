"""C-MOVE and C-GET of what an archive elsewhere has: as it has it, or as it decompresses it, and each counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from dimse_archive import find, serving
from edge_daemon import EdgeDaemon
from framed import GREY, ROOT, image
from pydicom.encaps import encapsulate
from retrieving import EXPLICIT, JPEG_LS, MOVIE, Getter, as_read, counts, data_set, destined, keys, move
from stored_archive import SERIES, STUDY, StoredArchive, as_stored, stored_archive
from waiting import WAIT_SECONDS
from web_archive import archive_over, asking

from dicomflow.archive.dimse.move import MoveDestination
from dicomflow.archive.remote.building import open_remote_archive
from dicomflow.archive.remote.origin import Kind, Origin

COUNT = 40
MIXED = "1.2.826.0.1.5"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredArchive]:
    """Give an archive of a series, and of a study of many syntaxes."""
    folder = tmp_path_factory.mktemp("origin")
    with stored_archive(folder) as found:
        found.receive(*(as_stored(image(EXPLICIT, GREY.tobytes()), number) for number in range(1, COUNT + 1)))
        kinds = [
            image(EXPLICIT, GREY.tobytes()),
            image(ROOT, GREY.tobytes()),
            image(JPEG_LS, encapsulate([imagecodecs.jpegls_encode(GREY)]), is_encapsulated=True),
            image(MOVIE, encapsulate([b"movie..."]), is_encapsulated=True),
        ]
        found.receive(*(as_stored(kind, at, study=MIXED, series=f"{MIXED}.1") for at, kind in enumerate(kinds, 1)))
        yield found


@pytest.fixture(scope="module")
def url(stored: StoredArchive) -> Iterator[str]:
    """Give the origin's address."""
    archive = archive_over(stored.engine, None, stored.store)
    with asking(archive) as client:
        yield str(client.base_url).rstrip("/")
    archive.conversions.close()


@contextmanager
def edge_of(url: str, port: int = 1) -> Iterator[int]:
    """Serve what the origin has, with one destination; give the port."""
    destinations = {"DEST": MoveDestination("127.0.0.1", port, "DEST", "ARCHIVE", timeout_seconds=WAIT_SECONDS)}
    with (
        open_remote_archive(Origin(url, Kind.DICOMFLOW), "EDGE", sleep=lambda _seconds: None) as archive,
        serving(archive, destinations=destinations) as server,
    ):
        yield server.ports[0]


def test_moved_objects_arrive_as_the_origin_has_them(stored: StoredArchive, url: str):
    """Byte for byte in their order; Implicit VR comes in Explicit, as the web has no other (PS3.18 8.7.3)."""
    with destined() as destination, edge_of(url, destination.port) as port:
        codes, last, failed = move(port, keys())
        assert (0x0000, (COUNT, 0, 0), []) == (codes[-1], counts(last), failed)
        order = [str(each.AffectedSOPInstanceUID) for each, _ in destination.received]
        assert [f"{SERIES}.{number}" for number in range(1, COUNT + 1)] == order
        codes, last, _ = move(port, keys(StudyInstanceUID=MIXED))
        assert (0x0000, (4, 0, 0)) == (codes[-1], counts(last))
    found = destination.data_sets()
    implicit = f"{MIXED}.1.2"
    assert all(data_set(stored.contents[uid]) == encoded for uid, (encoded, _) in found.items() if uid != implicit)
    assert [EXPLICIT, EXPLICIT, JPEG_LS, MOVIE] == [found[f"{MIXED}.1.{number}"][1] for number in (1, 2, 3, 4)]
    assert np.array_equal(GREY, as_read(*found[implicit]).pixel_array)


@pytest.mark.parametrize("only", [EXPLICIT, ROOT])
def test_origin_decompresses_what_is_not_taken(url: str, only: str):
    """A destination that takes no compression gets all but the film, which nobody decompresses."""
    with destined(only) as destination, edge_of(url, destination.port) as port:
        codes, last, failed = move(port, keys(StudyInstanceUID=MIXED))
    assert (0xB000, (3, 1, 0), [f"{MIXED}.1.4"]) == (codes[-1], counts(last), failed)
    for encoded, syntax in destination.data_sets().values():
        assert only == syntax
        assert np.array_equal(GREY, as_read(encoded, syntax).pixel_array)


def test_get_cancel_and_an_object_that_is_gone(stored: StoredArchive, url: str):
    """What is fetched ahead is let go of; an object that the origin has lost is a failed sub-operation."""
    with edge_of(url) as port:
        getter = Getter(EXPLICIT, JPEG_LS)
        codes, last, failed = getter.get(port, keys(StudyInstanceUID=MIXED))
        assert (0xB000, (3, 1, 0), [f"{MIXED}.1.4"]) == (codes[-1], counts(last), failed)
        getter = Getter()
        getter.cancel_at = 3
        codes, last, _ = getter.get(port, keys())
        assert 0xFE00 == codes[-1]
        assert COUNT == last.NumberOfCompletedSuboperations + last.NumberOfRemainingSuboperations
        gone, kept = stored.folder / "objects" / stored.keys[f"{SERIES}.7"], stored.folder / "kept"
        gone.rename(kept)
        try:
            codes, last, failed = Getter().get(port, keys())
        finally:
            kept.rename(gone)
        assert (0xB000, (COUNT - 1, 1, 0), [f"{SERIES}.7"]) == (codes[-1], counts(last), failed)


def test_edge_answers_its_peers_from_the_origin(tmp_path: Path, url: str):
    """`dicomflow edge` with `dicomweb_url`, as it is installed: C-FIND and C-MOVE beside storage on its port."""
    with destined() as destination:
        edge = EdgeDaemon(tmp_path, dimse={"ae_title": "EDGE"})
        with edge.config.open("a") as config:
            config.write(f'[archive]\ndicomweb_url = "{url}"\n')
            config.write("[archive.peers.READER]\nquery = true\nretrieve = true\n")
            config.write(f'[destinations.dest]\nhost = "127.0.0.1"\nport = {destination.port}\nae_title = "DEST"\n')
        edge.start()
        try:
            asked = {"QueryRetrieveLevel": "STUDY", "PatientName": "Armel*"}
            answers, statuses, _ = find(edge.port, asked, called="EDGE")
            assert ({STUDY, MIXED}, [0xFF00, 0xFF00, 0]) == ({each.StudyInstanceUID for each in answers}, statuses)
            assert 0x0124 in find(edge.port, {"QueryRetrieveLevel": "STUDY"}, calling="OTHER", called="EDGE")[1]
            codes, last, _ = move(edge.port, keys(), called="EDGE")
            assert (0x0000, (COUNT, 0, 0)) == (codes[-1], counts(last))
            assert "archive_retrieve principal=dimse:READER" in edge.log.read_text()
            assert "rmel" not in edge.log.read_text()
        finally:
            edge.close()
