"""Jobs and copies that somebody else has written: an edge fetches no more than was said, and sends nowhere else."""

import json
from collections.abc import Callable, Iterator

import obstore
import pytest
from clocks import Clock
from transfer_site import EDGE, Pacs, Site, uid

from dicomflow.bucket import reading
from dicomflow.bucket.keys import job_key, outbound_key, pending_key
from dicomflow.bucket.transfer import InstanceState, PendingTransfer, encode
from dicomflow.edge.spool.transfers import TransferFolders
from dicomflow.errors import PermanentError


def test_copy_that_is_longer_than_it_was_said_is_not_fetched_to_its_end(
    site: Site, pacs: Pacs, clock: Clock, part10: Callable[..., bytes]
):
    """It may be terabytes: it is left when there is more of it than there was room for, and fails with that reason."""
    job = site.offer(count=1)
    obstore.put(site.store, outbound_key(EDGE, "t1", 0), part10(uid(0)) + bytes(1000))
    for _ in range(4):
        site.step()
        clock.now += 1000
    (told,) = site.returns().instances
    assert (InstanceState.FAILED, {}) == (told.state, dict(pacs.taken))
    assert "more than" in told.reason
    taken = []

    def chunks() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield bytes(job.instances[0].bytes - 1)

    folder = TransferFolders(site.spool).take(job)
    with pytest.raises(PermanentError, match="more than"):
        folder.fetch(job.instances[0], chunks())
    assert [0, 1] == taken


def test_document_that_is_too_large_is_not_read(site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch):
    """A job above the limit fails with that reason; what waits, above the limit, changes nothing and is asked again."""
    site.offer()
    monkeypatch.setattr(reading, "MOST_BYTES", 200)
    site.step()
    assert (True, ()) == (site.returns().is_final, site.returns().instances)
    assert "more than the 200 of a document" in site.returns().reason
    obstore.put(site.store, pending_key(EDGE), bytes(201))
    site.step()
    assert {} == pacs.taken


def test_destination_is_one_of_the_settings_whatever_a_job_says(site: Site, pacs: Pacs):
    """An address, a URL, a path or a name of any length is no destination, and the reason fits what is told."""
    names = ("10.0.0.1", "PACS@10.0.0.1:104", "../PACS", "pacs", "PACS\n", "x" * 100_000)
    for number, name in enumerate(names):
        site.offer(f"t{number}", destination=name)
        site.step()
        returns = site.returns(f"t{number}")
        assert {InstanceState.FAILED} == {each.state for each in returns.instances}
        assert "knows no destination" in returns.reason
    assert {} == pacs.taken


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".", "x" * 65, "t1\n", "t\x00"])
def test_transfer_that_is_no_folder_is_refused(site: Site, pacs: Pacs, name: str):
    """Nothing is made for it, and nothing outside the spool."""
    document = {"edge": EDGE, "transfers": [{"transfer": name, "round": 1, "is_cancelled": False}], "format": 1}
    obstore.put(site.store, pending_key(EDGE), json.dumps(document).encode())
    before = sorted(site.spool.parent.rglob("*"))
    site.step()
    assert before == sorted(site.spool.parent.rglob("*"))
    assert {} == pacs.taken


def test_job_of_an_earlier_round_is_not_sent_again(site: Site, pacs: Pacs, clock: Clock):
    """Who puts an old job back, and says that it waits, has nothing sent."""
    old = site.offer()
    site.step()
    site.offer(number=2, instances=old.instances[:1])
    site.step()
    obstore.put(site.store, job_key(EDGE, "t1"), encode(old))
    for number in (1, 2, 3):
        site.list(PendingTransfer("t1", number))
        site.step()
        clock.now += 1000
    assert {uid(n): 1 for n in range(3)} == pacs.taken
