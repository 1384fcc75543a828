"""A sender that costs little: objects are encoded to PDUs before the clock starts.

Sends C-STORE requests over one or many associations, each a process, waits for each response, and counts what was
answered Success. Knows nothing of the receiver.
"""

import multiprocessing
import os
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Final

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.dimse.command import Command, CommandField, Priority, decode_command, encode_command
from dicomflow.dimse.message import message_parts
from dicomflow.dimse.pdu import AssociateRequest, ProposedContext, encode_associate_request, encode_release_request

__all__ = ["CT_IMAGE", "Load", "Result", "encode_files", "encode_objects", "send"]

CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
PDU_BYTES: Final = 16_384
_RECEIVE_BYTES: Final = 4096


@dataclass(frozen=True)
class Load:
    """What is sent: `count` objects of `size_bytes` over `associations` at once."""

    name: str
    count: int
    size_bytes: int
    associations: int = 1
    association_per_object: bool = False


@dataclass(frozen=True)
class Result:
    """What was seen: seconds from the first byte to the last answer, and how many were answered Success."""

    seconds: float
    stored: int

    @property
    def per_second(self) -> float:
        """Objects a second."""
        return self.stored / self.seconds


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    if vr in {b"OW", b"OB"}:
        return struct.pack("<HH2s2xI", group, element, vr, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _uid(*parts: int) -> bytes:
    return ("1.2.826.0.1.3680043.10.1404." + ".".join(map(str, parts))).encode()


def encode_objects(load: Load, run: int) -> list[bytes]:
    """Encode each object's command and data set as P-DATA-TF PDUs on context 1; `run` makes the UIDs new."""
    pixels = random.Random(run).randbytes(load.size_bytes)
    objects = []
    for number in range(load.count):
        sop = _uid(run, 3, number)
        data_set = _encode_data_set(run, number, pixels)
        command = encode_command(
            Command(
                CommandField.C_STORE_RQ,
                message_id=number % 65535 + 1,
                affected_sop_class_uid=CT_IMAGE.encode(),
                affected_sop_instance_uid=sop,
                priority=Priority.MEDIUM,
                data_set_type=1,
            )
        )
        objects.append(b"".join(message_parts(1, command, PDU_BYTES, data_set)))
    return objects


def encode_files(load: Load) -> Iterator[bytes]:
    """Yield each object as a Part 10 file."""
    pixels = random.Random(1).randbytes(load.size_bytes)
    for number in range(load.count):
        sop = _uid(1, 3, number).decode()
        meta = encode_file_meta(CT_IMAGE, sop, EXPLICIT_VR_LITTLE_ENDIAN, "BENCH", "ANY-SCP")
        yield meta + _encode_data_set(1, number, pixels)


def _encode_data_set(run: int, number: int, pixels: bytes) -> bytes:
    return b"".join(
        (
            _element(0x0008, 0x0016, b"UI", CT_IMAGE.encode()),
            _element(0x0008, 0x0018, b"UI", _uid(run, 3, number)),
            _element(0x0008, 0x0020, b"DA", b"20260101"),
            _element(0x0008, 0x0060, b"CS", b"CT"),
            _element(0x0010, 0x0010, b"PN", b"Load^Generated"),
            _element(0x0010, 0x0020, b"LO", b"LOAD-1"),
            _element(0x0020, 0x000D, b"UI", _uid(run, 1)),
            _element(0x0020, 0x000E, b"UI", _uid(run, 2)),
            _element(0x0020, 0x0013, b"IS", str(number).encode()),
            _element(0x7FE0, 0x0010, b"OW", pixels),
        )
    )


def send(host: str, port: int, load: Load, objects: Sequence[bytes]) -> Result:
    """Send the objects and return what was seen; every association is a process of its own."""
    context = multiprocessing.get_context("fork")  # the objects are shared, not copied
    barrier = context.Barrier(load.associations + 1)
    results: multiprocessing.Queue[tuple[int, str]] = context.Queue()
    shares = [objects[number :: load.associations] for number in range(load.associations)]
    senders = [
        context.Process(target=_send_share, args=(host, port, load, share, barrier, results)) for share in shares
    ]
    for sender in senders:
        sender.start()
    barrier.wait()
    started = time.perf_counter()
    outcomes = [results.get() for _ in senders]
    seconds = time.perf_counter() - started
    for sender in senders:
        sender.join()
    errors = [error for _, error in outcomes if error]
    if errors:
        raise RuntimeError(f"a sender failed: {errors[0]}")
    return Result(seconds, sum(stored for stored, _ in outcomes))


def _send_share(
    host: str,
    port: int,
    load: Load,
    share: Sequence[bytes],
    barrier: Barrier,
    results: "multiprocessing.Queue[tuple[int, str]]",
) -> None:
    stored = 0
    error = ""
    barrier.wait()
    try:
        if load.association_per_object:
            for item in share:
                stored += _send_association(host, port, [item])
        else:
            stored = _send_association(host, port, share)
    except Exception as caught:  # noqa: BLE001  # it is told to the parent, which fails the run
        error = repr(caught)
    results.put((stored, error))
    results.close()
    results.join_thread()
    os._exit(0)


_REQUEST: Final = encode_associate_request(
    AssociateRequest("ANY-SCP", "LOAD", (ProposedContext(1, CT_IMAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),), PDU_BYTES)
)
_RELEASE: Final = encode_release_request()


def _send_association(host: str, port: int, items: Sequence[bytes]) -> int:
    stored = 0
    with socket.create_connection((host, port), timeout=120) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_REQUEST)
        kind, _ = _read_pdu(connection)
        if kind != 2:
            raise RuntimeError(f"association answered with PDU type {kind:02X}H")
        for item in items:
            connection.sendall(item)
            kind, body = _read_pdu(connection)
            if kind != 4:
                raise RuntimeError(f"C-STORE answered with PDU type {kind:02X}H")
            stored += decode_command(body[6:]).status == 0
        connection.sendall(_RELEASE)
        _read_pdu(connection)
    return stored


def _read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    data = b""
    while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
        received = connection.recv(_RECEIVE_BYTES)
        if not received:
            raise RuntimeError("the receiver closed the connection")
        data += received
    return data[0], data[6:]
