"""C-CANCEL is heard whatever is waited for: a destination that hangs, a store or a catalog that takes its time."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from dimse_archive import ALLOWED, StudyRoot, serving
from framed import GREY, image
from pydicom import Dataset
from pynetdicom import AE, build_role
from retrieving import CAPTURE, EXPLICIT, StudyGet, StudyMove, destined, keys, told
from stored_archive import as_stored, stored_archive
from waiting import WAIT_SECONDS
from web_archive import archive_over

from dicomflow.archive.archive import Archive
from dicomflow.archive.dimse.move import MoveDestination

COUNT = 3
MESSAGE_ID = 7


class Gate:
    """Something that does not come on until it is let; whoever waits there is seen. Threads: any."""

    def __init__(self) -> None:
        self.has_come, self._is_open = threading.Event(), threading.Event()
        self.was_let = True

    def wait(self) -> None:
        """Wait to be let on."""
        self.has_come.set()
        self.was_let = self._is_open.wait(WAIT_SECONDS)

    def open(self) -> None:
        """Let all on."""
        self._is_open.set()


class Slow:
    """One of an archive's parts, of which one method waits at a gate first."""

    def __init__(self, part: Any, name: str, gate: Gate) -> None:
        self._part, self._name, self._gate = part, name, gate

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            self._gate.wait()
        return getattr(self._part, name)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Give an archive of a series."""
    folder = tmp_path_factory.mktemp("archive")
    with stored_archive(folder) as stored:
        stored.receive(*(as_stored(image(EXPLICIT, GREY.tobytes()), number) for number in range(1, COUNT + 1)))
        yield archive_over(stored.engine, store=stored.store)


def cancelled(port: int, model: str, ask: Callable[[Any], Iterator[Any]], gate: Gate) -> tuple[list[int], Dataset]:
    """Ask, and cancel once the gate is reached; return all statuses and the final response."""
    ae = AE("READER")
    ae.add_requested_context(model)
    ae.add_requested_context(CAPTURE, [EXPLICIT])
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_SECONDS
    association = ae.associate("127.0.0.1", port, ae_title="ARCHIVE", ext_neg=[build_role(CAPTURE, scp_role=True)])
    assert association.is_established

    def cancel() -> None:
        assert gate.has_come.wait(WAIT_SECONDS)
        association.send_c_cancel(MESSAGE_ID, query_model=model)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        codes, last, _ = told(ask(association))
    finally:
        gate.open()
        canceller.join()
        association.release()
    assert gate.was_let, "the end came when the gate gave in"
    return codes, last


def test_cancelled_move_does_not_wait_for_a_destination_that_hangs(archive: Archive):
    """What it was sent last is not told as done, and the move ends though no answer comes."""
    gate = Gate()

    def hang(_: int) -> int:
        gate.wait()
        return 0

    with destined(status=hang) as destination:
        to = {"DEST": MoveDestination("127.0.0.1", destination.port, "DEST", "ARCHIVE")}
        with serving(archive, ALLOWED, to) as server:
            codes, last = cancelled(
                server.ports[0], StudyMove, lambda a: a.send_c_move(keys(), "DEST", StudyMove, msg_id=MESSAGE_ID), gate
            )
    assert 0xFE00 == codes[-1]
    assert (0, COUNT) == (last.NumberOfCompletedSuboperations, last.NumberOfRemainingSuboperations)


@pytest.mark.parametrize("part", ["find", "chunks"])
@pytest.mark.parametrize("model", [StudyGet, StudyMove])
def test_cancelled_retrieval_does_not_wait_for_what_is_slow(archive: Archive, model: str, part: str):
    """Neither while the objects are looked for nor while one is read."""
    gate = Gate()
    slow = replace(archive, retrieval=Slow(archive.retrieval, part, gate))

    def ask(association: Any) -> Iterator[Any]:
        if model == StudyGet:
            return iter(association.send_c_get(keys(), StudyGet, msg_id=MESSAGE_ID))
        return iter(association.send_c_move(keys(), "DEST", StudyMove, msg_id=MESSAGE_ID))

    with destined() as destination:
        to = {"DEST": MoveDestination("127.0.0.1", destination.port, "DEST", "ARCHIVE")}
        with serving(slow, ALLOWED, to) as server:
            codes, last = cancelled(server.ports[0], model, ask, gate)
    assert 0xFE00 == codes[-1]
    assert (COUNT if part == "chunks" else None) == last.get("NumberOfRemainingSuboperations")


def test_cancelled_query_does_not_wait_for_a_slow_catalog(archive: Archive):
    """Nothing found is not said of what was not looked at."""
    gate = Gate()
    slow = replace(archive, query=Slow(archive.query, "ask", gate))
    with serving(slow) as server:
        codes, _ = cancelled(
            server.ports[0], StudyRoot, lambda a: a.send_c_find(keys(), StudyRoot, msg_id=MESSAGE_ID), gate
        )
    assert [0xFE00] == codes
