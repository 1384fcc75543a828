"""Many files over several associations, whatever becomes of these."""

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from waiting import WAIT_SECONDS, free_ports

from dicomflow import samples
from dicomflow.send import sending as sending_module
from dicomflow.send.association import Outcome
from dicomflow.send.files import Candidate, find_candidates
from dicomflow.send.sending import Receiver, Sending, Skipped


class Relay:
    """Passes connections on to a receiver, and breaks the first ones after some bytes. Threads of its own."""

    def __init__(self, port: int, *, breaks: int, after_bytes: int) -> None:
        self._target = port
        self._left = breaks
        self._after_bytes = after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            breaks, self._left = self._left > 0, self._left - 1
            server = socket.create_connection(("127.0.0.1", self._target))
            limit = self._after_bytes if breaks else None
            threading.Thread(target=self._pass, args=(client, server, limit), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, None), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        with source, target:
            try:
                while data := source.recv(4096):
                    passed += len(data)
                    if limit is not None and passed > limit:
                        target.shutdown(socket.SHUT_RDWR)
                        source.shutdown(socket.SHUT_RDWR)
                        return
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                return


@pytest.fixture
def relay_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Relay]]:
    """Make relays to a port; pauses between attempts are short."""
    monkeypatch.setattr(sending_module, "_FIRST_PAUSE_SECONDS", 0.01)
    made: list[Relay] = []

    def _relay_to(port: int, **faults: int) -> Relay:
        made.append(Relay(port, **faults))
        return made[-1]

    yield _relay_to
    for relay in made:
        relay.close()


@pytest.fixture
def send_to(tmp_path: Path) -> Callable[..., Counter[str]]:
    """Send twenty images and a text file; give how often each end was reported."""
    samples.write(samples.ct_study(7, series=2, slices=10), tmp_path / "images")
    (tmp_path / "images" / "notes.txt").write_text("no DICOM")

    def _send_to(port: int, **options: Any) -> Counter[str]:
        ends: dict[Candidate, list[str]] = {}

        def report(candidate: Candidate, became: Outcome | Skipped) -> None:
            text = "skipped" if isinstance(became, Skipped) else "stored" if became.is_stored else became.reason
            ends.setdefault(candidate, []).append(text)

        options = {"associations": 3, "retries": 2, "batch_files": 4} | options
        sending = Sending(Receiver("127.0.0.1", port, "CT1", "DICOMFLOW", WAIT_SECONDS), report, **options)
        sending.run(find_candidates([tmp_path / "images"]))
        assert 21 == len(ends)
        assert all(1 == len(reports) for reports in ends.values())
        return Counter(text for (text,) in ends.values())

    return _send_to


@pytest.mark.parametrize("associations", [1, 3])
def test_sending_reports_each_file_once(receiver: Any, send_to: Any, associations: int):
    """Everything is stored, over one association or several."""
    assert {"stored": 20, "skipped": 1} == send_to(receiver.port, associations=associations)
    assert 20 == len(receiver.stored())


@pytest.mark.parametrize("breaks", [1, 3])
def test_sending_association_that_breaks_is_made_good(receiver: Any, relay_to: Any, send_to: Any, breaks: int):
    """What was under way when an association broke is sent again on another."""
    relay = relay_to(receiver.port, breaks=breaks, after_bytes=20_000)
    assert {"stored": 20, "skipped": 1} == send_to(relay.port, associations=1)


def test_sending_without_retries_fails_the_file_under_way_only(receiver: Any, relay_to: Any, send_to: Any):
    """The file that an association may have broken of has its reason; the others go on."""
    relay = relay_to(receiver.port, breaks=1, after_bytes=20_000)
    ends = send_to(relay.port, associations=1, retries=0)
    assert (19, 1) == (ends["stored"], ends["skipped"])
    assert 1 == ends.total() - 20


def test_sending_receiver_that_takes_fewer_associations_gets_all(receiver_with: Any, send_to: Any):
    """A receiver's limit on associations costs speed, not files."""
    receiver = receiver_with(max_associations_per_ae_title=1)
    assert {"stored": 20, "skipped": 1} == send_to(receiver.port, retries=0)


def test_sending_to_nobody_ends_at_once_and_says_why(tmp_path: Path):
    """Where no association was ever had nothing is tried again, and of a million files none more is read."""
    samples.write(samples.ct_study(7, series=2, slices=10), tmp_path / "images")
    (port,) = free_ports(1)
    reasons: list[str] = []
    receiver = Receiver("127.0.0.1", port, "CT1", "DICOMFLOW", WAIT_SECONDS)
    sending = Sending(
        receiver, lambda _, became: reasons.append(became.reason), associations=1, retries=100, batch_files=1
    )
    found = iter(find_candidates([tmp_path / "images"]))
    sending.run(found)
    assert [f"cannot connect to 127.0.0.1 port {port}: Connection refused"] == reasons
    assert reasons == [sending.gone]
    assert len(list(found)) > 10


def test_send_proposes_the_stored_transfer_syntax(receiver: Any, tmp_path: Path):
    """A file is sent in the transfer syntax it has: JPEG, and little endian with implicit and explicit VRs."""
    paths = samples.write(samples.demo_studies(), tmp_path / "studies")
    sending = Sending(
        Receiver("127.0.0.1", receiver.port, "CT1", "DICOMFLOW", WAIT_SECONDS),
        lambda *_: None,
        associations=1,
        retries=0,
    )
    sending.run(find_candidates([tmp_path / "studies"]))
    sent = Counter(dcmread(path).file_meta.TransferSyntaxUID for path in paths)
    stored = Counter(dcmread(BytesIO(whole)).file_meta.TransferSyntaxUID for whole in receiver.stored())
    assert sent == stored
    assert len(sent) > 1


def test_send_failure_neither_kills_the_worker_nor_leaks_its_slot(receiver_with: Any, relay_to: Any, send_to: Any):
    """After associations that broke, as many can be had as before, and every file is stored."""
    receiver = receiver_with(max_associations=2)
    relay = relay_to(receiver.port, breaks=3, after_bytes=20_000)
    assert {"stored": 20, "skipped": 1} == send_to(relay.port, associations=2, retries=9)
    assert {"stored": 20, "skipped": 1} == send_to(receiver.port, associations=2, retries=0)
