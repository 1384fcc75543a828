"""C-MOVE and C-GET: what is stored arrives as it is, what does not is counted, and nothing fails as a success."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from dimse_archive import serving
from framed import GREY, ROOT, image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pynetdicom import AE
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelGet as PatientGet
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelMove as PatientMove
from retrieving import (
    EXPLICIT,
    JPEG_LS,
    MOVIE,
    Getter,
    StudyMove,
    as_read,
    counts,
    data_set,
    destined,
    keys,
    move,
    told,
)
from sqlalchemy import text
from stored_archive import SERIES, STUDY, StoredArchive, as_stored, stored_archive
from waiting import WAIT_SECONDS
from web_archive import Noted, archive_over

from dicomflow.archive.dimse.move import MoveDestination

COUNT = 12
MIXED = "1.2.826.0.1.5"  # a study of an object in each of some syntaxes


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredArchive]:
    """Give an archive of a series, and of a study of many syntaxes."""
    folder = tmp_path_factory.mktemp("archive")
    with stored_archive(folder) as found:
        found.receive(*(as_stored(image(EXPLICIT, GREY.tobytes()), number) for number in range(1, COUNT + 1)))
        packed = imagecodecs.jpegls_encode(GREY)
        kinds = [
            image(EXPLICIT, GREY.tobytes()),
            image(ROOT, GREY.tobytes()),
            image(JPEG_LS, encapsulate([packed]), is_encapsulated=True),
            image(MOVIE, encapsulate([b"movie..."]), is_encapsulated=True),
        ]
        found.receive(*(as_stored(kind, at, study=MIXED, series=f"{MIXED}.1") for at, kind in enumerate(kinds, 1)))
        yield found


@pytest.fixture(scope="module")
def noted() -> Noted:
    """Give the audit trail."""
    return Noted()


@contextmanager
def archive_of(stored: StoredArchive, noted: Noted, port: int = 1) -> Iterator[int]:
    """Serve the archive, with one destination; give its port."""
    archive = archive_over(stored.engine, noted, stored.store)
    destinations = {"DEST": MoveDestination("127.0.0.1", port, "DEST", "ARCHIVE", timeout_seconds=WAIT_SECONDS)}
    with serving(archive, destinations=destinations) as server:
        yield server.ports[0]
    archive.conversions.close()


def test_moved_objects_arrive_as_they_are_stored(stored: StoredArchive, noted: Noted):
    """Byte for byte, each in its syntax, with whose C-MOVE it was; written down with where they went."""
    noted.clear()
    with destined() as destination, archive_of(stored, noted, destination.port) as port:
        codes, last, failed = move(port, keys())
        assert (0x0000, (COUNT, 0, 0), []) == (codes[-1], counts(last), failed)
        assert {0xFF00} == set(codes[:-1])
        assert "NumberOfRemainingSuboperations" not in last
        codes, last, _ = move(port, keys(StudyInstanceUID=MIXED))
        assert (0x0000, (4, 0, 0)) == (codes[-1], counts(last))
    found = destination.data_sets()
    assert COUNT + 4 == len(found)
    assert all(data_set(stored.contents[uid]) == encoded for uid, (encoded, _) in found.items())
    assert [EXPLICIT, ROOT, JPEG_LS, MOVIE] == [found[f"{MIXED}.1.{number}"][1] for number in (1, 2, 3, 4)]
    assert {("READER", 7)} == destination.originators
    details = {"what": "objects", "level": "STUDY", "instances": COUNT, "by": "C-MOVE", "to": "DEST"}
    assert ("dimse:READER", "archive_retrieve", STUDY, details) == noted[0]


@pytest.mark.parametrize("only", [EXPLICIT, ROOT])
def test_object_is_converted_where_its_syntax_is_not_taken(stored: StoredArchive, noted: Noted, only: str):
    """To what the destination takes; what no codec reads is a failed sub-operation."""
    with destined(only) as destination, archive_of(stored, noted, destination.port) as port:
        codes, last, failed = move(port, keys(StudyInstanceUID=MIXED))
    assert (0xB000, (3, 1, 0), [f"{MIXED}.1.4"]) == (codes[-1], counts(last), failed)
    for encoded, syntax in destination.data_sets().values():
        assert only == syntax
        assert np.array_equal(GREY, as_read(encoded, syntax).pixel_array)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (lambda number: 0xA700 if number % 3 == 0 else 0, (0xB000, (8, 4, 0))),
        (lambda _: 0xB000, (0xB000, (0, 0, COUNT))),
        (lambda _: 0xA700, (0xA702, (0, COUNT, 0))),
    ],
    ids=["third", "warnings", "all"],
)
def test_third_store_refused_is_b000_with_list(
    stored: StoredArchive, noted: Noted, status: Callable[[int], int], expected: Any
):
    """PS3.4 C.4.2.3.1: one refused object is a failed sub-operation and not the end, for both services."""
    with destined(status=status) as destination, archive_of(stored, noted, destination.port) as port:
        codes, last, failed = move(port, keys())
        getter = Getter(status=status)
        got, final, missing = getter.get(port, keys())
    assert COUNT == len(destination.received) == len(getter.received)
    assert expected == (codes[-1], counts(last)) == (got[-1], counts(final))
    assert len(failed) == expected[1][1]
    assert missing == failed


def test_destination_that_is_not_there_fails_all_with_list(stored: StoredArchive, noted: Noted):
    """A702, and each UID."""
    with archive_of(stored, noted) as port:
        codes, last, failed = move(port, keys())
    assert (0xA702, (0, COUNT, 0), COUNT) == (codes[-1], counts(last), len(failed))


def test_destination_that_breaks_off_once_gets_the_rest(stored: StoredArchive, noted: Noted):
    """The object under way has failed; the others come on another association."""
    with (
        destined(status=lambda number: -1 if number == 5 else 0) as destination,
        archive_of(stored, noted, destination.port) as port,
    ):
        codes, last, failed = move(port, keys())
    assert (0xB000, (COUNT - 1, 1, 0), 1) == (codes[-1], counts(last), len(failed))


def test_destination_that_breaks_off_each_time_is_given_up(stored: StoredArchive, noted: Noted):
    """Not tried for each of thousands."""
    with destined(status=lambda _: -1) as destination, archive_of(stored, noted, destination.port) as port:
        codes, last, _ = move(port, keys())
    assert (0xA702, (0, COUNT, 0)) == (codes[-1], counts(last))
    assert len(destination.received) <= 2


def test_unknown_destination_is_a801(stored: StoredArchive, noted: Noted):
    """Before anything is looked for."""
    with archive_of(stored, noted) as port:
        assert [0xA801] == move(port, keys(), to="ELSEWHERE")[0]


@pytest.mark.parametrize("service", ["move", "get"])
@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (keys(), COUNT),
        (keys("SERIES", SeriesInstanceUID=SERIES), COUNT),
        (keys("SERIES", SeriesInstanceUID=SERIES, StudyInstanceUID=STUDY), COUNT),
        (keys("IMAGE", SOPInstanceUID=f"{SERIES}.2\\{SERIES}.1\\{SERIES}.2"), 2),
        (keys("IMAGE", SOPInstanceUID=f"{SERIES}.2\\9.9"), 1),
        (keys("STUDY", StudyInstanceUID=STUDY, AccessionNumber="other", PatientID="other"), COUNT),
        (keys("SERIES", SeriesInstanceUID=SERIES, StudyInstanceUID=MIXED), 0),
        (keys("STUDY", StudyInstanceUID="9.9"), 0),
    ],
)
def test_identifier_selects_what_it_means(
    stored: StoredArchive, noted: Noted, service: str, identifier: Dataset, expected: int
):
    """Parents may be missing, lists mean any of them once, other keys are passed over; nothing found is 0000, none."""
    if service == "get":
        with archive_of(stored, noted) as port:
            codes, last, _ = Getter().get(port, identifier)
    else:
        with destined() as destination, archive_of(stored, noted, destination.port) as port:
            codes, last, _ = move(port, identifier)
        assert expected == len(destination.received)
    assert (0x0000, (expected, 0, 0)) == (codes[-1], counts(last))


@pytest.mark.parametrize(
    "identifier",
    [
        keys("STUDY", PatientID="P1"),
        keys("PATIENT", PatientID="P1"),
        keys("", StudyInstanceUID=STUDY),
        keys("IMAGE", StudyInstanceUID=STUDY),
    ],
)
def test_identifier_that_means_nothing_is_a900(stored: StoredArchive, noted: Noted, identifier: Dataset):
    """A study without its UID would give a whole patient out."""
    with archive_of(stored, noted) as port:
        assert [[0xA900]] * 2 == [move(port, identifier)[0], Getter().get(port, identifier)[0]]


def test_patient_root_knows_patients(stored: StoredArchive, noted: Noted):
    """All of one, or a study of theirs; another's study is none."""
    with destined() as destination, archive_of(stored, noted, destination.port) as port:
        codes, last, _ = move(port, keys("PATIENT", PatientID="P1"), model=PatientMove)
        assert (0x0000, (COUNT + 4, 0, 0)) == (codes[-1], counts(last))
        codes, last, _ = move(port, keys("STUDY", StudyInstanceUID=STUDY, PatientID="P2"), model=PatientMove)
        assert (0x0000, (0, 0, 0)) == (codes[-1], counts(last))
        codes, last, _ = Getter().get(port, keys("STUDY", StudyInstanceUID=STUDY, PatientID="P1"), model=PatientGet)
        assert (0x0000, (COUNT, 0, 0)) == (codes[-1], counts(last))


def test_peer_without_the_right_is_refused(stored: StoredArchive, noted: Noted):
    """0124, and never an empty success; of what there is nothing is told."""
    with archive_of(stored, noted) as port:
        assert [0x0124] == move(port, keys(), calling="NOBODY")[0]
        assert [0x0124] == move(port, keys(), to="ELSEWHERE", calling="NOBODY")[0]
        assert [0x0124] == Getter().get(port, keys(), calling="NOBODY")[0]


def test_got_objects_arrive_as_they_are_stored(stored: StoredArchive, noted: Noted):
    """In the context that fits, the others converted to it; what no codec reads has failed."""
    with archive_of(stored, noted) as port:
        getter = Getter(EXPLICIT, JPEG_LS)
        codes, last, failed = getter.get(port, keys(StudyInstanceUID=MIXED))
    assert (0xB000, (3, 1, 0), [f"{MIXED}.1.4"]) == (codes[-1], counts(last), failed)
    encoded, syntax = getter.received[f"{MIXED}.1.1"]
    assert (data_set(stored.contents[f"{MIXED}.1.1"]), EXPLICIT) == (encoded, syntax)
    assert all(np.array_equal(GREY, as_read(*each).pixel_array) for each in getter.received.values())


def test_no_role_is_a702_with_list(stored: StoredArchive, noted: Noted):
    """Whom nothing can be sent to gets no success."""
    with archive_of(stored, noted) as port:
        codes, last, failed = Getter(role=False).get(port, keys())
    assert (0xA702, (0, COUNT, 0), COUNT) == (codes[-1], counts(last), len(failed))


def test_cancelled_get_ends_with_what_is_left(stored: StoredArchive, noted: Noted):
    """FE00: what was sent and what was not make the whole."""
    with archive_of(stored, noted) as port:
        getter = Getter()
        getter.cancel_at = 3
        codes, last, failed = getter.get(port, keys())
    assert 0xFE00 == codes[-1]
    assert COUNT == last.NumberOfCompletedSuboperations + last.NumberOfRemainingSuboperations
    assert (len(getter.received), []) == (last.NumberOfCompletedSuboperations, failed)
    assert last.NumberOfRemainingSuboperations


def test_cancelled_move_ends_with_what_is_left(stored: StoredArchive, noted: Noted):
    """The requestor is heard while objects are sent elsewhere."""
    slow = threading.Event()

    def answer(number: int) -> int:
        if number > 2:
            slow.wait(0.2)
        return 0

    with destined(status=answer) as destination, archive_of(stored, noted, destination.port) as port:
        ae = AE("READER")
        ae.add_requested_context(StudyMove)
        association = ae.associate("127.0.0.1", port, ae_title="ARCHIVE")
        responses = association.send_c_move(keys(), "DEST", StudyMove, msg_id=7)
        first = next(responses)
        assert destination.has_come.wait(WAIT_SECONDS)
        association.send_c_cancel(7, query_model=StudyMove)
        codes, last, _ = told([first, *responses])
        association.release()
    assert 0xFE00 == codes[-1]
    assert COUNT == last.NumberOfCompletedSuboperations + last.NumberOfRemainingSuboperations
    assert 0 < last.NumberOfRemainingSuboperations


def test_object_that_is_gone_is_a_failed_suboperation(stored: StoredArchive, noted: Noted):
    """The others come."""
    series = f"{STUDY}.7"
    study = "1.2.826.0.1.7"
    images = [as_stored(image(EXPLICIT, GREY.tobytes()), number, study=study, series=series) for number in (1, 2, 3)]
    stored.receive(*images)
    (stored.folder / "objects" / stored.keys[f"{series}.2"]).unlink()
    with destined() as destination, archive_of(stored, noted, destination.port) as port:
        codes, last, failed = move(port, keys(StudyInstanceUID=study))
        assert (0xB000, (2, 1, 0), [f"{series}.2"]) == (codes[-1], counts(last), failed)
        codes, last, failed = Getter().get(port, keys(StudyInstanceUID=study))
        assert (0xB000, (2, 1, 0), [f"{series}.2"]) == (codes[-1], counts(last), failed)


def test_catalog_that_is_away_is_a_failure(tmp_path: Path, noted: Noted):
    """A701, never 0000 with none."""
    with stored_archive(tmp_path) as stored:
        with stored.engine.begin() as connection:
            connection.execute(text("ALTER TABLE instance RENAME TO instance_gone"))
        with archive_of(stored, noted) as port:
            assert [[0xA701]] * 2 == [move(port, keys())[0], Getter().get(port, keys())[0]]


@pytest.mark.interop
def test_dcmtk_gets_and_moves(stored: StoredArchive, noted: Noted, tmp_path: Path):
    """Getscu to files, and movescu to another node."""
    getscu, movescu = (shutil.which(name) for name in ("getscu", "movescu"))
    if getscu is None or movescu is None:
        pytest.skip("DCMTK is not installed (package dcmtk)")
    asked = ["-S", "-aet", "READER", "-aec", "ARCHIVE", "-k", "0008,0052=STUDY", "-k", f"0020,000D={STUDY}"]
    with destined() as destination, archive_of(stored, noted, destination.port) as port:
        where = ["127.0.0.1", str(port)]
        subprocess.run([getscu, *asked, "-od", str(tmp_path), *where], check=True, timeout=WAIT_SECONDS)
        subprocess.run([movescu, *asked, "-aem", "DEST", *where], check=True, timeout=WAIT_SECONDS)
    assert COUNT == len(destination.data_sets()) == len(list(tmp_path.iterdir()))
    for path in tmp_path.iterdir():
        found = dcmread(path)
        assert np.array_equal(GREY, found.pixel_array)
