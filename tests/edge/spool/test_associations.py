"""How associations stand, as workers note it and the deliverer reads it."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool import associations as association_log
from dicomflow.edge.spool.associations import AssociationLog

LATER = 60.0


@pytest.fixture
def log(tmp_path: Path) -> AssociationLog:
    """Give a worker's log."""
    return AssociationLog(tmp_path)


@pytest.fixture
def reader(tmp_path: Path) -> AssociationLog:
    """Give the deliverer's view of the same folder."""
    return AssociationLog(tmp_path)


def in_another_process(folder: Path, program: str) -> int:
    """Run statements on `log`, a log of another process, and return the id that this process had."""
    head = "from pathlib import Path; from dicomflow.edge.spool.associations import AssociationLog; import os\n"
    code = f"{head}log = AssociationLog(Path({str(folder)!r}))\n{program}\nprint(os.getpid())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout)


def test_association_is_open_while_the_clock_is_before_the_epoch(
    log: AssociationLog, reader: AssociationLog, monkeypatch: pytest.MonkeyPatch
):
    """A line has no time before 1970, and is read all the same: its delivery waits for the end."""
    monkeypatch.setattr(time, "time", lambda: -86_400.0)
    log.note_open("a1")
    assert {"a1": "open"} == reader.read_states()


def test_associations_are_open_until_they_end(log: AssociationLog, reader: AssociationLog):
    """A log tells how each stands, and tells nothing of one that stored nothing."""
    for name in ("a1", "a2", "a3"):
        log.note_open(name)
    assert {"a1": "open", "a2": "open", "a3": "open"} == reader.read_states()
    log.note_end("a1", "released")
    log.note_end("never-opened", "released")
    log.note_end("a2", "aborted")
    assert {"a1": "released", "a2": "aborted", "a3": "open"} == reader.read_states()


def test_originators_of_an_association_are_read_beside_how_it_stands(
    log: AssociationLog, reader: AssociationLog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Whatever titles they have, in another log and after a restart of the reader, until it is forgotten."""
    odd = ("VIEWER/5", "WORK STATION/6", "A%20=.\n/7")
    monkeypatch.setattr(association_log, "_MOST_LINES", 2)
    log.note_open("a1"), log.note_open("a2")
    for originator in odd:
        log.note_originator("a1", originator)
        assert {"a1": "open", "a2": "open"} == reader.read_states()
    reader.forget({"a1"}, time.time() + LATER)
    log.note_end("a1", "released")
    assert {"a1": "released", "a2": "open"} == reader.read_states()
    for each in (reader, AssociationLog(tmp_path)):
        assert "released" == each.read_states()["a1"]
        assert (odd, ()) == (each.originators("a1"), each.originators("a2"))
    reader.forget({"a2"}, time.time() + LATER)
    assert () == reader.originators("a1")


def test_open_associations_of_a_dead_process_are_lost(log: AssociationLog, reader: AssociationLog, tmp_path: Path):
    """Those of others stay open, until all are lost at the next start of the edge."""
    dead = in_another_process(tmp_path, "log.note_open('b1'); log.note_open('b2'); log.note_end('b2', 'released')")
    log.note_open("a1")
    reader.note_lost(dead + 1)
    assert {"a1": "open", "b1": "open", "b2": "released"} == reader.read_states()
    reader.note_lost(dead)
    assert {"a1": "open", "b1": "lost", "b2": "released"} == reader.read_states()
    reader.note_lost()
    assert {"a1": "lost", "b1": "lost", "b2": "released"} == AssociationLog(tmp_path).read_states()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
def test_what_is_no_log_keeps_no_association_open(log: AssociationLog, reader: AssociationLog, tmp_path: Path):
    """A FIFO or a device that is named like the last log of a process, or a log too long to be read, is passed by."""
    log.note_open("a1")
    os.mkfifo(tmp_path / f"{os.getpid()}-00000009.log")
    (tmp_path / "7-00000001.log").symlink_to("/dev/zero")
    huge = tmp_path / "8-00000001.log"
    huge.touch()
    os.truncate(huge, 1 << 40)
    assert {"a1": "open"} == reader.read_states()
    for process_id in reader.process_ids():
        assert not reader.is_at_work(process_id) or process_id == os.getpid()
    reader.note_lost()
    assert {"a1": "lost"} == reader.read_states()
    reader.forget(set(), float("inf"))
    assert huge.exists()


def test_notes_are_forgotten_when_ended_old_and_not_needed(log: AssociationLog, reader: AssociationLog):
    """Only what has ended, before the time given, and is needed by no delivery goes."""
    for name in ("open", "needed", "gone"):
        log.note_open(name)
    log.note_end("needed", "released")
    log.note_end("gone", "aborted")
    assert 3 == len(reader.read_states())
    reader.forget({"needed"}, 0)
    assert 3 == len(reader.read_states())
    reader.forget({"needed"}, time.time() + LATER)
    assert {"open": "open", "needed": "released"} == reader.read_states()


def test_log_of_which_nothing_is_needed_is_removed(
    log: AssociationLog, reader: AssociationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But that of a process that may still write to it, and one whose ends stand in a later log, if that is needed."""
    monkeypatch.setattr(association_log, "_MOST_LINES", 4)
    for number in range(6):
        log.note_open(f"a{number}")
        log.note_end(f"a{number}", "released")
    assert 3 == len(list(tmp_path.iterdir()))
    states = reader.read_states()
    reader.forget({"a4"}, time.time() + LATER)
    (kept,) = tmp_path.iterdir()
    assert {"a4": "released"} == reader.read_states()
    reader.forget(set(), time.time() + LATER)
    assert [kept] == list(tmp_path.iterdir())
    log.note_open("a6")
    assert 6 == len(states)
    assert {"a6": "open"} == reader.read_states()


def test_end_is_not_removed_before_its_beginning(
    log: AssociationLog, reader: AssociationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Or a deliverer that starts later would take the association for open for ever."""
    monkeypatch.setattr(association_log, "_MOST_LINES", 3)
    log.note_open("long")
    log.note_open("needed")
    log.note_end("needed", "released")
    log.note_end("long", "released")
    for number in range(2):
        log.note_open(f"a{number}")
        log.note_end(f"a{number}", "released")
    reader.read_states()
    # The first log has the end of what is needed, the second that of `long`.
    reader.forget({"needed"}, time.time() + LATER)
    assert "released" == AssociationLog(tmp_path).read_states()["long"]
    reader.forget(set(), time.time() + LATER)
    assert 1 == len(list(tmp_path.iterdir()))


def test_association_that_is_open_for_long_keeps_no_logs(
    log: AssociationLog, reader: AssociationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is noted again in each new one."""
    monkeypatch.setattr(association_log, "_MOST_LINES", 4)
    log.note_open("long")
    for number in range(20):
        log.note_open(f"a{number}")
        log.note_end(f"a{number}", "released")
    reader.read_states()
    reader.forget(set(), time.time() + LATER)
    assert 1 == len(list(tmp_path.iterdir()))
    assert "open" == AssociationLog(tmp_path).read_states()["long"]
    log.note_end("long", "aborted")
    assert "aborted" == reader.read_states()["long"]


def test_log_that_ends_within_a_line_is_removed(reader: AssociationLog, tmp_path: Path):
    """Power loss or a full volume can leave one, and nobody ends that line."""
    path = tmp_path / "1-00000001.log"
    path.write_bytes(b"\na1 open 17 .\n\na1 released 18 .\n\na2 op")
    reader.read_states()
    reader.forget(set(), time.time() + LATER)
    assert [] == list(tmp_path.iterdir())


def test_process_with_the_id_of_an_earlier_one_goes_on_behind_it(log: AssociationLog, tmp_path: Path):
    """What is noted later counts, whatever the clock says."""
    (tmp_path / f"{os.getpid()}-00000007.log").write_bytes(b"\na1 open 17 .\n")
    log.note_open("a1")
    log.note_end("a1", "released")
    assert {"a1": "released"} == AssociationLog(tmp_path).read_states()


def test_log_of_a_dead_process_is_removed(reader: AssociationLog, tmp_path: Path):
    """Nobody holds it any more."""
    dead = in_another_process(tmp_path, "log.note_open('b1')")
    reader.read_states()
    reader.forget(set(), time.time() + LATER)
    assert {"b1": "open"} == reader.read_states()
    reader.note_lost(dead)
    reader.read_states()
    reader.forget(set(), time.time() + LATER)
    assert [] == list(tmp_path.iterdir())
    assert {} == reader.read_states()


def test_line_written_since_it_was_read_keeps_a_log(reader: AssociationLog, tmp_path: Path):
    """Nothing is removed unread."""
    in_another_process(tmp_path, "log.note_open('b1'); log.note_end('b1', 'released')")
    reader.read_states()
    AssociationLog(tmp_path).note_lost()
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"\nb2 open 1 .\n")
    reader.forget(set(), time.time() + LATER)
    assert {"b2": "open"} == reader.read_states()


def test_full_volume_loses_no_end(log: AssociationLog, reader: AssociationLog, monkeypatch: pytest.MonkeyPatch):
    """A store is refused that cannot be noted; an end is written with the next line."""
    log.note_open("a1")
    original = os.write

    def _write(descriptor: int, data: bytes) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, data[:7])  # a part of it still fits

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", _write)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                log.note_open("a2")
        log.note_end("a1", "released")
    assert 2 == log._unwritten.count(b".")
    assert "open" == reader.read_states()["a1"]
    log.note_end("a2", "released")
    log.note_open("a3")
    assert {"a1": "released", "a2": "lost", "a3": "open"} == reader.read_states()


def test_half_a_line_is_read_when_it_is_whole(reader: AssociationLog, tmp_path: Path):
    """What another process is just writing, and what is no line of ours."""
    path = tmp_path / "1-00000000000000000001.log"
    path.write_bytes(b"\na1 open 17 .\n\na1 released 1")
    (tmp_path / "notes.txt").write_text("not ours")
    assert {"a1": "open"} == reader.read_states()
    path.write_bytes(b"\na1 open 17 .\n\na1 released 18 .\n\na2 open 18\n\0\0\0\n\xff open 1 2 .\n")
    assert {"a1": "released"} == reader.read_states()


def test_threads_of_a_worker_note_at_once(log: AssociationLog, reader: AssociationLog, monkeypatch: pytest.MonkeyPatch):
    """While the deliverer reads and removes logs, no line gets lost."""
    monkeypatch.setattr(association_log, "_MOST_LINES", 10)
    last: dict[str, str] = {}

    def _note(thread: int) -> None:
        for number in range(100):
            log.note_open(f"{thread}.{number}")
            log.note_end(f"{thread}.{number}", "released")
        log.note_open(f"{thread}.last")

    threads = [threading.Thread(target=_note, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        last |= reader.read_states()
        reader.forget(set(), time.time() + LATER)
    last |= reader.read_states()
    assert 404 == len(last)
    assert [f"{thread}.last" for thread in range(4)] == sorted(each for each, how in last.items() if how == "open")


def test_log_that_is_removed_before_it_is_locked_is_begun_again(
    log: AssociationLog, reader: AssociationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The deliverer may come between, and the lines would go with the file."""
    original = os.open

    def _open(path: Any, *arguments: Any) -> int:
        descriptor = original(path, *arguments)
        monkeypatch.undo()
        reader.read_states()
        reader.forget(set(), 0)
        assert [] == list(tmp_path.iterdir())
        return descriptor

    monkeypatch.setattr(os, "open", _open)
    log.note_open("a1")
    assert {"a1": "open"} == reader.read_states()
