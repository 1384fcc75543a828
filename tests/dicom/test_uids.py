"""UIDs: syntax, and what is stored, held against the standard's registry as pydicom has it."""

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import AllTransferSyntaxes

from dicomflow.dicom import uids

STANDARD = "1.2.840.10008."
SOP_CLASSES = {
    uid: name for uid, (name, kind, *_) in UID_dictionary.items() if kind in {"SOP Class", "Meta SOP Class"} and name
}
# Stored by other services than C-STORE, or by C-STORE without a patient.
_NOT_STORED_HERE = {"1.2.840.10008.1.3.10", uids.STORAGE_COMMITMENT, "1.2.840.10008.1.20.2"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"1.2.3", "1.2.3"),
        (b"1.2.3\0", "1.2.3"),
        (b"1.2.3 ", "1.2.3"),
        (b"1.2.3\0 \0", "1.2.3"),
        (b" 1.2.3", " 1.2.3"),
        (b"1.2\0.3", "1.2\0.3"),
        (b"1.2.\xe9", "1.2.\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
    ],
)
def test_padding_is_stripped_at_the_end_only(raw: bytes, expected: str):
    """NULs and spaces (PS3.5 9.1, and what devices do)."""
    assert expected == uids.strip_padding(raw)


@pytest.mark.parametrize("uid", ["1", "0", "1.2.3", "1.2.840.10008.1.2", "2.25." + "9" * 59, "1.02.3", "1.0.0"])
def test_usable_uid_is_let_pass(uid: str):
    """Digits and dots, at most 64 characters."""
    assert uids.is_usable(uid)


@pytest.mark.parametrize(
    "uid",
    [
        *("", ".", "1.", ".1", "1..2", "1.2.a", "1 .2", "1.2\n", "1.2\\1.3", "../../../x", "1/2", "1\0", "-1.2", "1.٣"),
        "1." * 32 + "1",
    ],
)
def test_unusable_uid_is_refused(uid: str):
    """It could leave the folder it is put in, or be no UID at all."""
    assert not uids.is_usable(uid)


def test_leading_zero_in_a_uid_is_accepted_and_flagged():
    """Many devices write them; a component of one zero is legal."""
    for uid in ("1.02.3", "01.2", "1.2.00"):
        assert uids.is_usable(uid)
        assert uids.has_leading_zero(uid)
    for uid in ("1.0.3", "0.1", "1.20.100"):
        assert not uids.has_leading_zero(uid)


def test_private_means_outside_the_standards_root():
    """A prefix of digits is no prefix of components."""
    assert uids.is_private("1.3.6.1.4.1.343.7.1.1")
    assert uids.is_private("1.2.840.100081.1")
    assert not uids.is_private("1.2.840.10008.1.1")
    assert not uids.is_private("1.2.840.10008")


@pytest.mark.parametrize("uid", SOP_CLASSES, ids=str)
def test_registered_sop_class_is_storage_or_another_service(uid: str):
    """Each SOP class of PS3.6 A is the one or the other, and storage is what its name says."""
    is_named_storage = "Storage" in SOP_CLASSES[uid] and uid not in _NOT_STORED_HERE
    expected = is_named_storage and uid not in uids.NON_PATIENT_SOP_CLASSES
    assert expected is uids.is_storage_sop_class(uid)
    assert uids.is_storage_sop_class(uid) is not uids.is_other_sop_class(uid)


@pytest.mark.parametrize("uid", ["1.3.6.1.4.1.343.7.1.1", "2.25.1", "1.2.840.10008.5.1.4.1.1.999.1"])
def test_private_or_future_class_is_storage(uid: str):
    """Nothing else that is served has such a class (PS3.4 B.4.1.1)."""
    assert uids.is_storage_sop_class(uid)
    assert not uids.is_other_sop_class(uid)


@pytest.mark.parametrize("uid", ["", "no uid", "1.2.840.10008.5.1.4.1.1.", "1.2.840.10008", "1.2.840.10008.5.1.4.99"])
def test_what_is_neither_is_not_stored(uid: str):
    """No UID, and standard UIDs outside the storage arc that no table has."""
    assert not uids.is_storage_sop_class(uid)


def test_every_transfer_syntax_that_holds_its_pixels_is_stored():
    """All of PS3.6 A but JPIP, live video, and the two retired encodings; private ones are not."""
    for uid in AllTransferSyntaxes:
        name = UID_dictionary[uid][0]
        expected = not any(word in name for word in ("JPIP", "SMPTE", "MIME", "XML", "Papyrus"))
        assert expected is uids.is_storage_transfer_syntax(uid), name
    for uid in (
        "1.2.840.113619.5.2",
        "1.2.840.10008.1.20",
        "1.2.840.10008.1.22",
        "1.2.840.10008.1.2.",
        "",
        "1.2.840.10008.1.2.x",
    ):
        assert not uids.is_storage_transfer_syntax(uid)
    assert uids.is_storage_transfer_syntax("1.2.840.10008.1.2.99.1")


def test_constants_of_ours_are_legal():
    """A UID under 2.25 (PS3.5 B.2), a name of at most 16 characters (PS3.7 D.3.3.2)."""
    assert uids.is_usable(uids.IMPLEMENTATION_CLASS_UID)
    assert not uids.has_leading_zero(uids.IMPLEMENTATION_CLASS_UID)
    assert int(uids.IMPLEMENTATION_CLASS_UID.removeprefix("2.25.")) < 1 << 128
    assert 1 <= len(uids.IMPLEMENTATION_VERSION_NAME) <= 16
