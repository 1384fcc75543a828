"""Bytes that are no DICOM, or no longer: each gets the protocol's refusal and one log line, and harms nobody."""

import struct
from typing import Any

import pytest

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.dimse.events import AssociationAborted, AssociationAccepted, AssociationReleased
from dicomflow.dimse.pdu import AssociateRequest, ProposedContext, encode_associate_request
from dicomflow.dimse.status import Status

CT = "1.2.840.10008.5.1.4.1.1.2"
ABORT_BY_USER = b"\x07\0\0\0\0\4\0\0\0\0"
REQUEST = encode_associate_request(
    AssociateRequest("DICOMFLOW", "CT1", (ProposedContext(1, CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),), 16384)
)
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)


def store_works(scu_with: Any, port: int, data_set: Any) -> bool:
    """Tell whether a new association stores an object and is released."""
    scu = scu_with(port)
    assert isinstance(scu.associate(), AssociationAccepted)
    status = scu.store(data_set()).status
    return status == Status.SUCCESS and isinstance(scu.release(), AssociationReleased)


@pytest.mark.parametrize(
    ("data", "answer", "said"),
    [
        (b"", b"", "connection closed before an association request"),
        (REQUEST[:3], b"", "connection closed before an association request"),
        (REQUEST[:50], b"", "connection closed before an association request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ABORT_BY_USER, "PDU type 47H is unknown"),
        (b"\r\n\r\n", b"", ""),
        (TLS_HELLO, ABORT_BY_USER, "PDU type 16H is unknown"),
        (b"\x04\0\0\0\0\x06\0\0\0\2\1\3", ABORT_BY_USER, "P_DATA_TF while awaiting A-ASSOCIATE-RQ"),
        (b"\x05\0\0\0\0\4\0\0\0\0", ABORT_BY_USER, "RELEASE_RQ while awaiting A-ASSOCIATE-RQ"),
        (b"\x07\0\0\0\0\4\0\0\0\0", b"", "connection closed before an association request"),
        (b"\x01\0\0\0\0\4\0\1\0\0", ABORT_BY_USER, "shorter than its fixed fields"),
        (b"\x01\0\xff\xff\xff\xff", ABORT_BY_USER, "exceeds"),
    ],
    ids=[
        "port-scan",
        "half-header",
        "half-pdu",
        "http",
        "crlf",
        "tls",
        "p-data",
        "release",
        "abort",
        "short-rq",
        "4-gib",
    ],
)
def test_rubbish_before_the_request_is_refused_with_one_log_line(
    receiver: Any,
    raw: Any,
    scu_with: Any,
    data_set: Any,
    ended_lines: Any,
    data: bytes,
    answer: bytes,
    said: str,
):
    """What is no association request gets A-ABORT or a close, one line in the log, and the next association works."""
    assert answer == raw(receiver.port, data, shut=answer == b"")
    lines = ended_lines(1)
    assert 1 == len(lines)
    assert said in lines[0]
    assert store_works(scu_with, receiver.port, data_set)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x09\0\0\0\0\4\0\0\0\0", (2, 1)),
        (REQUEST, (2, 2)),
        (b"\x06\0\0\0\0\4\0\0\0\0", (2, 2)),
        (struct.pack(">BxIIBB", 4, 8, 4, 1, 2) + b"xx", (2, 5)),
        (struct.pack(">BxIIBB", 4, 8, 4, 99, 3) + b"xx", (2, 5)),
        (struct.pack(">BxIIBB", 4, 8, 400, 1, 3) + b"xx", (2, 6)),
        (struct.pack(">BxIIBB", 4, 16, 12, 1, 3) + b"\x08\0\x16\0\xff\xff\0\0\0\0", (0, 0)),
    ],
    ids=["unknown-type", "second-rq", "release-rp", "data-first", "context", "length", "command"],
)
def test_protocol_violation_is_aborted_with_source_and_reason(
    receiver: Any, scu: Any, scu_with: Any, data_set: Any, ended_lines: Any, data: bytes, expected: tuple[int, int]
):
    """Each violation in an association gets the A-ABORT of PS3.8 9.3.8, one log line, and harms no other."""
    scu.socket.sendall(data)
    aborted = scu.next_event()
    assert isinstance(aborted, AssociationAborted)
    assert expected == (aborted.source, aborted.reason)
    scu.socket.close()
    (line,) = ended_lines(1)
    assert "aborted by us {}/{}".format(*expected) in line
    assert store_works(scu_with, receiver.port, data_set)


@pytest.mark.parametrize("title", [b"A\\B", b"M\xdcLLER", b"A\nB", b"\x1b[2J", b"A\0B"])
def test_calling_ae_title_of_another_repertoire_is_taken(receiver: Any, raw: Any, ended_lines: Any, title: bytes):
    """A device whose title PS3.5 6.2 does not allow sends all the same; no byte of it forges a line of the log."""
    answer = raw(receiver.port, REQUEST[:26] + title.ljust(16) + REQUEST[42:] + ABORT_BY_USER)
    assert b"\x02" == answer[:1]
    known = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else "?" for byte in title.replace(b"\0", b" "))
    assert known in ended_lines(1)[0]


@pytest.mark.parametrize("title", [b" " * 16, b"\0" * 16])
def test_empty_calling_ae_title_is_rejected_1_1_3(receiver: Any, raw: Any, title: bytes):
    """A calling AE title must have a character that is no space (PS3.8 9.3.2)."""
    assert b"\x03\0\0\0\0\4\0\1\1\3" == raw(receiver.port, REQUEST[:26] + title + REQUEST[42:])


def test_ae_title_padded_with_nuls_is_understood(receiver: Any, raw: Any, ended_lines: Any):
    """Some devices pad their AE title with NULs instead of spaces."""
    answer = raw(receiver.port, REQUEST[:26] + b"MR1".ljust(16, b"\0") + REQUEST[42:] + ABORT_BY_USER)
    assert b"\x02" == answer[:1]
    assert "calling=MR1 " in ended_lines(1)[0]
