"""Items: the values of items that fit, and an error for each that does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dimse.items import (
    AnsweredContext,
    ItemType,
    PduError,
    ProposedContext,
    Role,
    UserIdentity,
    decode_answered_context,
    decode_common_extended,
    decode_each,
    decode_max_length,
    decode_proposed_context,
    decode_role,
    decode_user_identity,
    decode_user_identity_response,
    decode_window,
    encode_answered_context,
    encode_common_extended,
    encode_item,
    encode_proposed_context,
    encode_role,
    encode_user_identity,
    first_text,
    iterate_items,
)

HEADER = 4
IMPLICIT_ITEM = b"\x40\x00\x00\x111.2.840.10008.1.2"
VERIFICATION_ITEM = b"\x30\x00\x00\x111.2.840.10008.1.1"


def test_items_are_iterated_with_type_and_value():
    """The reserved byte is not tested, and a container may be empty (PS3.8 9.3.1)."""
    assert [(0x51, b"abcd"), (0x52, b"")] == list(iterate_items(b"\x51\xff\x00\x04abcd\x52\x00\x00\x00", 0))
    assert [] == list(iterate_items(b"fixed", 5))


@pytest.mark.parametrize("cut", range(1, 8))
def test_item_cut_short_is_an_error(cut: int):
    """Neither a header nor a value may run past its container."""
    whole = b"\x51\x00\x00\x04\x00\x00\x40\x00"
    with pytest.raises(PduError):
        list(iterate_items(whole[:cut], 0))


def test_proposed_context_decodes_in_the_requestors_order():
    """Item 20H: ID, three reserved bytes, one 30H, one or more 40H; unknown sub-items are skipped."""
    value = b"\x05\xff\xff\xff" + VERIFICATION_ITEM + b"\x77\x00\x00\x02zz" + b"\x40\x00\x00\x031.9" + IMPLICIT_ITEM
    expected = ProposedContext(5, "1.2.840.10008.1.1", ("1.9", "1.2.840.10008.1.2"))
    assert expected == decode_proposed_context(value)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0", b" \0"])
def test_uid_padding_is_stripped(padding: bytes):
    """UIDs in items are not padded (PS3.8 F.1), but some senders do."""
    item = b"\x30\x00\x00" + bytes([17 + len(padding)]) + b"1.2.840.10008.1.1" + padding
    context = decode_proposed_context(b"\x01\0\0\0" + item + IMPLICIT_ITEM)
    assert context is not None
    assert "1.2.840.10008.1.1" == context.abstract_syntax


@pytest.mark.parametrize(
    ("value", "abstract_syntax", "transfer_syntaxes"),
    [
        (b"\x01", "", 0),
        (b"\x01\0\0", "", 0),
        (b"\x01\0\0\0", "", 0),
        (b"\x01\0\0\0" + VERIFICATION_ITEM, "1.2.840.10008.1.1", 0),
        (b"\x01\0\0\0" + IMPLICIT_ITEM, "", 1),
        (b"\x01\0\0\0" + VERIFICATION_ITEM + VERIFICATION_ITEM + IMPLICIT_ITEM, "", 1),
        (b"\x01\0\0\0" + VERIFICATION_ITEM + b"\x40\x00\x00\x41" + b"1" * 65, "1.2.840.10008.1.1", 1),
        (b"\x01\0\0\0" + VERIFICATION_ITEM + IMPLICIT_ITEM + IMPLICIT_ITEM[:-1], "", 1),
        (b"\x01\0\0\0" + VERIFICATION_ITEM + IMPLICIT_ITEM + b"\0\0\0", "1.2.840.10008.1.1", 1),
    ],
    ids=["id-only", "short", "none", "no-40", "no-30", "two-30", "uid-of-65", "cut", "padded"],
)
def test_proposed_context_that_does_not_fit_lacks_what_is_flawed(
    value: bytes, abstract_syntax: str, transfer_syntaxes: int
):
    """It has its ID, so that it can be refused; what it has not, or has twice, nobody guesses."""
    context = decode_proposed_context(value)
    assert context is not None
    assert (1, abstract_syntax) == (context.context_id, context.abstract_syntax)
    assert transfer_syntaxes == len(context.transfer_syntaxes)


def test_context_without_an_id_is_none():
    """There is nothing to answer to, or no result to take."""
    assert None is decode_proposed_context(b"")
    assert None is decode_answered_context(b"\x03\x00\x00")


def test_answered_context_without_syntax_is_understood_when_refused():
    """The transfer syntax of a refused context is not significant (PS3.8 9.3.3.2)."""
    assert AnsweredContext(3, 4, "") == decode_answered_context(b"\x03\x00\x04\x00")


def test_role_item_is_scu_then_scp():
    """PS3.7 D.3.3.4: the SCU role stands before the SCP role."""
    assert Role("1.2", scu=True, scp=False) == decode_role(b"\x00\x031.2\x01\x00")
    assert Role("1.2", scu=False, scp=True) == decode_role(b"\x00\x031.2\x00\x01")
    assert b"\x54\x00\x00\x07\x00\x031.2\x00\x01" == encode_role(Role("1.2", scu=False, scp=True))


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\x03", b"\x00\x031.2\x01", b"\x00\x031.2\x01\x00\x00"])
def test_role_that_does_not_fit_is_an_error(value: bytes):
    """A length, a UID and two bytes, no more and no less."""
    with pytest.raises(PduError):
        decode_role(value)


def test_common_extended_decodes_its_related_classes():
    """Item 57H: SOP class, service class, related general SOP classes (PS3.7 D.3.3.6)."""
    value = b"\x00\x031.2\x00\x031.3\x00\x0a\x00\x031.4\x00\x031.5"
    assert ("1.2", "1.3", ("1.4", "1.5")) == decode_common_extended(value)
    assert ("1.2", "1.3", ()) == decode_common_extended(b"\x00\x031.2\x00\x031.3\x00\x00")
    assert ("1.2", "1.3", ()) == decode_common_extended(b"\x00\x031.2\x00\x031.3")


@pytest.mark.parametrize("cut", [0, 1, 4, 6, 9, 11, 12, 14, 19, 20, 21])
def test_common_extended_cut_short_is_an_error(cut: int):
    """Each of its lengths is checked; only the list as a whole may be absent."""
    whole = b"\x00\x031.2\x00\x031.3\x00\x0a\x00\x031.4\x00\x031.5"
    with pytest.raises(PduError):
        decode_common_extended(whole[:cut])


def test_user_identity_decodes_and_hides_its_fields():
    """Item 58H may hold a password, so that its text form shows neither field."""
    identity = decode_user_identity(b"\x02\x01\x00\x04user\x00\x06secret")
    assert UserIdentity(2, True, b"user", b"secret") == identity
    assert "secret" not in repr(identity)
    assert "user" not in repr(identity)


def test_user_identity_without_secondary_field_is_understood():
    """A type without a passcode has an empty secondary field, or with some senders none."""
    assert b"" == decode_user_identity(b"\x01\x00\x00\x04user\x00\x00").secondary
    assert b"" == decode_user_identity(b"\x01\x00\x00\x04user").secondary


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x01\x00", b"\x01\x00\x00\x05user", b"\x01\x00\x00\x04user\x00"])
def test_user_identity_that_does_not_fit_is_an_error(value: bytes):
    """Both lengths are checked."""
    with pytest.raises(PduError):
        decode_user_identity(value)


def test_user_identity_response_that_does_not_fit_is_an_error():
    """Item 59H carries a length of its own (PS3.7 D.3.3.7.2)."""
    assert b"ticket" == decode_user_identity_response(b"\x00\x06ticket")
    with pytest.raises(PduError):
        decode_user_identity_response(b"\x00\x07ticket")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 16_384),
        ([b"\0\0\0"], 16_384),
        ([b"\0\0\0\0\0"], 16_384),
        ([b"\0\0\1\0", b"\0\0\2\0"], 256),
        ([b"\1\0", b"\0\0\2\0"], 512),
    ],
)
def test_max_length_absent_or_of_another_size_is_the_usual_one(values: list[bytes], expected: int):
    """Item 51H is required, once, of four bytes (PS3.8 D.1): the first that is, or what every peer takes."""
    assert expected == decode_max_length({0x51: values} if values else {})


def test_max_length_is_unsigned():
    """The largest length of four bytes."""
    assert 2**32 - 1 == decode_max_length({0x51: [b"\xff\xff\xff\xff"]})


def test_window_of_another_size_is_none():
    """Item 53H holds two numbers of two bytes; absent means synchronous."""
    assert (3, 5) == decode_window({0x53: [b"\x00\x03\x00\x05"]})
    assert None is decode_window({})
    assert None is decode_window({0x53: [b"\x00\x03"]})


def test_values_that_cannot_be_decoded_are_left_out():
    """Of several sub-items of one type each stands for itself."""
    values = [b"", b"\x00\x031.2\x01\x00", b"\x00\x09x", b"\x00\x031.3\x00\x01"]
    assert (Role("1.2", scu=True, scp=False), Role("1.3", scu=False, scp=True)) == decode_each(values, decode_role)


def test_first_text_of_bytes_above_7f_is_no_uid():
    """Bytes outside ASCII become U+FFFD, which nothing that is compared holds."""
    assert "1.2�" == first_text({0x52: [b"1.2\xe9", b"1.3"]}, ItemType.IMPLEMENTATION_CLASS_UID)
    assert "" == first_text({}, ItemType.IMPLEMENTATION_CLASS_UID)


_uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(lambda parts: "1." + ".".join(map(str, parts)))


@given(st.integers(0, 127), _uids, st.lists(_uids, min_size=1, max_size=4))
def test_contexts_round_trip(index: int, uid: str, syntaxes: list[str]):
    """Encoded and decoded again they are the same."""
    proposed = ProposedContext(2 * index + 1, uid, tuple(syntaxes))
    assert proposed == decode_proposed_context(encode_proposed_context(proposed)[HEADER:])
    answered = AnsweredContext(2 * index + 1, index % 5, uid)
    assert answered == decode_answered_context(encode_answered_context(answered)[HEADER:])


@given(_uids, _uids, st.lists(_uids, max_size=4), st.booleans(), st.booleans(), st.binary(max_size=99))
def test_user_items_round_trip(uid: str, service: str, related: list[str], scu: bool, scp: bool, field: bytes):  # noqa: FBT001  # drawn values
    """Encoded and decoded again they are the same."""
    assert Role(uid, scu, scp) == decode_role(encode_role(Role(uid, scu, scp))[HEADER:])
    extended = (uid, service, tuple(related))
    assert extended == decode_common_extended(encode_common_extended(*extended)[HEADER:])
    identity = UserIdentity(1, scu, field, uid.encode())
    assert identity == decode_user_identity(encode_user_identity(identity)[HEADER:])


def test_item_is_encoded_with_its_length():
    """Type, a reserved zero, two bytes of length, big endian."""
    assert b"\x51\x00\x01\x00" + bytes(256) == encode_item(ItemType.MAX_LENGTH, bytes(256))
