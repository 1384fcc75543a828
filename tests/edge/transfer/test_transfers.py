"""What goes to a destination and what is told of it, whatever the destination answers."""

import contextlib
import errno
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from clocks import Clock
from object_stores import make_bucket, make_s3_client
from tls_sink import make_certificate
from transfer_site import DROP, DROP_AFTER, EDGE, Pacs, Site, data_set_digest, uid

from dicomflow.bucket.keys import job_key, outbound_key
from dicomflow.bucket.transfer import InstanceState, PendingTransfer, encode
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SpoolSettings, build_settings
from dicomflow.edge.stores import build_store
from dicomflow.edge.transfer.process import has_transfers, routes_of
from dicomflow.errors import PermanentError
from dicomflow.network.settings import ClientTls

DONE, FAILED, QUEUED, CANCELLED = (
    InstanceState.DONE,
    InstanceState.FAILED,
    InstanceState.QUEUED,
    InstanceState.CANCELLED,
)


def states(site: Site) -> list[tuple[InstanceState, int | None]]:
    """Return what was told of each instance."""
    return [(each.state, each.status) for each in site.returns().instances]


def test_transfer_is_sent_whole_told_and_cleared(site: Site, pacs: Pacs, part10: Callable[..., bytes]):
    """Each instance arrives once with the bytes that were stored, the end is told, and no copy stays."""
    site.offer(count=5)
    site.step()
    assert {uid(n): 1 for n in range(5)} == pacs.taken
    assert {uid(n): data_set_digest(part10(uid(n))) for n in range(5)} == pacs.digests
    returns = site.returns()
    assert (True, [(DONE, 0)] * 5) == (returns.is_final, states(site))
    assert [] == list((site.spool / "transfers").rglob("*.dcm"))
    assert 1 == pacs.associations


def test_status_a700_is_tried_again_until_it_is_taken(site: Site, pacs: Pacs, clock: Clock):
    """A destination without room is asked again later, for that instance alone."""
    pacs.script[uid(1)] = [0xA700] * 5
    site.offer()
    for _ in range(6):
        site.step()
        clock.now += 1000
    assert [(DONE, 0)] * 3 == states(site)
    assert {uid(0): 1, uid(1): 6, uid(2): 1} == pacs.seen
    assert [1, 6, 1] == [each.attempts for each in site.returns().instances]


@pytest.mark.parametrize(
    ("answers", "tries", "state", "status"),
    [
        ([0xA900], 1, FAILED, 0xA900),
        ([0xC000] * 9, 3, FAILED, 0xC000),
        ([0xC000] * 2, 3, DONE, 0x0000),
        ([0xA700, 0xC000, 0xA700, 0xC000], 5, DONE, 0x0000),
        ([0x0110] * 9, 3, FAILED, 0x0110),
        ([0x0122], 1, FAILED, 0x0122),
        ([0x0111], 1, DONE, 0x0111),
        ([0xB000], 1, DONE, 0xB000),
        ([0xB006], 1, DONE, 0xB006),
        ([0xB007], 1, DONE, 0xB007),
        ([0x0107], 1, DONE, 0x0107),
        ([0xFE00] * 9, 3, FAILED, 0xFE00),
    ],
)
def test_status_decides_how_often_an_instance_is_tried(
    site: Site, pacs: Pacs, clock: Clock, answers: list[int], tries: int, state: InstanceState, status: int
):
    """What an answer says of the instance holds for it, and its neighbours arrive."""
    pacs.script[uid(1)] = answers
    site.offer()
    for _ in range(8):
        site.step()
        clock.now += 1000
    assert [(DONE, 0), (state, status), (DONE, 0)] == states(site)
    assert tries == pacs.seen[uid(1)]
    assert site.returns().is_final


def test_dropped_association_repeats_only_what_had_no_answer(site: Site, pacs: Pacs, clock: Clock):
    """What broke the association comes again by itself; what was answered before does not."""
    pacs.script[uid(1)] = [DROP, DROP_AFTER]
    site.offer(count=4)
    for _ in range(4):
        site.step()
        clock.now += 1000
    assert [(DONE, 0)] * 4 == states(site)
    # Once for the answer that was lost, and it is told so.
    assert {uid(0): 1, uid(1): 2, uid(2): 1, uid(3): 1} == pacs.taken


def test_class_that_is_not_accepted_fails_with_its_reason(
    tmp_path: Path, site: Site, pacs: Pacs, part10: Callable[..., bytes]
):
    """No accepted presentation context is final and says which."""
    del tmp_path, part10
    other = Pacs(classes=("1.2.840.10008.5.1.4.1.1.4",))
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": other.port})
    site.restart()
    site.offer()
    site.step()
    other.close()
    returns = site.returns()
    assert returns.is_final
    assert {(FAILED, None)} == set(states(site))
    assert "accepts no context for 1.2.840.10008.5.1.4.1.1.2 in 1.2.840.10008.1.2.1" in returns.instances[0].reason
    assert not pacs.seen


def test_destination_that_takes_implicit_vr_alone_fails_with_that_reason(site: Site, pacs: Pacs):
    """Nothing is converted on this way: what is stored in Explicit VR has no context there, and it is told which."""
    other = Pacs("1.2.840.10008.1.2")
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": other.port})
    site.restart()
    site.offer()
    site.step()
    other.close()
    assert {(FAILED, None)} == set(states(site))
    assert "in 1.2.840.10008.1.2.1" in site.returns().instances[0].reason
    assert {} == other.seen == pacs.seen


@pytest.mark.parametrize("closes", [True, False])
def test_destination_that_says_nothing_costs_no_instance_a_try(site: Site, pacs: Pacs, clock: Clock, closes: bool):  # noqa: FBT001  # a case
    """A port that takes connections and closes them, or never answers, is a destination that is away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                if closes:
                    connection.close()
                else:
                    taken.append(connection)

        taken: list[socket.socket] = []
        thread = threading.Thread(target=accept)
        thread.start()
        changes = {"port": listener.getsockname()[1], "timeout_seconds": 0.2}
        site.destinations["PACS"] = site.destinations["PACS"].model_copy(update=changes)
        site.restart()
        site.offer()
        site.courier.step()
        site.lanes[0].step()
        clock.now += 10
        site.courier.step()
        thread.join()
    for each in taken:
        each.close()
    returns = site.returns()
    assert (False, ()) == (returns.is_final, returns.instances)
    assert returns.reason in {"the peer closed the connection", "no answer: timed out"} or "reset" in returns.reason
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": pacs.port, "timeout_seconds": 60})
    site.restart()
    site.step()
    assert [(DONE, 0)] * 3 == states(site)


def test_destination_away_for_a_day_costs_no_instance_a_try(site: Site, pacs: Pacs, clock: Clock):
    """While nobody answers the reason is told; when somebody does, each instance is sent once."""
    away = site.destinations["PACS"]
    site.destinations["PACS"] = away.model_copy(update={"port": 1})
    site.restart()
    site.offer()
    for _ in range(24):
        site.step()
        clock.now += 3600
    returns = site.returns()
    assert not returns.is_final
    assert "cannot connect" in returns.reason
    site.destinations["PACS"] = away
    site.restart()
    site.step()
    assert [(DONE, 0)] * 3 == states(site)
    assert {1} == set(pacs.taken.values())
    assert {1} == {each.attempts for each in site.returns().instances}


def test_instances_are_given_up_after_keep_days(site: Site, clock: Clock):
    """What a destination has not taken for so long fails with what it said last."""
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": 1, "keep_days": 2})
    site.restart()
    site.offer()
    for _ in range(2):
        site.restart()
        site.step()
        clock.now += 86_500
    site.step()
    returns = site.returns()
    assert returns.is_final
    assert {(FAILED, None)} == set(states(site))
    assert "not taken within 2 days: cannot connect" in returns.instances[0].reason


def test_destination_nobody_knows_fails_with_that_reason(site: Site, pacs: Pacs):
    """The name is all that a transfer says, and an unknown one is no address."""
    site.offer(destination="127.0.0.1:104")
    site.step()
    returns = site.returns()
    assert returns.is_final
    assert {"the edge edge-1 knows no destination '127.0.0.1:104'"} == {each.reason for each in returns.instances}
    assert not pacs.seen


def test_edge_whose_destinations_were_removed_answers_what_waits(tmp_path: Path, site: Site, pacs: Pacs):
    """What was begun, and what comes later, fails with the reason; the process runs on for the edge has known some."""
    pacs.script[uid(0)] = [0xA700]
    site.offer()
    site.step()
    site.destinations.clear()
    site.restart()
    site.step()
    assert (True, [DONE, DONE]) == (site.returns().is_final, [state for state, _ in states(site)][1:])
    assert "the edge edge-1 knows no destination 'PACS'" == site.returns().instances[0].reason == site.returns().reason
    site.offer("t2")
    site.step()
    assert {(FAILED, "the edge edge-1 knows no destination 'PACS'")} == {
        (each.state, each.reason) for each in site.returns("t2").instances
    }
    settings = EdgeSettings(
        name=EDGE, spool=SpoolSettings(dir=site.spool), delivery=DeliverySettings(store_url="file:///unused")
    )
    never = settings.model_copy(update={"spool": SpoolSettings(dir=tmp_path / "never")})
    assert (True, False) == (has_transfers(settings), has_transfers(never))


def test_destination_is_found_by_its_ae_title_too(site: Site, pacs: Pacs):
    """The seed's messages say an AE title."""
    site.destinations["archive"] = site.destinations.pop("PACS")
    site.restart()
    site.offer(destination="PACS")
    site.step()
    assert 3 == sum(pacs.taken.values())


def test_damaged_copy_is_never_sent(site: Site, pacs: Pacs, clock: Clock):
    """A copy whose bytes are others than the job says is fetched three times and fails; the others arrive."""
    site.offer()
    content = bytearray(bytes(obstore.get(site.store, outbound_key(EDGE, "t1", 1)).bytes()))
    content[-1] ^= 1
    obstore.put(site.store, outbound_key(EDGE, "t1", 1), bytes(content))
    for _ in range(4):
        site.step()
        clock.now += 1000
    assert [(DONE, 0), (FAILED, None), (DONE, 0)] == states(site)
    assert "SHA-256 of the copy" in site.returns().instances[1].reason
    assert uid(1) not in pacs.seen


def test_copy_that_is_gone_fails_alone(site: Site, pacs: Pacs):
    """An expired copy is told as that."""
    site.offer()
    obstore.delete(site.store, outbound_key(EDGE, "t1", 0))
    site.step()
    assert [(FAILED, None), (DONE, 0), (DONE, 0)] == states(site)
    assert 2 == sum(pacs.taken.values())


def test_copies_on_disk_are_compared_after_a_restart(site: Site, pacs: Pacs, clock: Clock):
    """What a power cut left of a copy is fetched again."""
    pacs.script[uid(0)] = [0xA700]
    site.offer(count=1)
    site.step()
    copy = site.spool / "transfers" / "t1" / "0.dcm"
    copy.write_bytes(copy.read_bytes()[:-2] + b"\0\0")
    site.restart()
    clock.now += 1000
    site.step()
    assert [(DONE, 0)] == states(site)
    assert 1 == len(set(pacs.digests.values()))


def test_cancelled_transfer_stops_and_says_what_had_arrived(site: Site, pacs: Pacs, clock: Clock):
    """What was not sent yet is not sent any more."""
    pacs.script[uid(1)] = [0xA700] * 9
    site.offer()
    site.step()
    site.list(PendingTransfer("t1", 1, is_cancelled=True))
    site.step()
    clock.now += 1000
    site.step()
    assert [(DONE, 0), (CANCELLED, 0xA700), (DONE, 0)] == states(site)
    assert (True, 1) == (site.returns().is_final, pacs.seen[uid(1)])


def test_transfer_cancelled_before_it_began_is_told_so(site: Site, pacs: Pacs):
    """Nothing is fetched for it."""
    site.offer()
    site.list(PendingTransfer("t1", 1, is_cancelled=True))
    site.step()
    assert (True, ()) == (site.returns().is_final, site.returns().instances)
    assert not pacs.seen


def test_next_round_sends_only_what_did_not_arrive(site: Site, pacs: Pacs):
    """A retry does not repeat what the destination has, even where the job names it."""
    pacs.script[uid(1)] = [0xA900]
    site.offer()
    site.step()
    assert [(DONE, 0), (FAILED, 0xA900), (DONE, 0)] == states(site)
    site.offer(number=2)
    site.step()
    assert (2, [(DONE, 0)] * 3) == (site.returns().round, states(site))
    assert {uid(0): 1, uid(1): 2, uid(2): 1} == pacs.seen


def test_end_is_told_again_while_the_store_says_that_it_waits(site: Site, pacs: Pacs, clock: Clock):
    """An event that was lost costs ten minutes, and no instance is sent twice for it."""
    site.offer()
    site.step()
    obstore.delete(site.store, f"returns/{EDGE}/t1.json")
    clock.now += 601
    site.step()
    assert [(DONE, 0)] * 3 == states(site)
    site.restart()
    site.step()
    assert {1} == set(pacs.taken.values())


def test_transfers_to_a_dead_destination_hold_up_no_other(site: Site, pacs: Pacs):
    """Two destinations, one of them away: the other gets its own."""
    site.destinations["DEAD"] = site.destinations["PACS"].model_copy(update={"port": 1})
    site.restart()
    site.offer("a", destination="DEAD")
    site.offer("b")
    site.list(PendingTransfer("a", 1), PendingTransfer("broken", 1), PendingTransfer("b", 1))
    obstore.put(site.store, job_key(EDGE, "broken"), b"{")
    site.step()
    assert site.returns("b").is_final
    assert "no Job of format 1" in site.returns("broken").reason
    assert not site.returns("a").is_final
    assert 3 == sum(pacs.taken.values())


def test_job_of_another_edge_is_refused(site: Site, pacs: Pacs):
    """What lies in the wrong place sends nothing."""
    job = site.offer()
    obstore.put(site.store, job_key(EDGE, "t1"), encode(replace(job, edge="edge-2")))
    site.step()
    assert (True, "the job is not of this edge, or not of this transfer") == (
        site.returns().is_final,
        site.returns().reason,
    )
    assert not pacs.seen


def test_full_volume_fetches_nothing_and_goes_on_when_there_is_room(site: Site, pacs: Pacs, clock: Clock):
    """Receiving goes first: a copy is fetched only beside the room that it needs."""
    site.refuse_below_bytes = 1 << 62
    site.restart()
    site.offer()
    site.step()
    clock.now += 10
    site.step()
    assert not pacs.seen
    assert "no room for copies" in site.returns().reason
    site.refuse_below_bytes = 0
    site.restart()
    site.step()
    assert [(DONE, 0)] * 3 == states(site)


def test_answer_without_room_is_kept_and_not_asked_for_again(
    site: Site, pacs: Pacs, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """On a volume that takes no line, what was answered is not sent again, and nothing else is sent meanwhile."""
    site.offer()
    real, full = os.write, [True]

    def write(descriptor: int, content: bytes) -> int:
        if full[0] and b'"state":"done"' in content:
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    for _ in range(3):
        try:
            site.step()
        except OSError:
            clock.now += 100
    assert 1 == sum(pacs.taken.values())
    full[0] = False
    site.step()
    assert [(DONE, 0)] * 3 == states(site)
    assert {1} == set(pacs.taken.values())


def test_idle_edge_makes_one_request_that_brings_nothing(site: Site, monkeypatch: pytest.MonkeyPatch):
    """An edge asks for one object, and by its ETag."""
    site.offer()
    site.step()
    asked = []
    real = obstore.get
    monkeypatch.setattr(
        obstore, "get", lambda *arguments, **options: asked.append(options) or real(*arguments, **options)
    )
    site.courier.step()
    assert [{"options": {"if_none_match": asked[0]["options"]["if_none_match"]}}] == asked
    assert asked[0]["options"]["if_none_match"]


@pytest.mark.parametrize("endpoint_fixture", ["s3_endpoint", "disk_s3_endpoint"])
def test_transfer_through_s3(
    request: pytest.FixtureRequest,
    endpoint_fixture: str,
    aws_environment: pytest.MonkeyPatch,
    tmp_path: Path,
    pacs: Pacs,
    clock: Clock,
    part10: Callable[..., bytes],
):
    """Two makes of S3: the question by ETag, the copies, and what is told; a copy that is not there fails alone."""
    endpoint = request.getfixturevalue(endpoint_fixture)
    bucket = make_bucket(make_s3_client(endpoint))
    delivery = DeliverySettings(store_url=f"s3://{bucket}", endpoint=endpoint)
    site = Site(tmp_path, pacs.port, clock, part10, build_store(delivery))
    site.step()
    site.offer()
    obstore.delete(site.store, outbound_key(EDGE, "t1", 2))
    site.step()
    assert [(DONE, 0), (DONE, 0), (FAILED, None)] == states(site)
    site.list()
    site.step()
    site.step()
    assert {uid(0): 1, uid(1): 1} == pacs.taken


def test_destination_with_tls_is_verified(tmp_path: Path, site: Site, clock: Clock):
    """A certificate of a known authority is sent to; one of nobody's is waited for, and the reason says so."""
    authority, certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    other = Pacs(tls=context)
    plain = site.destinations["PACS"].model_copy(update={"port": other.port})
    site.destinations["PACS"] = plain.model_copy(update={"tls": True})
    site.restart()
    site.offer()
    site.step()
    clock.now += 10
    site.step()
    assert "the peer's certificate is not trusted" in site.returns().reason
    site.destinations["PACS"] = plain.model_copy(update={"tls": ClientTls(ca=authority)})
    site.restart()
    clock.now += 100
    site.step()
    other.close()
    assert [(DONE, 0)] * 3 == states(site)
    assert {1} == set(other.taken.values())


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"host": "h", "port": 0, "ae_title": "A"}, "destinations.PACS.port"),
        ({"host": "h", "port": 104}, "destinations.PACS.ae_title"),
        ({"host": "h", "port": 104, "ae_title": "A", "url": "x"}, "destinations.PACS.url"),
        ({"host": "h", "port": 104, "ae_title": "A", "tls": {"key": "k"}}, "certificate and key belong together"),
    ],
)
def test_destination_that_is_wrong_stops_the_start(document: dict[str, object], problem: str):
    """Settings of destinations are checked when they are read, with the name of what is wrong."""
    needed = {"name": "e", "spool": {"dir": "s"}, "delivery": {"store_url": "file:///x"}}
    with pytest.raises(PermanentError, match=re.escape(problem)):
        build_settings(needed | {"destinations": {"PACS": document}}, "edge.toml")


def test_destination_is_not_called_as_the_store_is():
    """`store` is what the default store will be called in routes."""
    good = {"host": "h", "port": 104, "ae_title": "A"}
    needed = {"name": "e", "spool": {"dir": "s"}, "delivery": {"store_url": "file:///x"}}
    with pytest.raises(PermanentError, match="is not 'store'"):
        build_settings(needed | {"destinations": {"store": good}}, "edge.toml")


def test_tls_files_that_do_not_load_stop_the_start(tmp_path: Path):
    """An edge that could reach no destination says so at its start, and by the destination's name."""
    tls = {"ca": str(tmp_path / "none.pem")}
    needed = {"name": "e", "spool": {"dir": "s"}, "delivery": {"store_url": "file:///x"}}
    pacs = {"host": "h", "port": 104, "ae_title": "A", "tls": tls}
    with pytest.raises(PermanentError, match=r"destinations\.PACS: tls: "):
        routes_of(build_settings(needed | {"destinations": {"PACS": pacs}}, "edge.toml"))
