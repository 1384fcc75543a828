"""A spool and a ledger as commit 498dcf6 wrote them are taken over.

`tests/data/498dcf6-site.tar.xz` was made by that commit's own classes, with CT images of 512 bytes of pixels from
10.0.0.1: of study 1.2.1 two are stored, with a manifest, and in the ledger; of 1.2.2 two are in a delivery that is
closed and of which nothing is stored; of 1.2.3 two in one that is open; 1.2.4 is quarantined; of 1.2.5 one is received
as a file, and of 1.2.6 two in a segment of 64 KiB, which has no note of its end yet.
"""

import hashlib
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool import segments
from dicomflow.edge.spool.folders import Spool

ARCHIVE = Path(__file__).parents[3] / "data" / "498dcf6-site.tar.xz"
STORED, CLOSED, OPEN = (
    "0139d5ce-d768-42a7-bd74-9403f1a81964",
    "b785c928-3c8f-48ef-a3f1-6c8d738a131f",
    "119b51ed-8353-4634-85b8-95e19ec87528",
)

pytestmark = pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")


@pytest.fixture
def site(site_with: Any, tmp_path: Path) -> Any:
    """Give the old site, as its first start finds it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    old = site_with("site-1", Spool(tmp_path / "spool"))
    old.spool.associations.note_lost()
    return old


def test_old_spool_is_delivered_whole_and_once(site: Any):
    """Closed deliveries keep their name and their associations' ends, open ones their name, and each instance comes."""
    site.run(lambda: site.is_empty() and 5 == len(site.manifests()))
    found = {manifest.delivery: manifest for manifest in site.manifests()}
    listed = [each for manifest in found.values() for each in manifest.instances()]
    assert {"1.2.1": 2, "1.2.2": 2, "1.2.3": 2, "1.2.5": 1, "1.2.6": 2} == Counter(
        each.sop_instance_uid.rpartition(".")[0] for each in listed
    )
    for each in listed:
        assert each.sha256 == hashlib.sha256((site.objects / each.key).read_bytes()).hexdigest()
    assert {STORED, CLOSED, OPEN} < found.keys()
    assert ["released", "aborted", "lost"] == [found[each].associations[0].ended for each in (STORED, CLOSED, OPEN)]
    ((file, reason),) = site.spool.scan_quarantined()
    assert (6, "a reason of 498dcf6") == (file.number, reason)
    assert {each.sop_instance_uid for each in listed} == {each.sop_instance_uid for each in site.entries()}
    assert all(each.stored_at for each in site.entries())
    site.spool.release(file)
    site.run(lambda: site.is_empty() and 6 == len(site.manifests()))
