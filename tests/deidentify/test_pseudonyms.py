"""What stands for UIDs, patients and dates."""

import pytest

from dicomflow.deidentify.pseudonyms import Pseudonyms
from dicomflow.dicom.uids import is_usable
from dicomflow.errors import PermanentError

_SECRET = "a secret of a site, long enough to be one"


def test_uid_is_the_same_for_the_same_secret_and_domain_and_no_other():
    """A study that goes on next year maps alike, and another recipient's or site's does not."""
    original = b"1.2.3.4"
    uid = Pseudonyms(_SECRET, "research").uid(original)
    assert uid == Pseudonyms(_SECRET, "research").uid(original)
    others = {
        Pseudonyms(_SECRET, "registry").uid(original),
        Pseudonyms(_SECRET + "!", "research").uid(original),
        Pseudonyms(_SECRET, "research").uid(b"1.2.3.5"),
    }
    assert len(others | {uid}) == 4


def test_uid_is_one_of_a_uuid():
    """A mapped UID is legal and says that it is made of a UUID (PS3.5 B.2)."""
    pseudonyms = Pseudonyms(_SECRET, "research")
    for number in range(500):
        uid = pseudonyms.uid(b"1.2.%d" % number).decode()
        value = int(uid.removeprefix("2.25."))
        assert is_usable(uid)
        assert len(uid) <= 44
        assert (value >> 76 & 0xF, value >> 62 & 0x3) == (8, 2)


def test_key_id_tells_secrets_apart():
    """A changed secret is noticed by its name, which holds none of it."""
    first, second = Pseudonyms(_SECRET, "research"), Pseudonyms(_SECRET + "x", "research")
    assert first.key_id != second.key_id
    assert _SECRET not in first.key_id


def test_shift_is_at_least_a_day_and_at_most_what_is_said():
    """No patient's dates stay where they were."""
    pseudonyms = Pseudonyms(_SECRET, "research")
    found = {pseudonyms.shift_days(b"%d" % number, 7) for number in range(300)}
    assert found == set(range(1, 8))


def test_short_secret_is_refused_without_being_told():
    """What can be guessed is no secret, and stands in no error."""
    with pytest.raises(PermanentError, match="has 9 bytes") as caught:
        Pseudonyms("guessable", "research")
    assert "guessable" not in str(caught.value)
