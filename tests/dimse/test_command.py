"""Command sets: read tolerantly, written strictly (PS3.7 6.3.1, 9.3, E.1)."""

import io
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from dicomflow.dimse.command import (
    NO_DATA_SET,
    Command,
    CommandError,
    CommandField,
    Priority,
    decode_command,
    encode_command,
    encode_response,
)

VERIFICATION = b"1.2.840.10008.1.1\0"
CT = b"1.2.840.10008.5.1.4.1.1.2\0"

ECHO = (
    b"\x00\x00\x00\x00"
    b"\x04\x00\x00\x00"
    b"\x38\x00\x00\x00"  # group length 56
    b"\x00\x00\x02\x00"
    b"\x12\x00\x00\x00"
    b"1.2.840.10008.1.1\0"  # Affected SOP Class UID
    b"\x00\x00\x00\x01"
    b"\x02\x00\x00\x00"
    b"\x30\x00"  # Command Field: C-ECHO-RQ
    b"\x00\x00\x10\x01"
    b"\x02\x00\x00\x00"
    b"\x07\x00"  # Message ID 7
    b"\x00\x00\x00\x08"
    b"\x02\x00\x00\x00"
    b"\x01\x01"  # Command Data Set Type: none
)


def element(number: int, value: bytes) -> bytes:
    """Encode an element of group 0000."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def test_echo_request_decodes_field_by_field():
    """The annotated C-ECHO-RQ, 68 bytes in all."""
    assert 68 == len(ECHO)
    expected = Command(CommandField.C_ECHO_RQ, message_id=7, affected_sop_class_uid=VERIFICATION)
    assert expected == decode_command(ECHO)
    assert ECHO == encode_command(expected)


def test_echo_response_has_78_bytes():
    """Group length 66 (PS3.7 9.3.5.2)."""
    response = encode_response(decode_command(ECHO), 0)
    assert (78, 66) == (len(response), int.from_bytes(response[8:12], "little"))
    decoded = decode_command(response)
    assert (0x8030, 7, 0, NO_DATA_SET) == (
        decoded.command_field,
        decoded.message_id_responded_to,
        decoded.status,
        decoded.data_set_type,
    )
    assert decoded.is_response
    assert None is decoded.message_id


def test_tags_ascend_whatever_a_command_holds():
    """Written strictly, with a group length that counts the rest."""
    encoded = encode_command(
        Command(
            0x8130,
            message_id=1,
            message_id_responded_to=2,
            affected_sop_class_uid=b"1.2",
            affected_sop_instance_uid=b"1.2.3",
            requested_sop_class_uid=b"1.4",
            requested_sop_instance_uid=b"1.5",
            priority=Priority.LOW,
            status=0xA900,
            offending_elements=(0x00080016, 0x00080018),
            error_comment="odd",
            event_type_id=1,
            action_type_id=2,
            move_originator_ae_title="ODD",
            move_originator_message_id=3,
        )
    )
    tags = [item.tag for item in read_dataset(io.BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)]
    assert sorted(tags) == tags
    assert 17 == len(tags)
    assert len(encoded) - 12 == int.from_bytes(encoded[8:12], "little")
    assert b"odd " in encoded
    assert b"ODD " in encoded
    assert b"1.2.3\0" in encoded


def test_space_padded_uid_is_echoed_byte_for_byte():
    """Some senders compare the bytes of the response with those they sent."""
    request = replace(
        decode_command(ECHO),
        command_field=CommandField.C_STORE_RQ,
        affected_sop_class_uid=CT,
        affected_sop_instance_uid=b"1.2.3.4.5 ",
    )
    response = decode_command(encode_response(request, 0))
    assert (CT, b"1.2.3.4.5 ") == (response.affected_sop_class_uid, response.affected_sop_instance_uid)


def test_refusal_names_its_elements_and_its_reason():
    """Offending Element is a list of tags, Error Comment at most 64 characters of ASCII (PS3.7 C.5)."""
    response = decode_command(encode_response(decode_command(ECHO), 0xA900, "ü" + "x" * 80, (0x00080016, 0x0020000D)))
    assert (0xA900, "?" + "x" * 63) == (response.status, response.error_comment)
    assert (0x00080016, 0x0020000D) == response.offending_elements


def test_response_to_an_action_carries_affected_uids():
    """The request names Requested UIDs, its response Affected ones (PS3.7 10.3.4)."""
    request = Command(
        CommandField.N_ACTION_RQ, message_id=1, requested_sop_class_uid=b"1.2", requested_sop_instance_uid=b"1.4"
    )
    response = decode_command(encode_response(request, 0))
    assert (b"1.2\0", b"1.4\0", None) == (
        response.affected_sop_class_uid,
        response.affected_sop_instance_uid,
        response.requested_sop_class_uid,
    )


@pytest.mark.parametrize(
    "encoded",
    [
        ECHO[12:],
        b"\0\0\0\0\x04\0\0\0\xff\xff\xff\xff" + ECHO[12:],
        ECHO + element(0x0001, b"\x10\0\0\0"),
        ECHO[:12] + element(0x0001, b"\x10\0\0\0") + ECHO[12:],
        ECHO + element(0x5010, b"anything"),
        ECHO[:12] + ECHO[38:] + ECHO[12:38],
        ECHO + b"\x08\x00\x16\x00\x00\x00\x00\x00",
        ECHO + struct.pack("<HHI", 0, 0x1000, 2**32 - 1),
        ECHO + bytes(5),
        ECHO + bytes(20),
        ECHO.replace(element(0x0100, b"\x30\x00"), element(0x0100, b"\x30\x00\x00\x00")),
        ECHO.replace(element(0x0110, b"\x07\x00"), element(0x0110, b"\x07\x00\x09\x00")),
        ECHO.replace(element(0x0110, b"\x07\x00"), element(0x0110, b"\x07")),
    ],
    ids=[
        "no-group-length",
        "wrong-group-length",
        "retired-last",
        "retired-first",
        "unknown",
        "another-order",
        "group-8",
        "4-gib",
        "padding",
        "more-padding",
        "number-of-four-bytes",
        "two-numbers",
        "number-of-one-byte",
    ],
)
def test_command_is_read_tolerantly(encoded: bytes):
    """The group length is not believed, unknown and retired elements are skipped, the order does not matter."""
    assert decode_command(ECHO) == decode_command(encoded)


@pytest.mark.parametrize("data_set_type", [0x0000, 0x0001, 0x0100, 0x0102, 0xFEFE])
def test_any_other_data_set_type_means_a_data_set(data_set_type: int):
    """Only 0101H means none (PS3.7 E.1)."""
    encoded = element(0x0100, b"\x01\x00") + element(0x0800, data_set_type.to_bytes(2, "little"))
    assert decode_command(encoded).has_data_set
    assert not decode_command(ECHO).has_data_set


def test_move_originator_is_kept():
    """It tells the result of a C-MOVE from a fresh acquisition."""
    command = decode_command(ECHO + element(0x1030, b"VIEWER\0 ") + element(0x1031, b"\x05\x00"))
    assert ("VIEWER", 5) == (command.move_originator_ae_title, command.move_originator_message_id)


def test_command_cut_short_is_an_error_but_between_elements():
    """And there it lacks the Command Data Set Type, which is last."""
    for length in range(len(ECHO)):
        with pytest.raises(CommandError):
            decode_command(ECHO[:length])


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        element(0x0100, b"\x30\x00"),
        element(0x0800, b"\x01\x01"),
        element(0x0100, b"") + element(0x0800, b"\x01\x01"),
        element(0x0100, b"\x30\x00") + struct.pack("<HHI", 0, 0x0110, 2**32 - 1) + element(0x0800, b"\x01\x01"),
    ],
    ids=["empty", "no-type", "no-field", "empty-field", "4-gib"],
)
def test_command_that_cannot_be_decoded_is_an_error(encoded: bytes):
    """Whatever is wrong, there is one exception for it."""
    with pytest.raises(CommandError):
        decode_command(encoded)


_uids = st.none() | st.binary(min_size=1, max_size=32).map(lambda value: value + b"\0" * (len(value) % 2))
_numbers = st.none() | st.integers(0, 0xFFFF)
_text = st.text(st.characters(codec="ascii", min_codepoint=0x21, max_codepoint=0x7E), max_size=16)


@given(
    st.builds(
        Command,
        command_field=st.integers(0, 0xFFFF),
        message_id=_numbers,
        message_id_responded_to=_numbers,
        affected_sop_class_uid=_uids,
        affected_sop_instance_uid=_uids,
        requested_sop_class_uid=_uids,
        requested_sop_instance_uid=_uids,
        priority=_numbers,
        data_set_type=st.integers(0, 0xFFFF),
        status=_numbers,
        offending_elements=st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple),
        error_comment=_text,
        event_type_id=_numbers,
        action_type_id=_numbers,
        move_originator_ae_title=st.none() | _text.map(lambda text: text.replace("\\", "")),
        move_originator_message_id=_numbers,
    )
)
def test_command_round_trips(command: Command):
    """Write, read: the same value, and an even length."""
    encoded = encode_command(command)
    assert command == decode_command(encoded)
    assert 0 == len(encoded) % 2


def test_oracles_store_request_is_read_field_by_field():
    """We read the command set that the oracle writes, and write the same bytes."""
    primitive = C_STORE()
    primitive.MessageID = 513
    primitive.AffectedSOPClassUID = CT.rstrip(b"\0").decode()
    primitive.AffectedSOPInstanceUID = "1.2.3.4.5"
    primitive.Priority = 2
    primitive.DataSet = io.BytesIO(b"data")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    primitive_of_command = next(iter(message.encode_msg(1, 0)))
    ((_, fragment),) = primitive_of_command.presentation_data_value_list
    command = decode_command(fragment[1:])  # behind the message control header
    expected = Command(
        CommandField.C_STORE_RQ,
        message_id=513,
        affected_sop_class_uid=CT,
        affected_sop_instance_uid=b"1.2.3.4.5\0",
        priority=Priority.LOW,
        data_set_type=1,
    )
    assert expected == command
    assert fragment[1:] == encode_command(expected)


def test_a_move_and_its_counts_are_written_and_read():
    """PS3.7 9.3.4: the destination in a request, the sub-operations in a response; absent ones stay unknown."""
    request = Command(CommandField.C_MOVE_RQ, message_id=3, priority=0, move_destination="EDGE", data_set_type=1)
    assert request == decode_command(encode_command(request))
    response = Command(
        0x8021,
        message_id_responded_to=3,
        status=0xFF00,
        remaining_suboperations=400,
        completed_suboperations=0,
        warning_suboperations=1,
    )
    decoded = decode_command(encode_command(response))
    assert response == decoded
    assert None is decoded.failed_suboperations
