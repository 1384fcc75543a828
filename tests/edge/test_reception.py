"""A C-STORE in fragments, without a network: wherever the UIDs stand, the object is stored and gathered."""

import itertools
from pathlib import Path

import pytest
from data_sets import BIG_ENDIAN, EXPLICIT, IDENTITY, IMPLICIT, ODD, identifying, private_of, references_of

from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.edge.deliver.instances import read_instance
from dicomflow.edge.receive.storage import REFUSALS, StoreReception
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.folders import ReceivedFile, Spool

CT = "1.2.840.10008.5.1.4.1.1.2"
KIB = 1 << 10
# Around what is kept of the head, what goes into segments, and far behind both.
SIZES = (1_000, 16 * KIB, 63 * KIB, 64 * KIB - 200, 64 * KIB, 64 * KIB + 200, 100_000, 150_000, 1_000_000)
FRAGMENTS = (1, 500, 4_083, 16_372, 1 << 30)


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """Make one spool for all of them, without waiting for the disk."""
    return Spool(tmp_path_factory.mktemp("reception") / "spool", fsync=False, segment_bytes=8 << 20)


_numbers = itertools.count()


def receive(
    spool: Spool, data_set: bytes, syntax: str, fragment_bytes: int, *, empty_last: bool = False
) -> tuple[ReceivedFile | None, StoreReception]:
    """Receive a data set in fragments of a size, several at a time as the network gives them."""
    command = Command(
        CommandField.C_STORE_RQ,
        message_id=1,
        affected_sop_class_uid=CT.encode(),
        affected_sop_instance_uid=(IDENTITY.sop_instance_uid or b"").rstrip(b"\0"),
        data_set_type=1,
    )
    reception = StoreReception(AcceptedContext(1, CT, syntax), command)
    watermark = Watermark(spool, SpoolSettings(dir=Path(), slow_below_bytes=0, refuse_below_bytes=0))
    reception.begin(
        spool,
        watermark,
        association_id="a",
        number=next(_numbers),
        calling_ae_title="CT1",
        called_ae_title="EDGE",
        is_draining=False,
        near_bytes=len(data_set) % 100_000,
    )
    view = memoryview(data_set)
    fragments = [view[start : start + fragment_bytes] for start in range(0, len(data_set), fragment_bytes)]
    for start in range(0, len(fragments), 3):
        is_last = start + 3 >= len(fragments) and not empty_last
        reception.take(fragments[start : start + 3], is_last=is_last)
    if empty_last:
        reception.take([view[:0]], is_last=True)
    return reception.finish("127.0.0.1"), reception


def gathered(spool: Spool, received: ReceivedFile) -> tuple[str, str, str]:
    """Read back what was stored as the deliverer does."""
    spool.unpack(100)
    instance = read_instance(received)
    received.path.unlink()
    return instance.sop_instance_uid, instance.study_instance_uid, instance.series_instance_uid


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("kind", ["private", "references", "defined references"])
def test_uids_are_found_at_every_depth_in_fragments_of_every_size(spool: Spool, syntax: str, kind: str):
    """Before this, UIDs behind 64 KiB of an object of at most 150 KB were said to be missing."""
    refused = []
    for size, fragment_bytes in itertools.product(SIZES, FRAGMENTS):
        if size // fragment_bytes > 1_000:
            continue  # a byte at a time takes seconds
        if kind == "private":
            between = private_of(size, syntax)
        else:
            between = references_of(size, syntax, defined=kind.startswith("defined"))
        # What follows the UIDs decides how much longer the object is than what is kept of its head.
        for behind in (0, 80_000):
            data_set = identifying(syntax, between=between, after=private_of(behind, syntax) if behind else b"")
            received, reception = receive(spool, data_set, syntax, fragment_bytes, empty_last=bool(behind))
            if received is None:
                refused.append((size, fragment_bytes, behind, reception.refusal))
            elif fragment_bytes == FRAGMENTS[-1]:
                assert ("1.2.3.4", "1.2.5", "1.2.6") == gathered(spool, received)
            else:
                received.path.unlink(missing_ok=True)
    assert [] == refused


def test_uids_behind_five_megabytes_are_found(spool: Spool):
    """Of a presentation state of 40,000 images."""
    data_set = identifying(between=references_of(5_000_000))
    received, _ = receive(spool, data_set, EXPLICIT, 16_372)
    assert received is not None
    assert ("1.2.3.4", "1.2.5", "1.2.6") == gathered(spool, received)


@pytest.mark.parametrize("name", ODD)
def test_odd_object_is_stored_and_gathered(spool: Spool, name: str):
    """Other receivers store these; what is odd with them is said where they are indexed."""
    syntax, make = ODD[name]
    data_set = make()
    for fragment_bytes in (100, 16_372):
        received, reception = receive(spool, data_set, syntax, fragment_bytes)
        assert received is not None, reception.refusal
        assert ("1.2.3.4", "1.2.5", "1.2.6") == gathered(spool, received)


@pytest.mark.parametrize("missing", ["study", "series"])
def test_uid_that_is_nowhere_is_missing(spool: Spool, missing: str):
    """All of the object was looked through before that is said."""
    data_set = identifying(after=private_of(200_000), **{missing: None})
    received, reception = receive(spool, data_set, EXPLICIT, 16_372)
    assert (None, REFUSALS[f"{missing}_missing"]) == (received, reception.refusal)
