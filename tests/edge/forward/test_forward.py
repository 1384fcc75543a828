"""What is received goes where the routes say, whole and once, and nothing goes elsewhere."""

import contextlib
import hashlib
from pathlib import Path

import pytest
from routed_site import RoutedSite
from transfer_site import Pacs

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.edge.forward import clerk as clerk_module
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.spool.view import look, quarantined_files


def test_each_destination_gets_what_its_rule_says_and_nothing_more(routed: RoutedSite, pacs: Pacs):
    """Three series of one study: to a PACS and a second store, to both stores, and by no rule to the default store."""
    routed.receive("1.1", series="1.2.3.1", modality="CT")
    routed.receive("1.2", series="1.2.3.1", modality="CT")
    routed.receive("2.1", series="1.2.3.2", modality="MR")
    routed.receive_and_end("3.1", series="1.2.3.3", modality="SR")
    routed.run(routed.is_level)
    assert routed.digests("2.1", "3.1") == routed.stored(routed.objects)
    assert routed.digests("1.1", "1.2", "2.1") == routed.stored(routed.research)
    assert {"1.1": 1, "1.2": 1} == dict(pacs.taken)
    offset = len(routed.sent["1.1"]) - len(_data_set(routed.sent["1.1"]))
    assert hashlib.sha256(routed.sent["1.1"][offset:]).hexdigest() == pacs.digests["1.1"]
    (ours,), (theirs,) = routed.manifests(routed.objects), routed.manifests(routed.research)
    assert {"2.1", "3.1"} == {each.sop_instance_uid for each in ours.instances()}
    assert {"1.1", "1.2", "2.1"} == {each.sop_instance_uid for each in theirs.instances()}
    assert all(each.key.startswith("copies/site-1/") for each in theirs.instances())
    assert all((routed.research / each.key).is_file() for each in theirs.instances())
    assert {"pacs done": 2, "research done": 3} == dict(routed.counts)


def test_the_ledger_has_each_decision_and_what_came_of_it(routed: RoutedSite):
    """By instance and destination: the route, the digest of the rules, and the end."""
    routed.receive("1.1", series="1.2.3.1", modality="CT")
    routed.receive("2.1", series="1.2.3.2", modality="MR")
    routed.receive_and_end("3.1", series="1.2.3.3", modality="SR")
    routed.run(routed.is_level)
    told = {
        sop: [(each.destination, each.route, each.state, each.is_required) for each in routed.routed(sop)]
        for sop in ("1.1", "2.1", "3.1")
    }
    assert told == {
        "1.1": [("pacs", "ct", "done", 1), ("research", "ct", "done", 1)],
        "2.1": [("research", "mr", "done", 1), ("store", "mr", "store", 1)],
        "3.1": [("store", "", "store", 1)],
    }
    assert 1 == len({each.configuration for sop in told for each in routed.routed(sop)})
    entries = routed.entries()
    assert all(each.stored_at is not None for each in entries.values())
    assert "routes" == entries["1.1"].store
    assert routed.objects.as_uri() != entries["1.1"].store


def test_a_dead_destination_delays_nobody(routed: RoutedSite, pacs: Pacs):
    """What it is to get waits on the disk; the others have theirs, and the ledger knows that it is not safe yet."""
    pacs.close()
    routed.receive("1.1", series="1.2.3.1", modality="CT")
    routed.receive_and_end("2.1", series="1.2.3.2", modality="MR")
    routed.run(lambda: routed.is_level("pacs"))
    assert routed.digests("2.1") == routed.stored(routed.objects)
    assert routed.digests("1.1", "2.1") == routed.stored(routed.research)
    (waiting,) = routed.handed.of("pacs")
    assert routed.sent["1.1"] == waiting.whole_file(0).read_bytes()
    assert routed.entries()["1.1"].stored_at is None
    again = Pacs()
    try:
        routed.set(destinations=_with_port(routed, again.port))
        routed.run(routed.is_level)
        assert {"1.1": 1} == dict(again.taken)
    finally:
        again.close()
    assert routed.entries()["1.1"].stored_at is not None
    assert routed.digests("1.1", "2.1") == routed.stored(routed.research)


def test_deliveries_take_turns_on_the_board(routed: RoutedSite, pacs: Pacs, monkeypatch: pytest.MonkeyPatch):
    """One after the other where there is room for one: what a dead destination is to get waits on the disk alone."""
    monkeypatch.setattr(clerk_module, "_MOST_BEGUN", 1)
    for number in range(4):
        routed.receive_and_end(f"1.{number}", association=f"a{number}", study=f"1.2.3.{number}")
    routed.run(routed.is_level)
    assert {f"1.{number}": 1 for number in range(4)} == dict(pacs.taken)
    assert routed.digests("1.0", "1.1", "1.2", "1.3") == routed.stored(routed.research)


def test_what_the_ledger_forgets_it_forgets_whole(routed: RoutedSite):
    """With an instance go its ways to destinations."""
    routed.receive_and_end("1.1")
    routed.run(routed.is_level)
    assert 2 == len(routed.routed("1.1"))
    with contextlib.closing(Ledger(routed.spool.root / LEDGER_FILE)) as ledger:
        assert 1 == ledger.forget(["1.1"])
    assert [] == routed.routed("1.1")


def test_a_ledger_that_is_lost_is_filled_from_the_folders(routed: RoutedSite, pacs: Pacs):
    """What waits for a destination is known again, and safe when it has arrived."""
    pacs.close()
    routed.set(routes=[{"to": ["pacs"]}])
    routed.receive_and_end("1.1")
    routed.run(lambda: routed.is_level("pacs"))
    (routed.spool.root / LEDGER_FILE).write_bytes(b"no ledger")
    for suffix in ("-wal", "-shm"):
        (routed.spool.root / f"{LEDGER_FILE}{suffix}").unlink(missing_ok=True)
    routed.deliver(lambda: routed.has_entries() and routed.routed("1.1"))
    assert ("routes", None) == (routed.entries()["1.1"].store, routed.entries()["1.1"].stored_at)
    again = Pacs()
    try:
        routed.set(destinations=_with_port(routed, again.port))
        routed.run(routed.is_level)
    finally:
        again.close()
    assert routed.entries()["1.1"].stored_at is not None


def test_a_dead_destination_is_told_of(routed: RoutedSite, pacs: Pacs):
    """In the heartbeat, by name, with how many instances wait for it."""
    pacs.close()
    routed.receive_and_end("1.1", "1.2", modality="CT")
    routed.run(lambda: routed.is_level("pacs"))
    told = routed.objects / "status" / "site-1.json"
    told.unlink()
    routed.deliver(told.exists)
    (waiting,) = Heartbeat.from_json(told.read_bytes()).waiting
    assert ("pacs", 2) == (waiting.name, waiting.instances)
    assert {"pacs": 2, "research": 0} == look(routed.spool.root).waiting()


def test_a_spare_is_never_a_file_that_a_destination_waits_for(routed: RoutedSite, pacs: Pacs):
    """Files of stored instances are written over by new ones, but for those that somebody else still has."""
    pacs.close()
    routed.set(routes=[{"to": ["store", "pacs"]}])
    routed.receive_and_end("1.1", pixels=100_000)
    routed.run(lambda: routed.is_level("pacs"))
    assert [] == list(routed.spool.spares_folder.iterdir())
    (waiting,) = routed.handed.of("pacs")
    assert routed.sent["1.1"] == waiting.whole_file(0).read_bytes()


def test_a_changed_rule_is_for_the_next_delivery(routed: RoutedSite, pacs: Pacs):
    """What was decided stays decided, though it is handed over to a destination that is away."""
    pacs.close()
    routed.receive_and_end("1.1", modality="CT")
    routed.run(lambda: routed.is_level("pacs"))
    routed.set(routes=[{"when": {"modality": "CT"}, "to": ["store"]}])
    routed.receive_and_end("1.2", association="a2", modality="CT")
    routed.run(lambda: routed.is_level("pacs"))
    assert routed.digests("1.2") == routed.stored(routed.objects)
    assert ["1.1"] == [each.sop_instance_uid for each in routed.handed.of("pacs")[0].instances]
    first, second = routed.routed("1.1")[0], routed.routed("1.2")[0]
    assert first.configuration != second.configuration


def test_rules_that_change_while_it_runs_are_for_the_next_delivery(routed: RoutedSite, pacs: Pacs):
    """They are asked for when a delivery closes."""
    pacs.close()
    rules = [routed.settings.routes]
    routed.receive_and_end("1.1", modality="CT")

    def decided() -> bool:
        if len(rules) == 1 and routed.handed.of("pacs"):
            routed.receive_and_end("1.2", association="a2", modality="CT")
            rules.append(())
        return bool(routed.stored(routed.objects)) and routed.is_level("pacs", "research")

    routed.deliver(decided, lambda: rules[-1])
    assert routed.digests("1.2") == routed.stored(routed.objects)
    assert ["1.1"] == [each.sop_instance_uid for each in routed.handed.of("pacs")[0].instances]


def test_an_optional_destination_is_given_up_and_a_required_one_never(routed: RoutedSite, pacs: Pacs):
    """After its days the ledger says so; the file goes with the last destination that waits for it."""
    pacs.close()
    destinations = _with_port(routed, pacs.port)
    destinations["pacs"] |= {"required": False, "keep_days": 1e-6}
    destinations["other"] = destinations["pacs"] | {"required": True}
    routed.set(destinations=destinations, routes=[{"to": ["pacs", "other"]}])
    routed.receive_and_end("1.1")
    routed.run(lambda: routed.is_level("other"))
    told = {each.destination: each for each in routed.routed("1.1")}
    assert ("gave_up", "waiting") == (told["pacs"].state, told["other"].state)
    assert "not taken within" in str(told["pacs"].reason)
    assert routed.sent["1.1"] == routed.handed.of("other")[0].whole_file(0).read_bytes()


def test_what_a_required_destination_refuses_is_quarantined(routed: RoutedSite, pacs: Pacs):
    """With the destination and its status; its neighbours arrive, and an operator's retry decides it anew."""
    pacs.script["1.1"] = [0xA900]
    routed.set(routes=[{"to": ["pacs"]}])
    routed.receive_and_end("1.1", "1.2")
    routed.run(routed.is_level)
    assert {"1.2": 1} == dict(pacs.taken)
    ((file, reason),) = list(routed.spool.scan_quarantined())
    assert "destination pacs: status A900H" == reason
    assert hashlib.sha256(routed.sent["1.1"]).hexdigest() == file.sha256
    assert "pacs: status A900H" == routed.entries()["1.1"].problem
    routed.spool.release(file)
    routed.run(lambda: routed.is_level() and pacs.taken["1.1"])
    assert "done" == routed.routed("1.1")[-1].state
    assert routed.entries()["1.1"].problem is None


def test_what_two_destinations_refuse_is_one_row_also_after_a_restart(routed: RoutedSite, pacs: Pacs):
    """With both reasons, and no row of a file that is not there any more."""
    with contextlib.closing(Pacs()) as other:
        pacs.script |= {"1.1": [0xA900], "1.2": [0xA700] * 1000}
        other.script["1.1"] = [0x0122]
        second = _with_port(routed, other.port)["pacs"]
        routed.set(destinations=_with_port(routed, pacs.port) | {"other": second}, routes=[{"to": ["pacs", "other"]}])
        routed.receive_and_end("1.1", "1.2")
        routed.run(lambda: routed.is_level("pacs") and pacs.seen["1.1"] and not _with_file(routed, "1.1"))
        pacs.script.clear()
        routed.run(routed.is_level)
    ((path, reason),) = list(quarantined_files(routed.spool.root))
    assert routed.sent["1.1"] == path.read_bytes()
    assert {"destination pacs: status A900H", "destination other: status 0122H"} == set(reason.split("; "))


def test_a_rotten_file_is_never_sent(routed: RoutedSite, pacs: Pacs):
    """Neither to a store nor to a PACS; each says why, and the others of its delivery arrive."""
    pacs.close()
    routed.receive_and_end("1.1", "1.2", modality="CT")
    routed.deliver(lambda: len(routed.handed.of("pacs")) == 1 and not any(routed.spool.delivering.iterdir()))
    path = routed.handed.of("pacs")[0].file_of(0)
    path.write_bytes(path.read_bytes()[:-4] + b"rots")
    again = Pacs()
    try:
        routed.set(destinations=_with_port(routed, again.port))
        routed.run(routed.is_level)
        assert {"1.2": 1} == dict(again.taken)
    finally:
        again.close()
    assert routed.digests("1.2") == routed.stored(routed.research)
    assert ["failed", "failed"] == [each.state for each in routed.routed("1.1")]


def test_what_was_handed_over_to_a_destination_that_is_gone_is_kept(routed: RoutedSite, pacs: Pacs):
    """Nothing is dropped because somebody edits a file: it goes when the destination is back."""
    pacs.close()
    routed.receive_and_end("1.1", modality="CT")
    routed.run(lambda: routed.is_level("pacs"))
    before = routed.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    routed.set(destinations={"research": before["destinations"]["research"]}, routes=[])
    routed.receive_and_end("1.2", association="a2", modality="CT")
    routed.run(lambda: routed.is_level("pacs"))
    assert routed.digests("1.2") == routed.stored(routed.objects)
    again = Pacs()
    try:
        routed.set(
            destinations=before["destinations"] | {"pacs": before["destinations"]["pacs"] | {"port": again.port}}
        )
        routed.run(routed.is_level)
        assert {"1.1": 1} == dict(again.taken)
    finally:
        again.close()


def _with_file(routed: RoutedSite, sop: str) -> list[Path]:
    """Return an instance's files that wait for a destination."""
    return list(routed.handed.root.rglob(f"*{routed.digests(sop)[sop]}.dcm"))


def _with_port(routed: RoutedSite, port: int) -> dict[str, dict[str, object]]:
    found = routed.settings.model_dump(mode="json", exclude_none=True)["destinations"]
    found["pacs"]["port"] = port
    return dict(found)


def _data_set(content: bytes) -> bytes:
    return content[content.index(b"\x08\x00\x16\x00UI") :]
