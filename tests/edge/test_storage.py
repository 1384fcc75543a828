"""C-STORE over real sockets: what is answered, and what the spool then holds."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicomflow.dimse.status import Status
from dicomflow.edge.storage import REFUSALS

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
MR = "1.2.840.10008.5.1.4.1.1.4"
# Statuses that common senders take for "stored" (PS3.7 C): success and the warnings.
TAKEN_FOR_STORED = {0x0000, 0x0001, 0x0107, 0x0116} | set(range(0xB000, 0xC000))
# Refusals, by the data set's or the command's fault. Not here: those of the spool's volume, of draining and of bugs.
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sop_class": ({}, {"affected_sop_class_uid": MR.encode()}),
    "sop_instance": ({}, {"affected_sop_instance_uid": b"../../../etc/passwd"}),
    "class_mismatch": ({"sop_class_uid": MR}, {}),
    "instance_mismatch": ({"sop_instance_uid": "1.2.3.5"}, {}),
    "class_missing": ({"sop_class_uid": None}, {}),
    "instance_missing": ({"sop_instance_uid": "1.2.3.4\\1.2.3.5"}, {}),
    "study_missing": ({"study_instance_uid": None}, {}),
    "series_missing": ({"series_instance_uid": None}, {}),
}
CALLS = ("open", "write", "writev", "fsync", "fdatasync", "rename", "replace", "link")


def leftovers(spool: Any) -> list[str]:
    """Return the names of all files in the spool that are, or could become, an instance."""
    folders = (spool.received, spool.delivering, spool.quarantined)
    return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_store_answers_success_and_file_is_meta_and_data_set_bit_for_bit(
    receiver: Any, scu: Any, data_set: Any, part10: Any
):
    """A stored file is preamble, meta information and the data set as it was sent."""
    answer = scu.store(data_set())
    assert (Status.SUCCESS, 1, b"1.2.3.4\0") == (
        answer.status,
        answer.message_id_responded_to,
        answer.affected_sop_instance_uid,
    )
    assert [part10()] == receiver.stored()


def test_received_file_name_tells_digest_peer_and_association(receiver: Any, scu: Any, data_set: Any):
    """The digest in a received file's name is that of its bytes."""
    scu.store(data_set())
    (file,) = receiver.spool.scan_received()
    assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256
    assert ("127.0.0.1", 0) == (file.peer, file.number)


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_object_is_refused_and_the_association_goes_on(receiver: Any, scu: Any, data_set: Any, name: str):
    """Each fault has its status, comment and offending element; nothing is kept, and the next object is stored."""
    of_data_set, of_command = FAULTS[name]
    answer = scu.store(data_set(**of_data_set), **of_command)
    refusal = REFUSALS[name]
    assert (refusal.status, refusal.comment, refusal.offending_elements) == (
        answer.status,
        answer.error_comment,
        answer.offending_elements,
    )
    assert [] == leftovers(receiver.spool)
    assert Status.SUCCESS == scu.store(data_set()).status
    assert 1 == len(receiver.stored())


@pytest.mark.parametrize(
    ("name", "status", "element"),
    [
        ("instance_mismatch", 0xA900, SOP_INSTANCE),
        ("class_mismatch", 0xA900, SOP_CLASS),
        ("study_missing", 0xC000, STUDY),
        ("series_missing", 0xC000, SERIES),
        ("sop_instance", 0x0117, None),
        ("sop_class", 0x0122, None),
        ("no_data_set", 0xC000, None),
        ("low_space", 0xA700, None),
        ("no_space", 0xA700, None),
        ("write", 0xA700, None),
        ("draining", 0xA700, None),
        ("internal", 0x0110, None),
    ],
)
def test_refusal_has_the_status_of_the_standard(name: str, status: int, element: int | None):
    """The table of refusals holds the codes of PS3.4 B.2.3 and PS3.7 C."""
    assert (status, () if element is None else (element,)) == (
        int(REFUSALS[name].status),
        REFUSALS[name].offending_elements,
    )


def test_no_refusal_ever_uses_a_warning_code():
    """No refusal's status can be taken for stored, and its comment fits an LO."""
    assert [] == [name for name, refusal in REFUSALS.items() if refusal.status in TAKEN_FOR_STORED]
    assert [] == [name for name, refusal in REFUSALS.items() if not 0 < len(refusal.comment) <= 64]


@pytest.mark.parametrize("uid", ["../../../x", "/etc/passwd", "1.2..3", "1.2.3.", ".1.2", "1.2.a", "", "1" * 65])
@pytest.mark.parametrize("where", ["study_instance_uid", "series_instance_uid"])
def test_uid_with_path_characters_never_leaves_the_spool(
    receiver: Any, scu: Any, data_set: Any, tmp_path: Path, where: str, uid: str
):
    """A UID that breaks PS3.5 9.1 is refused before it can become a path."""
    before = sorted(tmp_path.rglob("*"))
    assert 0xC000 == scu.store(data_set(**{where: uid})).status
    assert [] == [path for path in tmp_path.rglob("*") if path not in before and path.parent.name != "associations"]


@pytest.mark.parametrize("uid", [b"", b"..", b"1.2/3", b"1.2.3.4\\5", b"1." * 33, b"1.2.\xff"])
def test_illegal_uid_in_the_command_answers_0117(receiver: Any, scu: Any, data_set: Any, uid: bytes):
    """An Affected SOP Instance UID that breaks the rules is refused, and echoed as it came."""
    answer = scu.store(data_set(), affected_sop_instance_uid=uid)
    assert 0x0117 == answer.status
    assert uid == (answer.affected_sop_instance_uid or b"")[: len(uid)]
    assert [] == leftovers(receiver.spool)


def test_multi_valued_sop_instance_uid_answers_c000(scu: Any, data_set: Any):
    """Two values where one identifies the object leave it unidentified."""
    answer = scu.store(data_set("1.2.3.4\\1.2.3.5"))
    assert (0xC000, (SOP_INSTANCE,)) == (answer.status, answer.offending_elements)


def test_leading_zero_in_a_uid_is_accepted_and_stored(receiver: Any, scu: Any, data_set: Any):
    """Many devices write components with leading zeros; their objects are stored."""
    uid = "1.2.003.4"
    assert Status.SUCCESS == scu.store(data_set(uid), affected_sop_instance_uid=uid.encode()).status
    assert 1 == len(receiver.stored())


def test_space_padded_uid_is_echoed_byte_for_byte(scu: Any, data_set: Any):
    """The response repeats the request's padding, for senders that compare bytes."""
    answer = scu.store(
        data_set(), affected_sop_instance_uid=b"1.2.3.4 ", affected_sop_class_uid=b"1.2.840.10008.5.1.4.1.1.2 "
    )
    assert (Status.SUCCESS, b"1.2.3.4 ", b"1.2.840.10008.5.1.4.1.1.2 ") == (
        answer.status,
        answer.affected_sop_instance_uid,
        answer.affected_sop_class_uid,
    )


def test_data_set_with_a_preamble_inside_answers_c000(receiver: Any, scu: Any, part10: Any):
    """A sender that puts its whole file into the data set is told so."""
    answer = scu.store(part10())
    assert (0xC000, REFUSALS["framing"].comment) == (answer.status, answer.error_comment)
    assert [] == leftovers(receiver.spool)


@pytest.mark.parametrize("rubbish", [b"\0", b"\xff" * 400, b"no data set at all, but text " * 20])
def test_unreadable_data_set_answers_c000(receiver: Any, scu: Any, data_set: Any, rubbish: bytes):
    """What cannot be read up to group 0020 is refused, and the next object is stored."""
    answer = scu.store(rubbish)
    assert 0xC000 == answer.status
    assert [] == leftovers(receiver.spool)
    assert Status.SUCCESS == scu.store(data_set()).status


def test_store_without_a_data_set_answers_c000(scu: Any):
    """A C-STORE-RQ that announces no data set is answered at once."""
    answer = scu.store(None, data_set_type=0x0101)
    assert (0xC000, REFUSALS["no_data_set"].comment) == (answer.status, answer.error_comment)


def test_one_malformed_object_does_not_stop_later_ones(receiver: Any, scu: Any, data_set: Any, part10: Any):
    """Good and bad objects in turn: each gets its own answer, and the good ones are stored."""
    statuses = []
    for number in range(6):
        uid = f"1.2.3.{number + 1}"
        encoded = data_set(uid) if number % 2 else data_set(uid, study_instance_uid=None)
        statuses.append(int(scu.store(encoded, affected_sop_instance_uid=uid.encode()).status))
    assert [0xC000, 0, 0xC000, 0, 0xC000, 0] == statuses
    assert [part10(f"1.2.3.{number}") for number in (2, 4, 6)] == receiver.stored()


def test_disk_full_answers_a700_not_a_warning(scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch, until: Any):
    """An association that was accepted while there was space is refused its next object when there is none."""
    assert Status.SUCCESS == scu.store(data_set()).status
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0, f_frsize=4096))
    answer = until(lambda: (found := scu.store(data_set())).status and found)
    assert (0xA700, REFUSALS["low_space"].comment) == (answer.status, answer.error_comment)
    assert Status.SUCCESS == scu.echo().status


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


@pytest.mark.parametrize("is_named_by_fsync", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR])
def test_failing_call_at_each_step_answers_a700_and_leaves_no_file(
    receiver: Any, scu_with: Any, data_set: Any, part10: Any, number: int, *, is_named_by_fsync: bool
):
    """Whichever call of a store fails, the answer is A700, no file stays, and the association goes on."""
    receiver.spool.is_named_by_fsync = is_named_by_fsync
    called: list[str] = []

    def _store(fail_at: int | None) -> Any:
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
            assert 0xA700 == answer.status, called
            assert (
                REFUSALS["write" if number in {errno.EIO, errno.EINTR} else "no_space"].comment == answer.error_comment
            )
            assert [] == leftovers(receiver.spool), called
            assert Status.SUCCESS == scu.store(data_set()).status
        scu.release()
        (file,) = receiver.spool.scan_received()
        assert part10() == file.path.read_bytes()
        file.path.unlink()
        return answer

    assert Status.SUCCESS == _store(None).status
    assert {"open", "fsync"} <= set(called)
    for step in range(len(called)):
        called.clear()
        _store(step)


def test_association_note_that_cannot_be_written_answers_a700(receiver: Any, scu: Any, data_set: Any):
    """When the note of an open association cannot be kept, nothing is acknowledged."""
    receiver.spool.associations.rmdir()
    assert 0xA700 == scu.store(data_set()).status
    assert [] == leftovers(receiver.spool)
    receiver.spool.associations.mkdir()
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
    receiver: Any, scu: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch, *, is_named_by_fsync: bool
):
    """While any sync of the commit is under way there is no answer; then file and name are synced.

    Where an fsync commits a file's name with it the file is synced under its last name, elsewhere its folder is.
    """
    receiver.spool.is_named_by_fsync = is_named_by_fsync
    original, may_go_on, synced = os.fsync, threading.Semaphore(0), []
    entered = threading.Semaphore(0)

    def _fsync(descriptor: int) -> None:
        entered.release()
        assert may_go_on.acquire(timeout=20)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        original(descriptor)

    monkeypatch.setattr(os, "fsync", _fsync)
    scu.begin_store(data_set())
    while entered.acquire(timeout=0.5):
        assert not scu.has_answer(0.1)
        may_go_on.release()
    assert Status.SUCCESS == scu.response().status
    wanted = {".dcm"} if is_named_by_fsync else {".dcm", ""}
    assert wanted == {path.suffix for path in synced}
    assert is_named_by_fsync or receiver.spool.lane in synced


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


def test_same_instance_twice_in_one_association_is_not_torn(receiver: Any, scu: Any, data_set: Any, part10: Any):
    """The second of two versions does not touch the file of the first."""
    assert Status.SUCCESS == scu.store(data_set(pixels=b"first ")).status
    assert Status.SUCCESS == scu.store(data_set(pixels=b"second")).status
    assert [part10(pixels=b"first "), part10(pixels=b"second")] == receiver.stored()


def test_same_instance_on_two_associations_at_once_stays_whole(
    receiver: Any, scu_with: Any, data_set: Any, part10: Any
):
    """Two senders of one UID, interleaved, give two whole files."""
    first, second = scu_with(receiver.port), scu_with(receiver.port)
    first.associate()
    second.associate()
    ends = [
        threading.Thread(target=each.store, args=(data_set(pixels=byte * 500_000),))
        for each, byte in ((first, b"a"), (second, b"b"))
    ]
    for each in ends:
        each.start()
    for each in ends:
        each.join()
    assert {part10(pixels=b"a" * 500_000), part10(pixels=b"b" * 500_000)} == set(receiver.stored())


@pytest.mark.parametrize("max_length", [0, 4096, 65_536])
def test_object_larger_than_every_buffer_arrives_whole(
    receiver_with: Any, scu_with: Any, data_set: Any, part10: Any, max_length: int
):
    """Objects of several PDUs and receives arrive whole, whatever PDU size is offered."""
    receiver = receiver_with(max_pdu_bytes=max_length)
    scu = scu_with(receiver.port)
    scu.associate()
    pixels = os.urandom(3_000_000)
    assert Status.SUCCESS == scu.store(data_set(pixels=pixels)).status
    assert [part10(pixels=pixels)] == receiver.stored()


def test_huge_length_fields_allocate_nothing(receiver: Any, scu: Any, data_set: Any):
    """An element that claims 4 GB in a small data set is refused by what is there, not by what is claimed."""
    claimed = b"\x08\x00\x05\x00OB\x00\x00\xf0\xff\xff\xff" + b"x" * 100
    assert 0xC000 == scu.store(claimed).status
    assert Status.SUCCESS == scu.store(data_set()).status


def test_deeply_nested_sequences_do_not_recurse(receiver: Any, scu: Any, data_set: Any):
    """A data set that nests ten thousand sequences before its UIDs is answered, and the next one is stored."""
    nested = b"\x08\x00\x06\x00SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    answer = scu.store(nested + data_set())
    assert answer.status in {0xC000, 0xA900}
    assert Status.SUCCESS == scu.store(data_set()).status
