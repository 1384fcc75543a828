"""A C-STORE in fragments, without a network: wherever the UIDs stand, the object is stored and gathered."""

import itertools

import pytest
from data_sets import BIG_ENDIAN, EXPLICIT, IDENTITY, IMPLICIT, ODD, identifying, private_of, references_of

from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.edge.deliver.instances import read_instance
from dicomflow.edge.receive.storage import REFUSALS, StoreReception
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane

CT = "1.2.840.10008.5.1.4.1.1.2"
KIB = 1 << 10
# Around what is kept of the head, what goes into segments, and far behind both.
SIZES = (1_000, 16 * KIB, 63 * KIB, 64 * KIB - 200, 64 * KIB, 64 * KIB + 200, 100_000, 150_000, 1_000_000)
FRAGMENTS = (1, 500, 4_083, 16_372, 1 << 30)


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Lane:
    """Make one lane for all of them, without waiting for the disk."""
    return Lane(tmp_path_factory.mktemp("reception") / "spool", fsync=False, segment_bytes=8 << 20)


_numbers = itertools.count()


def receive(
    lane: Lane, data_set: bytes, syntax: str, fragment_bytes: int, *, empty_last: bool = False
) -> tuple[bool, StoreReception]:
    """Receive a data set in fragments of a size, several at a time as the network gives them."""
    command = Command(
        CommandField.C_STORE_RQ,
        message_id=1,
        affected_sop_class_uid=CT.encode(),
        affected_sop_instance_uid=(IDENTITY.sop_instance_uid or b"").rstrip(b"\0"),
        data_set_type=1,
    )
    reception = StoreReception(AcceptedContext(1, CT, syntax), command)
    watermark = Watermark(SpoolSettings(dir=lane.root, slow_below_bytes=0, refuse_below_bytes=0))
    reception.begin(
        lane,
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


def _clear(lane: Lane) -> None:
    for file in list(Spool(lane.root, fsync=False).scan_received()):
        file.path.unlink()


def gathered(lane: Lane) -> tuple[str, str, str]:
    """Read back what was stored as the deliverer does."""
    spool = Spool(lane.root, fsync=False)
    spool.unpack(100)
    instance = read_instance(max(spool.scan_received(), key=lambda each: each.number))
    _clear(lane)
    return instance.sop_instance_uid, instance.study_instance_uid, instance.series_instance_uid


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("kind", ["private", "references", "defined references"])
def test_uids_are_found_at_every_depth_in_fragments_of_every_size(lane: Lane, syntax: str, kind: str):
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
            received, reception = receive(lane, data_set, syntax, fragment_bytes, empty_last=bool(behind))
            if not received:
                refused.append((size, fragment_bytes, behind, reception.refusal))
            elif fragment_bytes == FRAGMENTS[-1]:
                assert ("1.2.3.4", "1.2.5", "1.2.6") == gathered(lane)
            else:
                _clear(lane)
    assert [] == refused


def test_uids_behind_five_megabytes_are_found(lane: Lane):
    """Of a presentation state of 40,000 images."""
    data_set = identifying(between=references_of(5_000_000))
    received, _ = receive(lane, data_set, EXPLICIT, 16_372)
    assert received
    assert ("1.2.3.4", "1.2.5", "1.2.6") == gathered(lane)


@pytest.mark.parametrize("name", ODD)
def test_odd_object_is_stored_and_gathered(lane: Lane, name: str):
    """Other receivers store these; what is odd with them is said where they are indexed."""
    syntax, make = ODD[name]
    data_set = make()
    for fragment_bytes in (100, 16_372):
        received, reception = receive(lane, data_set, syntax, fragment_bytes)
        assert received, reception.refusal
        assert ("1.2.3.4", "1.2.5", "1.2.6") == gathered(lane)


@pytest.mark.parametrize("missing", ["study", "series"])
def test_uid_that_is_nowhere_is_missing(lane: Lane, missing: str):
    """All of the object was looked through before that is said."""
    data_set = identifying(after=private_of(200_000), **{missing: None})
    received, reception = receive(lane, data_set, EXPLICIT, 16_372)
    assert (False, REFUSALS[f"{missing}_missing"]) == (received, reception.refusal)
