"""`dicomflow send` of many old files: reports, rehearsals, ends on the way, and associations with TLS and a user."""

import csv
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from waiting import free_ports

from dicomflow import samples
from dicomflow.cli import run
from dicomflow.cli import send as command
from dicomflow.network.settings import TlsSettings
from dicomflow.passcodes import hash_passcode
from dicomflow.send.files import Candidate, read_stored_file


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Give a folder with six images."""
    samples.write(samples.ct_study(5, series=2, slices=3, side=8), tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def send(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; give its exit code and what it says."""

    def _send(port: int, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["send", "localhost", str(port), *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return _send


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_report_has_a_line_for_each_file(send: Any, receiver: Any, study: Path, tmp_path: Path):
    """Stored, passed by, failed, and accepted before, each with its reason."""
    (study / "notes.txt").write_text("no DICOM")
    (study / "broken").symlink_to(tmp_path / "nowhere")
    arguments = (study, "--journal", tmp_path / "j", "--report", tmp_path / "r.csv")
    assert 1 == send(receiver.port, *arguments)[0]
    rows = _rows(tmp_path / "r.csv")
    assert {"stored": 6, "no instance": 1, "failed": 1} == {
        word: sum(row["result"] == word for row in rows) for word in {row["result"] for row in rows}
    }
    assert all(row["sop_instance_uid"] in row["file"] for row in rows if row["result"] == "stored")
    send(receiver.port, *arguments)
    assert 6 == sum(row["result"] == "accepted before" for row in _rows(tmp_path / "r.csv"))


def test_dry_run_reads_and_sends_nothing(send: Any, receiver: Any, study: Path):
    """What would be sent is counted; nobody need listen."""
    (port,) = free_ports(1)
    code, out, _ = send(port, study, "--dry-run")
    assert (0, "6 of 6 would be sent\n") == (code, out)
    document = json.loads(send(receiver.port, study, "--dry-run", "--json")[1])
    assert (6, 0) == (document["would_be_sent"], document["stored"])
    assert not receiver.stored()


def test_log_every_tells_how_far_it_is(send: Any, receiver: Any, study: Path):
    """A line after each two files."""
    code, _, err = send(receiver.port, study, "--log-every", 2)
    assert 0 == code
    lines = [line for line in err.splitlines() if " sending files=" in line]
    assert 3 == len(lines)
    assert "files=6 stored=6 already=0 failed=0 skipped=0" in lines[-1]


def test_receiver_that_is_gone_ends_the_run(send: Any, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of many files the rest is neither read nor counted, and the summary says so; of few each is told."""
    (port,) = free_ports(1)
    code, out, _ = send(port, study)
    assert (1, 7) == (code, len(out.splitlines()))
    assert "0 of 6 stored" in out
    monkeypatch.setattr(command, "_FOUND_FIRST", 2)
    code, out, _ = send(port, study, "--report", tmp_path / "r.csv")
    assert 1 == code
    assert f"the receiver is gone: cannot connect to localhost port {port}" in out
    assert len(_rows(tmp_path / "r.csv")) < 6


def test_interrupt_ends_with_a_summary(
    send: Any, receiver: Any, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C: what was stored is told and in the journal, and the same command goes on."""
    real = command.find_candidates

    def interrupted(paths: list[Path]) -> Iterator[Candidate]:
        for number, candidate in enumerate(real(paths)):
            if number == 4:
                raise KeyboardInterrupt
            yield candidate

    monkeypatch.setattr(command, "_FOUND_FIRST", 1)
    monkeypatch.setattr(command, "find_candidates", interrupted)
    code, out, _ = send(receiver.port, study, "--journal", tmp_path / "j")
    assert 1 == code
    assert "interrupted; what was not looked at is not counted" in out
    monkeypatch.setattr(command, "find_candidates", real)
    code, out, _ = send(receiver.port, study, "--journal", tmp_path / "j")
    assert (0, 6) == (code, len(receiver.stored()))


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_journal_knows_a_folder_however_it_is_spelt(
    send: Any, receiver: Any, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By its name, from within, through a link, and with dots."""
    journal = tmp_path / "j"
    assert 0 == send(receiver.port, study, "--journal", journal)[0]
    (tmp_path / "link").symlink_to(study)
    monkeypatch.chdir(study)
    for spelt in (".", tmp_path / "link", study / ".." / "study", "../study/"):
        code, out, _ = send(receiver.port, spelt, "--journal", journal)
        assert (0, "0 of 6 stored, 6 were accepted before\n") == (code, out)


def test_data_set_without_a_preamble_is_sent(send: Any, receiver: Any, tmp_path: Path):
    """Older archives keep them: in implicit and explicit VR; what names no instance, or is encapsulated, is none."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    images = list(samples.ct_study(6, series=1, slices=3, side=8))
    folder = tmp_path / "old"
    folder.mkdir()
    for number, syntax in enumerate((ImplicitVRLittleEndian, ExplicitVRLittleEndian)):
        bare = images[number]
        del bare.file_meta
        bare.save_as(
            folder / str(number),
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=True,
            enforce_file_format=False,
        )
        assert syntax == read_stored_file(folder / str(number)).meta.transfer_syntax_uid
    (folder / "group 8").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100")
    code, out, _ = send(receiver.port, folder)
    assert (0, "2 of 2 stored, 1 files that are no instances skipped\n") == (code, out)


def test_echo_tells_whether_the_receiver_answers(send: Any, receiver: Any, receiver_with: Any):
    """In words, and by the exit code; a rejection with its reason."""
    code, out, _ = send(receiver.port, "--echo")
    assert 0 == code
    assert "ANY-SCP answers 0000H (success) after " in out
    strict = receiver_with(calling_ae_titles=("OTHER",))
    code, _, err = send(strict.port, "--echo")
    assert 1 == code
    assert "association rejected 1/1/3: it does not know our calling AE title" in err
    assert {"answers": False, "reason": "association rejected 1/1/3: it does not know our calling AE title"} == (
        json.loads(send(strict.port, "--echo", "--json")[1])
    )


def test_tls_and_a_user_are_given(send: Any, receiver_with: Any, study: Path, tmp_path: Path):
    """As the receiver demands them: a certificate of ours, and a passcode from a file."""
    authority = Authority(tmp_path)
    server, ours = authority.issue("edge"), authority.issue("sender")
    tls = TlsSettings(port=0, certificate=server.certificate, key=server.key, client_ca=authority.certificate)
    port = receiver_with(tls=tls).port
    trusting = ("--tls-ca", authority.certificate)
    assert 1 == send(port, study, *trusting)[0]
    with_ours = (*trusting, "--tls-certificate", ours.certificate, "--tls-key", ours.key)
    assert 0 == send(port, study, *with_ours)[0]
    assert 2 == send(port, study, *trusting, "--tls-certificate", ours.certificate)[0]


def test_user_with_a_passcode_is_let_in(send: Any, receiver_with: Any, study: Path, tmp_path: Path):
    """And one with another is not; the passcode stands in no argument."""
    (tmp_path / "users").write_text(f"{hash_passcode('ct1', 'secret')}\n")
    port = receiver_with(users_file=tmp_path / "users").port
    (tmp_path / "right").write_text("secret\n")
    (tmp_path / "wrong").write_text("other\n")
    assert 0 == send(port, study, "--user", "ct1", "--passcode-file", tmp_path / "right")[0]
    assert 1 == send(port, study, "--user", "ct1", "--passcode-file", tmp_path / "wrong")[0]
    assert 1 == send(port, study)[0]
    assert 2 == send(port, study, "--passcode-file", tmp_path / "right")[0]


def test_no_paths_is_a_wrong_call(send: Any, receiver: Any):
    """Only C-ECHO needs none."""
    assert 2 == send(receiver.port)[0]


def test_memory_does_not_grow_with_the_files(send: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Thirty thousand files that are no instances: what is kept of one is nothing."""
    monkeypatch.setattr(command, "_FOUND_FIRST", 10)
    monkeypatch.setattr(
        command, "find_candidates", lambda _: (Candidate(tmp_path / f"no{n}", 1, 1) for n in range(30_000))
    )
    monkeypatch.setattr(command, "_read", lambda _: command.Skipped("no DICOM", is_failure=True))
    tracemalloc.start()
    try:
        send(1, tmp_path, "--dry-run")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20
