"""User identity against a file of hashes, over real associations."""

import os
from pathlib import Path
from typing import Any

import pytest

from dicomflow.dimse.events import AssociationAccepted, AssociationRejected
from dicomflow.dimse.items import UserIdentity
from dicomflow.edge.users import Users, hash_passcode
from dicomflow.errors import PermanentError

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


@pytest.mark.parametrize("line", ["name", "name:00", "name:zz:00"])
def test_malformed_line_is_named_at_start(tmp_path: Path, line: str):
    """A line that is no user stops the edge, by its number and not its content."""
    path = tmp_path / "users"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(PermanentError, match="line 2 is not name:salt:hash"):
        Users(path)


def test_missing_file_is_named_at_start(tmp_path: Path):
    """A file that is not there stops the edge."""
    with pytest.raises(PermanentError, match=r"users_file .* cannot be read"):
        Users(tmp_path / "none")
