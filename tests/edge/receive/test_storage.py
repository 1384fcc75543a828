"""C-STORE over real sockets: what is answered, and what the spool then holds."""

import hashlib
import os
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from spool_files import leftovers

from dicomflow.dimse.status import Status
from dicomflow.edge.receive.storage import REFUSALS

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


def test_data_set_is_stored_bit_for_bit(receiver: Any, scu: Any, data_set: Any, part10: Any):
    """A stored file is preamble, meta information and the data set as it was sent."""
    answer = scu.store(data_set())
    assert (Status.SUCCESS, 1, b"1.2.3.4\0") == (
        answer.status,
        answer.message_id_responded_to,
        answer.affected_sop_instance_uid,
    )
    assert [part10()] == receiver.stored()


def test_data_set_over_a_spare_is_stored_bit_for_bit(receiver: Any, scu: Any, data_set: Any, part10: Any, spare: Any):
    """What a longer file of before held is gone, and it was that file."""
    spare(part10() + b"of before")
    (inode,) = (path.stat().st_ino for path in (receiver.spool.root / "spares").iterdir())
    assert Status.SUCCESS == scu.store(data_set()).status
    assert [part10()] == receiver.stored()
    assert [inode] == [file.path.stat().st_ino for file in receiver.spool.scan_received()]


def test_identity_is_not_read_from_what_a_spare_held(receiver: Any, scu: Any, data_set: Any, part10: Any, spare: Any):
    """A data set that ends before its Study UID is refused, although the bytes behind it in the file were one."""
    # Left to pydicom, which reads the file: a private element of unknown VR and undefined length, and its end.
    odd = struct.pack("<HH2s2xI", 0x0009, 0x1001, b"UN", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    whole = data_set(pixels=b"")
    cut = whole.index(struct.pack("<HH", 0x0020, 0x000D))
    spare(part10(pixels=b"").replace(whole, whole[:cut] + odd + whole[cut:]))
    answer = scu.store(whole[:cut] + odd)
    assert REFUSALS["study_missing"].comment == answer.error_comment
    assert [] == receiver.stored()


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


@pytest.mark.parametrize(
    ("of_data_set", "element"),
    [({"sop_instance_uid": "1.2.3.5"}, SOP_INSTANCE), ({"sop_instance_uid": "1.2.3.4.0"}, SOP_INSTANCE)],
)
def test_uid_mismatch_between_command_and_data_set_answers_a900(
    receiver: Any, scu: Any, data_set: Any, of_data_set: dict[str, str], element: int
):
    """An instance has one UID, or it is refused: no table and no file may ever differ in it."""
    answer = scu.store(data_set(**of_data_set))
    assert (0xA900, (element,)) == (answer.status, answer.offending_elements)
    assert [] == leftovers(receiver.spool)


def test_sop_class_mismatch_answers_a900(receiver: Any, scu: Any, data_set: Any):
    """A data set of another class than the command's is refused."""
    answer = scu.store(data_set(sop_class_uid=MR))
    assert (0xA900, (SOP_CLASS,)) == (answer.status, answer.offending_elements)
    assert [] == leftovers(receiver.spool)


@pytest.mark.parametrize("uid", [None, "", "1.2.x", "1..2"])
@pytest.mark.parametrize(("field", "element"), [("study_instance_uid", STUDY), ("series_instance_uid", SERIES)])
def test_missing_study_or_series_uid_answers_c000(
    receiver: Any, scu: Any, data_set: Any, field: str, element: int, uid: str | None
):
    """What could not be filed later is refused at once, while its sender is there to be told."""
    answer = scu.store(data_set(**{field: uid}))
    assert (0xC000, (element,)) == (answer.status, answer.offending_elements)
    assert [] == leftovers(receiver.spool)


def test_private_and_unknown_attributes_survive(receiver: Any, scu: Any, data_set: Any):
    """A private block, its unknown VRs, and an attribute of no dictionary are read back with their values."""
    private = b"".join(
        struct.pack("<HH2sH", group, element, vr, len(value)) + value
        for group, element, vr, value in (
            (0x0009, 0x0010, b"LO", b"MAKER 1 "),
            (0x0009, 0x1001, b"LO", b"of theirs "),
            (0x000A, 0x0042, b"LO", b"of nobody "),
        )
    )
    unknown = struct.pack("<HH2s2xI", 0x0009, 0x1002, b"UN", 6) + b"\1\2\3\4\5\6"
    plain = data_set()
    place = plain.index(b"\x20\0\x0d\0")
    assert Status.SUCCESS == scu.store(plain[:place] + private[:34] + unknown + private[34:] + plain[place:]).status
    (whole,) = receiver.stored()
    found = dcmread(BytesIO(whole))
    assert "of theirs" == found.private_block(0x0009, "MAKER 1")[1].value.strip()
    assert b"\1\2\3\4\5\6" == found.private_block(0x0009, "MAKER 1")[2].value
    assert whole.endswith(plain[place:])
    assert private[34:] in whole


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
