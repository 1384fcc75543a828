"""`dicomflow send`: what it counts is what the receiver said."""

import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from media import write_medium

from dicomflow import samples
from dicomflow.edge.receive.services import Receiver
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.lane import Lane
from dicomflow.network.admission import Admission, table_length
from dicomflow.network.association import Association
from dicomflow.network.services import Host
from dicomflow.network.settings import DimseSettings


@pytest.fixture
def receiver_with(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start a receiver on a thread and give its port; settings are the DIMSE section's."""
    lane = Lane(tmp_path / "spool")
    listeners: list[socket.socket] = []

    def _receiver_with(**settings: Any) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        watermark = Watermark(SpoolSettings(dir=lane.root, slow_below_bytes=0, refuse_below_bytes=0))
        admission = Admission([0] * table_length(1, 10), 0, 10, 0)
        stopping = threading.Event()
        host = Host(DimseSettings(**settings), Receiver(lane, watermark, stopping).serve, stopping, admission)
        threading.Thread(target=_accept, args=(listener, host), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield _receiver_with
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, host: Host) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        association = Association(host, connection, "127.0.0.1")
        threading.Thread(target=association.run, daemon=True).start()


@pytest.fixture
def send() -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run `dicomflow send --json`; give exit code, document and standard error."""

    def _send(port: int, *arguments: object) -> tuple[int, dict[str, Any], str]:
        command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", str(port), *map(str, arguments), "--json"]
        result = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env={name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")},
        )
        return result.returncode, json.loads(result.stdout or "{}"), result.stderr

    return _send


@pytest.mark.parametrize("associations", [1, 4])
def test_send_reports_counts_asked_sent_and_confirmed(receiver_with: Any, send: Any, tmp_path: Path, associations: int):
    """All files of a folder are asked for and stored, others are skipped; the exit code is 0."""
    samples.write(samples.demo_studies(), tmp_path / "study")
    (tmp_path / "study" / "notes.txt").write_text("no DICOM")
    code, document, error = send(receiver_with(), tmp_path / "study", "--associations", associations)
    assert 0 == code, error
    assert {"asked": 18, "stored": 18, "already": 0, "skipped": 1, "failed": []} == document


def test_send_named_file_that_is_no_dicom_fails(receiver_with: Any, send: Any, tmp_path: Path):
    """A file that was named and cannot be sent is a failure with its reason; the others are sent."""
    paths = samples.write(samples.ct_study(1, series=1, slices=2), tmp_path / "study")
    (tmp_path / "notes.txt").write_text("no DICOM")
    code, document, _ = send(receiver_with(), *paths, tmp_path / "notes.txt")
    assert (1, 3, 2) == (code, document["asked"], document["stored"])
    assert [str(tmp_path / "notes.txt")] == [failure["path"] for failure in document["failed"]]


@pytest.mark.skipif(os.name != "posix", reason="links and FIFOs are POSIX's")
def test_send_of_a_folder_with_a_dangling_link_sends_the_rest(receiver_with: Any, send: Any, tmp_path: Path):
    """The link may have been an image: exit 1. A FIFO is none, is not waited for, and is named: exit 0."""
    samples.write(samples.ct_study(1, series=1, slices=2), tmp_path / "study")
    (tmp_path / "study" / "without preamble").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100")
    os.mkfifo(tmp_path / "study" / "fifo")
    port = receiver_with()
    code, document, _ = send(port, tmp_path / "study")
    assert (0, 2, 2, 2, []) == (code, *(document[name] for name in ("asked", "stored", "skipped", "failed")))
    assert [str(tmp_path / "study" / "fifo")] == [each["path"] for each in document["passed_over"]]
    (tmp_path / "study" / "0").symlink_to(tmp_path / "nowhere")
    code, document, _ = send(port, tmp_path / "study", tmp_path / "missing")
    assert (1, 4, 2) == (code, document["asked"], document["stored"])
    assert {"0", "missing"} == {Path(each["path"]).name for each in document["failed"]}


def test_send_to_a_receiver_that_rejects_fails_for_each_file(receiver_with: Any, send: Any, tmp_path: Path):
    """Every file of a rejected association has the rejection as its reason."""
    paths = samples.write(samples.ct_study(1, series=1, slices=3), tmp_path / "study")
    code, document, _ = send(receiver_with(calling_ae_titles=("OTHER",)), tmp_path / "study")
    assert (1, 3, 0) == (code, document["asked"], document["stored"])
    assert {(str(path), "association rejected 1/1/3: it does not know our calling AE title") for path in paths} == {
        (failure["path"], failure["reason"]) for failure in document["failed"]
    }


def test_send_empty_folder_is_an_error(send: Any, tmp_path: Path):
    """Nothing to send is said in one line and is no success."""
    code, _, error = send(1, tmp_path)
    assert 1 == code
    assert ["dicomflow: no DICOM Part 10 file among the paths; nothing to send"] == error.splitlines()


def test_send_illegal_ae_title_is_an_error(receiver_with: Any, send: Any, tmp_path: Path):
    """An AE title that cannot be sent fails in words, not in a traceback."""
    samples.write(samples.ct_study(1, series=1, slices=1), tmp_path / "study")
    for title in ("SEVENTEEN-LETTERS", "ÄÖÜ", "A\\B"):
        code, document, error = send(receiver_with(), tmp_path / "study", "--calling-ae-title", title)
        assert 1 == code
        assert 0 == document.get("stored", 0)
        assert "Traceback" not in error


def test_send_with_a_journal_goes_on_where_it_was(receiver_with: Any, send: Any, tmp_path: Path):
    """What the receiver has accepted is not sent again; what is new or has changed is."""
    paths = samples.write(samples.ct_study(1, series=1, slices=3), tmp_path / "study")
    port = receiver_with()
    arguments = (tmp_path / "study", "--journal", tmp_path / "journal")
    code, document, _ = send(port, *arguments)
    assert (0, 3, 0) == (code, document["stored"], document["already"])
    os.utime(paths[0], ns=(1, 1))
    code, document, _ = send(port, *arguments)
    assert (0, 1, 2) == (code, document["stored"], document["already"])
    code, document, error = send(receiver_with(), *arguments)
    assert (1, {}) == (code, document)
    assert "is the journal of" in error


def test_send_archive_and_medium_sends_what_they_hold(receiver_with: Any, send: Any, tmp_path: Path):
    """A zip archive and a DICOMDIR are as good as a folder."""
    paths = samples.write(samples.ct_study(1, series=1, slices=3), tmp_path / "study")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    code, document, error = send(receiver_with(), tmp_path / "study.zip", write_medium(paths, tmp_path / "medium"))
    assert (0, 6, 0) == (code, document["stored"], document["skipped"]), error
