"""Deliveries of small instances that wait in segments: as complete as those of files."""

import asyncio
from typing import Any

import pytest

from dicomflow.edge.deliver.deliverer import Deliverer
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool import segments
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane

pytestmark = pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")


@pytest.fixture
def site(site: Any) -> Any:
    """Give a site whose worker receives into segments."""
    site.lane = Lane(site.spool.root, segment_bytes=64 << 10)
    return site


def test_instances_in_segments_arrive_with_their_bytes(site: Any, spool: Spool, part10: Any):
    """More than a segment holds, from three associations, with a large one between: all are stored, whole, once."""
    sizes = [20_000, 30_000, 200_000, 25_000, 10, 40_000]
    for number, size in enumerate(sizes):
        site.receive(f"1.2.{number}", association=f"a{number % 3}", pixels=bytes([number]) * size)
    for association in ("a0", "a1", "a2"):
        spool.associations.note_end(association, "released")
    site.run(lambda: site.manifests() and site.is_empty())
    found = {
        each.sop_instance_uid: (site.objects / each.key).read_bytes()
        for m in site.manifests()
        for each in m.instances()
    }
    assert {f"1.2.{n}": part10(f"1.2.{n}", pixels=bytes([n]) * size) for n, size in enumerate(sizes)} == found
    assert len(sizes) == sum(len(list(each.instances())) for each in site.manifests())


def test_delivery_that_is_due_takes_what_waits_in_a_segment(site: Any, spool: Spool):
    """Before it closes for want of instances those are looked for that have no file yet."""
    settings = EdgeSettings(
        name="site-1",
        spool=SpoolSettings(dir=spool.root),
        delivery=DeliverySettings(store_url="file:///unused", quiet_seconds=1000),
    )
    deliverer = Deliverer(settings, Spool(spool.root), site.uploader_with(), None)

    async def _go() -> None:
        site.receive("1.2.1")
        await deliverer._closing.poll()
        spool.associations.note_end("a1", "released")
        (delivery,) = deliverer._closing._deliveries._open.values()
        delivery.touched_at -= 2000
        site.receive("1.2.2", association="a2")
        await deliverer._closing.poll()
        assert ["1.2.1", "1.2.2"] == sorted(delivery.instances)
        assert not delivery.is_closed
        delivery.touched_at -= 2000
        spool.associations.note_end("a2", "released")
        await deliverer._closing.poll()
        assert delivery.is_closed

    asyncio.run(_go())
    deliverer.ledger.close()


def test_deliverer_cut_off_again_and_again_delivers_each_instance_once(site: Any, spool: Spool):
    """Whatever had been unpacked when it ended, also where resends are delivered."""
    sops = [f"1.2.{number}" for number in range(30)]
    for sop in sops:
        site.receive(sop, pixels=sop.encode() * 1000)
    for count in range(1, 6):
        site.run(lambda count=count: len(site.announced) >= count, skip_resent=False)
        spool.spares = Spool(spool.root).spares
        spool._unpacker = Spool(spool.root)._unpacker  # as the next process has it
    spool.associations.note_end("a1", "released")
    site.run(lambda: site.manifests() and site.is_empty(), skip_resent=False)
    listed = [each.sop_instance_uid for manifest in site.manifests() for each in manifest.instances()]
    assert sorted(sops) == sorted(listed)
