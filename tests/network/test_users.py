"""User identity against a file of hashes, over real associations."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS

from dicomflow import passcodes
from dicomflow.dimse.events import AssociationAccepted, AssociationRejected
from dicomflow.dimse.items import UserIdentity
from dicomflow.errors import PermanentError
from dicomflow.network.users import Users, hash_passcode

NAME, PASSCODE = "ct-röntgen", "correct horse: battery"
USER, PASS = NAME.encode(), PASSCODE.encode()


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """Give a file with one user."""
    path = tmp_path / "users"
    path.write_text(f"# who may send\n\n{hash_passcode(NAME, PASSCODE)}\n", encoding="utf-8")
    return path


def test_known_user_is_accepted_and_the_rest_is_rejected_2_2_1(receiver_with: Any, scu_with: Any, users_file: Path):
    """Only type 2 with the right passcode stands, whatever else is sent."""
    port = receiver_with(users_file=users_file).port
    right = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    assert isinstance(scu_with(port, user_identity=right).associate(), AssociationAccepted)
    wrong = [
        None,
        UserIdentity(2, response_requested=False, primary=USER, secondary=PASS + b" "),
        UserIdentity(2, response_requested=False, primary=USER, secondary=b""),
        UserIdentity(2, response_requested=False, primary=b"other", secondary=PASS),
        UserIdentity(2, response_requested=False, primary=b"", secondary=b""),
        UserIdentity(1, response_requested=False, primary=USER, secondary=b""),
        UserIdentity(3, response_requested=False, primary=b"ticket", secondary=b""),
    ]
    for identity in wrong:
        answer = scu_with(port, user_identity=identity).associate()
        assert isinstance(answer, AssociationRejected), identity
        assert (2, 2, 1) == (answer.reject.result, answer.reject.source, answer.reject.reason)


@pytest.mark.parametrize(("wanted", "expected"), [(True, b""), (False, None)])
def test_positive_response_is_given_when_it_is_asked_for(
    receiver_with: Any, scu_with: Any, users_file: Path, wanted: Any, expected: bytes | None
):
    """An empty item 59H answers a request for one, and no other (PS3.7 D.3.3.7.2)."""
    identity = UserIdentity(2, response_requested=wanted, primary=USER, secondary=PASS)
    answer = scu_with(receiver_with(users_file=users_file).port, user_identity=identity).associate()
    assert isinstance(answer, AssociationAccepted)
    assert expected == answer.accept.user_identity_response


def test_any_identity_is_accepted_without_a_users_file(receiver: Any, scu_with: Any):
    """Unchecked by default: a device that sends an identity is received like any other."""
    identity = UserIdentity(1, response_requested=True, primary=b"anybody", secondary=b"")
    answer = scu_with(receiver.port, user_identity=identity).associate()
    assert isinstance(answer, AssociationAccepted)
    assert b"" == answer.accept.user_identity_response


def test_identity_is_never_logged(receiver_with: Any, scu_with: Any, users_file: Path, ended_lines: Any):
    """The reason for a rejection is in the log; name and passcode are not."""
    identity = UserIdentity(2, response_requested=True, primary=b"intruder", secondary=b"let-me-in")
    scu_with(receiver_with(users_file=users_file).port, user_identity=identity).associate()
    (line,) = ended_lines(1)
    assert "rejected 2/2/1: user identity is missing or wrong" in line
    assert "intruder" not in line
    assert "let-me-in" not in line


def test_changed_file_is_read_again(users_file: Path):
    """A user that is taken out is refused from then on, also when it was accepted before."""
    users = Users(users_file)
    identity = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    assert users.accepts(identity)
    users_file.write_text(hash_passcode("other", "words") + "\n")
    os.utime(users_file, ns=(1, 1))
    assert not users.accepts(identity)
    assert users.accepts(UserIdentity(2, response_requested=False, primary=b"other", secondary=b"words"))


def test_hash_hides_the_passcode_and_differs_each_time():
    """Two lines of one user share only the name."""
    first, second = hash_passcode(NAME, PASSCODE), hash_passcode(NAME, PASSCODE)
    assert PASSCODE not in first
    assert first != second
    assert first.startswith(f"{NAME}:")


BAD_LINES = {
    "a name": b"name",
    "one colon": b"name:00",
    "no hex": b"name:zz:00",
    "a short hash": b"name:00:00",
    "no salt": b"name::" + b"00" * 32,
    "no name": b":00:" + b"00" * 32,
    "a forgotten colon": b"mr1 forgotten-colon",
    "bytes that are no UTF-8": b"\xff\xfe:00:" + b"00" * 32,
    "NULs": bytes(5000),
    "ten thousand colons": b":" * 10_000,
    "a hash of letters above 7F": b"name:00:" + "ä".encode() * 32,
    "a hash that is cut": b"name:00:" + b"00" * 31 + b"0",
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "behind"])
def test_bad_line_costs_itself_only(
    users_file: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    is_first: bool,  # noqa: FBT001  # a column of the table
):
    """At the start and while it runs: it is logged by its number and not its content, and the others stand."""
    identity = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    good = users_file.read_bytes()
    running = Users(users_file)
    assert running.accepts(identity)
    users_file.write_bytes(BAD_LINES[name] + b"\n" + good if is_first else good + BAD_LINES[name] + b"\r\n")
    for users in (running, Users(users_file)):
        assert (True, 1) == (users.accepts(identity), users.look())
    assert f"line={1 if is_first else 4}" in caplog.text
    assert "forgotten" not in caplog.text
    users_file.write_bytes(good)
    assert (True, 0) == (running.accepts(identity), running.look())


def test_file_that_goes_away_leaves_its_users_in_force(users_file: Path, caplog: pytest.LogCaptureFixture):
    """Who may send is what was read last, until there is something to read again."""
    identity = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    users = Users(users_file)
    good = users_file.read_bytes()
    users_file.rename(users_file.with_name("gone"))
    assert (True, 1) == (users.accepts(identity), users.look())
    users_file.mkdir()
    assert (True, 1) == (users.accepts(identity), users.look())
    assert 1 == caplog.text.count("users_not_reloaded")
    users_file.rmdir()
    users_file.write_bytes(good)
    assert (True, 0) == (users.accepts(identity), users.look())


def test_users_in_force_stand_for_a_new_worker_too(users_file: Path):
    """A worker that is replaced while the file is away takes whom the others take, and then what the file says."""
    identity = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    in_force = Users(users_file).in_force
    users_file.unlink()
    users = Users(users_file, in_force)
    assert (True, 1) == (users.accepts(identity), users.look())
    users_file.write_text(hash_passcode("other", "words") + "\n")
    assert (False, 0) == (users.accepts(identity), users.look())


def test_file_that_is_replaced_within_a_tick_of_its_clock_is_read_again(users_file: Path):
    """A change that keeps the time of modification is seen by the other marks of the file."""
    users = Users(users_file)
    before = users_file.stat()
    replacement = users_file.with_name("new")
    replacement.write_text(hash_passcode("other", "words") + "\n")
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(users_file)
    assert users.accepts(UserIdentity(2, response_requested=False, primary=b"other", secondary=b"words"))


def test_guesses_do_not_hold_up_a_user_that_is_known(users_file: Path, monkeypatch: pytest.MonkeyPatch):
    """A passcode that was right before is answered while others are checked, and one that was not yet soon after."""
    users = Users(users_file)
    right = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    assert users.accepts(right)
    original, go_on = passcodes._derive, threading.Event()

    def _derive(passcode: bytes, salt: bytes) -> bytes:
        if passcode.startswith(b"guess"):
            go_on.wait(WAIT_SECONDS)
            return b"wrong"
        return original(passcode, salt)

    monkeypatch.setattr(passcodes, "_derive", _derive)
    guesses = [UserIdentity(2, False, f"nobody{number}".encode(), b"guess") for number in range(20)]
    guessing = [threading.Thread(target=users.accepts, args=(guess,)) for guess in guesses]
    for thread in guessing:
        thread.start()
    try:
        assert users.accepts(right)
        assert not users.accepts(UserIdentity(2, False, USER, b"mistyped"))
    finally:
        go_on.set()
        for thread in guessing:
            thread.join()


def test_wrong_guesses_do_not_make_a_right_passcode_forgotten(users_file: Path, monkeypatch: pytest.MonkeyPatch):
    """However many there were, what was right once costs no check."""
    users = Users(users_file)
    right = UserIdentity(2, response_requested=False, primary=USER, secondary=PASS)
    assert users.accepts(right)
    monkeypatch.setattr(passcodes, "_derive", lambda *_: b"")
    for number in range(2100):
        assert not users.accepts(UserIdentity(2, False, b"nobody", str(number).encode()))
    assert users.accepts(right)
    assert len(users._file._wrong) <= 1000


def test_missing_file_is_named_at_start(tmp_path: Path):
    """A file that is not there stops the edge."""
    with pytest.raises(PermanentError, match=r"users_file .* cannot be read"):
        Users(tmp_path / "none")
