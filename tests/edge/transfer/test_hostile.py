"""Jobs and copies that somebody else has written: an edge fetches no more than was said, and sends nowhere else."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

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
    assert f"has {job.instances[0].bytes + 1000:,} bytes, not {job.instances[0].bytes:,}" in told.reason
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


def finish(site: Site, clock: Clock, steps: int = 6) -> None:
    """Do what is due now and later."""
    for _ in range(steps):
        site.step()
        clock.now += 1000


def ends(site: Site, transfer: str = "t1") -> list[InstanceState]:
    """Return what was told of each instance."""
    return [each.state for each in site.returns(transfer).instances]


DONE, FAILED, QUEUED = InstanceState.DONE, InstanceState.FAILED, InstanceState.QUEUED


def test_copy_of_another_instance_is_not_told_as_arrived(
    site: Site, pacs: Pacs, clock: Clock, part10: Callable[..., bytes]
):
    """A job of which nobody knows the digests, and a copy of another image: the image that is lost has failed."""
    job = site.offer()
    instances = [replace(each, sha256="") for each in job.instances]
    site.offer(instances=instances)
    obstore.put(site.store, outbound_key(EDGE, "t1", 1), part10(uid(7)))
    finish(site, clock)
    assert [DONE, FAILED, DONE] == ends(site)
    assert f"of SOP Instance {uid(7)}" in site.returns().instances[1].reason
    assert {uid(0): 1, uid(2): 1} == pacs.taken


@pytest.mark.parametrize(
    "spoil",
    [lambda copy: copy[:-1], lambda copy: copy[:-1] + b"?", lambda copy: copy + b"?", lambda _copy: b"x"],
    ids=["short", "altered", "long", "other"],
)
def test_copy_that_is_spoilt_fails_alone(
    site: Site, pacs: Pacs, clock: Clock, part10: Callable[..., bytes], spoil: Callable[[bytes], bytes]
):
    """Its neighbours, and the transfers after it, arrive in the first step; it is fetched three times."""
    site.offer()
    obstore.put(site.store, outbound_key(EDGE, "t1", 0), spoil(part10(uid(0))))
    site.offer("t2", count=1)
    site.list(PendingTransfer("t1", 1), PendingTransfer("t2", 1))
    site.step()
    assert {uid(0): 1, uid(1): 1, uid(2): 1} == pacs.taken  # the first one by the other transfer
    assert {0} == {lane._failures for lane in site.lanes}
    finish(site, clock)
    assert [FAILED, DONE, DONE] == ends(site)
    assert 3 == site.returns().instances[0].attempts


@pytest.mark.parametrize(
    ("size", "reason"),
    [(1 << 62, "is larger than the volume"), (1 << 20, "bytes, not 1,048,576"), (None, "has no room for copies")],
)
def test_size_that_is_absurd_holds_up_no_neighbour(site: Site, pacs: Pacs, clock: Clock, size: int | None, reason: str):
    """The instance that is said to have it fails, or waits for room; the others of its transfer arrive at once."""
    size = size or shutil.disk_usage(site.spool).total
    job = site.offer()
    site.offer(instances=[replace(job.instances[0], bytes=size), *job.instances[1:]])
    site.step()
    assert {uid(1): 1, uid(2): 1} == pacs.taken
    assert {0} == {lane._failures for lane in site.lanes}
    clock.now += 8 * 86_400
    finish(site, clock)
    assert [FAILED, DONE, DONE] == ends(site)
    assert reason in site.returns().instances[0].reason


def test_job_with_one_instance_under_two_numbers_is_refused(site: Site, pacs: Pacs):
    """It would be sent twice, and one that is lost told as arrived."""
    job = site.offer()
    site.offer(instances=[*job.instances, replace(job.instances[0], number=3)])
    site.step()
    assert (True, ()) == (site.returns().is_final, site.returns().instances)
    assert "one SOP Instance under two numbers" in site.returns().reason
    assert {} == pacs.taken


def test_what_arrived_is_known_by_its_uid_in_another_round(site: Site, pacs: Pacs, clock: Clock):
    """A round whose numbers are of other instances neither sends what is there nor takes what is lost for it."""
    old = site.offer()
    finish(site, clock)
    shifted = [replace(each, number=each.number + 1) for each in old.instances]
    for each, content in [(each, bytes(site.part10(each.sop_instance_uid))) for each in shifted]:
        obstore.put(site.store, outbound_key(EDGE, "t1", each.number), content)
    content = site.part10(uid(9))
    new = replace(shifted[0], number=0, sop_instance_uid=uid(9), bytes=len(content), sha256="")
    site.offer(number=2, instances=[new, *shifted])
    obstore.put(site.store, outbound_key(EDGE, "t1", 0), content)
    finish(site, clock)
    assert [DONE] * 4 == ends(site)
    assert {uid(0): 1, uid(1): 1, uid(2): 1, uid(9): 1} == pacs.taken


def test_round_of_which_the_job_knows_nothing_is_not_begun_and_told(site: Site, pacs: Pacs, clock: Clock):
    """Whoever forges one of the two holds it up, says so, and does no harm: the next true word has it go on."""
    job = site.offer()
    for forged_pending, forged_job in ((99, 1), (1, 99)):
        obstore.put(site.store, job_key(EDGE, "t1"), encode(replace(job, round=forged_job)))
        site.list(PendingTransfer("t1", forged_pending))
        finish(site, clock, 3)
        assert {} == pacs.taken
        returns = site.returns()
        assert (False, ()) == (returns.is_final, returns.instances)
        assert f"its job is of round {forged_job}, and round {forged_pending} waits" == returns.reason
    obstore.put(site.store, job_key(EDGE, "t1"), encode(job))
    finish(site, clock)
    assert (1, [DONE] * 3) == (site.returns().round, ends(site))


@pytest.mark.parametrize("is_known", [True, False])
def test_forged_round_does_not_outlast_the_true_one(site: Site, pacs: Pacs, clock: Clock, *, is_known: bool):
    """A round 99 that pending and job agree on is begun; the true word after it is believed, though it is lower."""
    pacs.script[uid(1)] = [0xA700] * 3
    job = site.offer()
    if is_known:
        site.step()
    site.offer(number=99)
    finish(site, clock, 3)
    for number in (1, 2):  # what the catalog says again, and the round of a retry
        obstore.put(site.store, job_key(EDGE, "t1"), encode(replace(job, round=number)))
        site.list(PendingTransfer("t1", number))
        finish(site, clock)
        assert (number, True) == (site.returns().round, site.returns().is_final)
    assert [DONE] * 3 == ends(site)
    assert {uid(n): 1 for n in range(3)} == pacs.taken


def test_end_that_is_told_again_is_news(site: Site, clock: Clock):
    """Whatever sequence the store was given meanwhile, a transfer that waits still is told of by a later one."""
    site.offer()
    site.step()
    before = site.returns().sequence
    finish(site, clock, 2)
    assert before < site.returns().sequence
