"""A sender that drips: what a data set's head costs when it comes byte by byte."""

import struct
import time
from dataclasses import replace
from typing import Any

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.edge.receive.storage import StoreReception
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings

CT = "1.2.840.10008.5.1.4.1.1.2"


def test_dripping_sender_does_not_make_the_head_scanned_at_each_byte(lane: Any, data_set: Any):
    """A head of 3,000 elements that comes byte by byte costs about a second, not minutes, and is stored whole."""
    encoded = data_set()
    group_20 = encoded.index(b"\x20\0\x0d\0")
    private = b"".join(struct.pack("<HH2sH", 0x0009, 0x1000 + number, b"LO", 0) for number in range(3000))
    dripped = encoded[:group_20] + private + encoded[group_20:]
    context = AcceptedContext(1, CT, EXPLICIT_VR_LITTLE_ENDIAN)
    command = Command(
        CommandField.C_STORE_RQ, 1, affected_sop_class_uid=CT.encode(), affected_sop_instance_uid=b"1.2.3.4"
    )
    reception = StoreReception(context, replace(command, data_set_type=1))
    settings = SpoolSettings(dir=lane.root, slow_below_bytes=0, refuse_below_bytes=0)
    reception.begin(
        lane,
        Watermark(settings),
        association_id="a",
        number=0,
        calling_ae_title="CT1",
        called_ae_title="DICOMFLOW",
        is_draining=False,
    )
    started = time.thread_time()
    for place in range(len(dripped)):
        reception.take([memoryview(dripped)[place : place + 1]], is_last=place == len(dripped) - 1)
    assert time.thread_time() - started < 5
    assert reception.finish("127.0.0.1")
    (path,) = lane.root.rglob("*.dcm")
    assert path.read_bytes().endswith(dripped)
