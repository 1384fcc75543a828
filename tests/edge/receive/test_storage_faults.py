"""C-STORE while the spool's volume fails: nothing is acknowledged that is not kept, and the association goes on."""

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from spool_files import leftovers
from waiting import WAIT_SECONDS

from dicomflow.dimse.status import Status
from dicomflow.edge.receive.storage import REFUSALS

CALLS = ("open", "write", "writev", "ftruncate", "fsync", "fdatasync", "rename", "replace", "link")


def test_disk_full_answers_a700_not_a_warning(scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch, until: Any):
    """An association that was accepted while there was space is refused its next object when there is none."""
    assert Status.SUCCESS == scu.store(data_set()).status
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0, f_frsize=4096))
    answer = until(lambda: (found := scu.store(data_set())).status and found)
    assert (0xA700, REFUSALS["low_space"].comment) == (answer.status, answer.error_comment)
    assert Status.SUCCESS == scu.echo().status


def test_full_spool_never_deletes_undelivered_objects(
    receiver: Any, scu: Any, data_set: Any, part10: Any, monkeypatch: pytest.MonkeyPatch, until: Any
):
    """Object after object is refused for want of space; what was acknowledged before stays, whole."""
    uids = [f"1.2.3.{number}" for number in range(5)]
    for uid in uids:
        assert Status.SUCCESS == scu.store(data_set(uid), affected_sop_instance_uid=uid.encode()).status
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0, f_frsize=4096))
    until(lambda: scu.store(data_set()).status == Status.OUT_OF_RESOURCES)
    before = receiver.stored()
    assert [part10(uid) for uid in uids] == before[: len(uids)]
    assert {0xA700} == {scu.store(data_set()).status for _ in range(20)}
    assert before == receiver.stored()


def _count_calls(monkeypatch: pytest.MonkeyPatch, act: Callable[[int, str], None]) -> None:
    """Call `act` with a running number and the name before each file system call of another thread than this."""
    numbers = iter(range(10**6))
    main = threading.current_thread()

    def _wrapped(name: str) -> Any:
        original = getattr(os, name)

        def _call(*arguments: Any, **keywords: Any) -> Any:
            if threading.current_thread() is not main:
                act(next(numbers), name)
            return original(*arguments, **keywords)

        return _call

    for name in CALLS:
        monkeypatch.setattr(os, name, _wrapped(name))


@pytest.mark.parametrize("has_spares", [True, False])
@pytest.mark.parametrize("is_named_by_fsync", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR])
def test_failing_call_at_each_step_answers_a700_and_leaves_no_file(
    receiver: Any,
    scu_with: Any,
    data_set: Any,
    part10: Any,
    spare: Any,
    number: int,
    *,
    is_named_by_fsync: bool,
    has_spares: bool,
):
    """Whichever call of a store fails, the answer is A700, no file stays, and the association goes on."""
    receiver.lane.is_named_by_fsync = is_named_by_fsync
    called: list[str] = []

    def _store(fail_at: int | None) -> Any:
        if has_spares:
            spare(part10() + b"more")
        scu = scu_with(receiver.port)
        scu.associate()

        def _act(count: int, name: str) -> None:
            called.append(name)
            if count == fail_at:
                raise OSError(number, os.strerror(number))

        with pytest.MonkeyPatch.context() as patched:
            _count_calls(patched, _act)
            answer = scu.store(data_set())
        if fail_at is not None:
            if answer.status == Status.SUCCESS:
                assert has_spares, "only a spare that cannot be had is done without"
                assert called[fail_at] in {"open", "rename"}
            else:
                assert 0xA700 == answer.status, called
                assert (
                    REFUSALS["write" if number in {errno.EIO, errno.EINTR} else "no_space"].comment
                    == answer.error_comment
                )
                assert [] == leftovers(receiver.spool), called
                assert Status.SUCCESS == scu.store(data_set()).status
        scu.release()
        (file,) = receiver.spool.scan_received()
        assert part10() == file.path.read_bytes()
        file.path.unlink()
        return answer

    _store(None)  # the log of associations is begun once
    called.clear()
    assert Status.SUCCESS == _store(None).status
    assert {"open", "write", "fsync"} | ({"ftruncate"} if has_spares else set()) <= set(called)
    for step in range(len(called)):
        called.clear()
        _store(step)


def test_commit_record_failure_answers_a700_not_success(receiver: Any, scu: Any, data_set: Any):
    """When the note of an open association cannot be kept, nothing is acknowledged."""
    (receiver.spool.root / "associations").rmdir()
    assert 0xA700 == scu.store(data_set()).status
    assert [] == leftovers(receiver.spool)
    (receiver.spool.root / "associations").mkdir()
    assert Status.SUCCESS == scu.store(data_set()).status


def test_disk_full_at_the_commit_record_answers_a700(
    receiver: Any, scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch
):
    """A volume that is full before the note of the association is kept refuses the object, and says why."""
    opened = os.open

    def _open(path: Any, *arguments: Any, **keywords: Any) -> int:
        if str(path).endswith(".log"):
            raise OSError(errno.ENOSPC, "")
        return opened(path, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", _open)
        answer = scu.store(data_set())
    assert (0xA700, REFUSALS["no_space"].comment) == (answer.status, answer.error_comment)
    assert [] == leftovers(receiver.spool)
    assert Status.SUCCESS == scu.store(data_set()).status


def test_failed_fsync_is_never_retried_on_the_same_file(
    receiver: Any, scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch
):
    """After a failed fsync the kernel may have dropped the pages, so a second one proves nothing."""
    synced: list[str] = []

    def _fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(os, "fsync", _fsync)
    assert 0xA700 == scu.store(data_set()).status
    assert len(set(synced)) == len(synced) >= 1


@pytest.mark.parametrize("is_named_by_fsync", [True, False])
def test_success_is_sent_only_after_file_and_directory_are_synced(
    receiver: Any, scu: Any, data_set: Any, until: Any, monkeypatch: pytest.MonkeyPatch, *, is_named_by_fsync: bool
):
    """While any sync of the commit is under way there is no answer; then file and name are synced.

    Where an fsync commits a file's name with it the file is synced under its last name, elsewhere its folder is.
    """
    receiver.lane.is_named_by_fsync = is_named_by_fsync
    original, may_go_on = os.fsync, threading.Semaphore(0)
    entered, synced = [], []

    def _fsync(descriptor: int) -> None:
        entered.append(descriptor)
        assert may_go_on.acquire(timeout=WAIT_SECONDS)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        original(descriptor)

    monkeypatch.setattr(os, "fsync", _fsync)
    scu.begin_store(data_set())
    for number in itertools.count():
        until(lambda number=number: len(entered) > number or scu.has_answer(0))
        if len(entered) == number:
            break
        assert not scu.has_answer(0.1)
        may_go_on.release()
    assert Status.SUCCESS == scu.response().status
    wanted = {".dcm"} if is_named_by_fsync else {".dcm", ""}
    assert wanted == {path.suffix for path in synced}
    assert is_named_by_fsync or receiver.lane.folder in synced


def test_short_writes_still_give_the_whole_file(
    receiver: Any, scu: Any, data_set: Any, part10: Any, monkeypatch: pytest.MonkeyPatch
):
    """A write that takes only a part of what it is given loses nothing."""
    writev, write = os.writev, os.write

    def _short(descriptor: int, buffers: Any) -> int:
        return write(descriptor, bytes(buffers[0])[:7]) if buffers else writev(descriptor, buffers)

    monkeypatch.setattr(os, "writev", _short)
    assert Status.SUCCESS == scu.store(data_set()).status
    assert [part10()] == receiver.stored()


def test_unforeseen_exception_answers_0110_and_keeps_the_association(
    receiver: Any, scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A bug of ours is a processing failure for one object; its traceback is in the log, not in the answer."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _descriptor: 1 // 0)
        answer = scu.store(data_set())
    assert (0x0110, "internal error") == (answer.status, answer.error_comment)
    assert "ZeroDivisionError" in caplog.text
    assert [] == leftovers(receiver.spool)
    assert Status.SUCCESS == scu.store(data_set()).status
