"""What storage commitment says of what routes send on: safe is what every required destination has."""

import time

import pytest
from routed_site import CT, RoutedSite
from transfer_site import Pacs

from dicomflow.dicom.references import Reference
from dicomflow.edge.commitment.requests import CommitmentRequest, make_report
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.edge.transfer import asker as asker_module


def safe(routed: RoutedSite, *sops: str, level: str = "stored") -> dict[str, int | None] | None:
    """Return the failure reason of each instance, None for one that is committed; nothing while the report waits."""
    request = CommitmentRequest("1.9", "CT1", "EDGE", tuple(Reference(CT, sop) for sop in sops), time.time() - 60)
    ledger = Ledger(routed.spool.root / LEDGER_FILE, read_only=True)
    witness = StoreWitness(routed.settings.delivery, routed.spool.root)
    settings = CommitmentSettings.model_validate({"level": level})
    report = make_report(request, ledger, settings, time.time(), witness, time.time())
    ledger.close()
    if report is None:
        return None
    reasons: dict[str, int | None] = {each.sop_instance_uid: None for each in report.committed}
    return reasons | {each.sop_instance_uid: reason for each, reason in report.failed}


def test_safe_is_what_every_required_destination_has(routed: RoutedSite, pacs: Pacs):
    """While one of them is away nothing is committed that it is to get, though all the others have it."""
    routed.set(
        routes=[{"when": {"modality": "CT"}, "to": ["pacs"]}, {"when": {"modality": "MR"}, "to": ["store", "pacs"]}]
    )
    pacs.close()
    routed.receive("1.1", series="1.2.3.1", modality="CT")
    routed.receive("2.1", series="1.2.3.2", modality="MR")
    routed.receive_and_end("3.1", series="1.2.3.3", modality="SR")
    routed.run(lambda: routed.is_level("pacs"))
    assert safe(routed, "1.1") is None
    assert safe(routed, "2.1") is None
    assert {"3.1": None} == safe(routed, "3.1")
    assert {"1.1": None, "2.1": None} == safe(routed, "1.1", "2.1", level="spooled")
    again = Pacs()
    try:
        found = routed.settings.model_dump(mode="json", exclude_none=True)["destinations"]
        found["pacs"]["port"] = again.port
        routed.set(destinations=found)
        routed.run(routed.is_level)
    finally:
        again.close()
    assert {"1.1": None, "2.1": None, "3.1": None} == safe(routed, "1.1", "2.1", "3.1")
    assert {"1.1": 0x0110} == safe(routed, "1.1", level="imported")


def test_what_a_required_destination_refuses_is_not_safe(routed: RoutedSite, pacs: Pacs):
    """Though the default store has it: who is told that it is safe deletes it."""
    pacs.script["1.1"] = [0xA900]
    routed.set(routes=[{"to": ["store", "pacs"]}])
    routed.receive_and_end("1.1", "1.2")
    routed.run(routed.is_level)
    assert routed.digests("1.1", "1.2") == routed.stored(routed.objects)
    assert {"1.1": 0x0110, "1.2": None} == safe(routed, "1.1", "1.2")


def test_what_is_sent_again_is_safe_where_the_rules_of_now_say(routed: RoutedSite, pacs: Pacs):
    """The store has it from before, and is not given it again; the PACS that it is to go to has yet to take it."""
    routed.announce = lambda _stored: None
    routed.set(routes=[{"to": ["store"]}])
    routed.receive_and_end("1.1")
    routed.run(routed.is_level)
    assert {"1.1": None} == safe(routed, "1.1")
    pacs.close()
    routed.set(routes=[{"to": ["store", "pacs"]}])
    routed.receive_and_end("1.1", association="a2")
    routed.run(lambda: routed.is_level("pacs"))
    assert routed.digests("1.1") == routed.stored(routed.objects)
    assert 1 == len(routed.handed.of("pacs"))
    assert safe(routed, "1.1") is None


def test_an_object_that_is_gone_from_the_default_store_is_not_safe(routed: RoutedSite):
    """The default store is asked, as it is without routes, whatever other destinations have."""
    routed.set(routes=[{"to": ["store", "pacs"]}])
    routed.receive_and_end("1.1")
    routed.run(routed.is_level)
    assert {"1.1": None} == safe(routed, "1.1")
    next(routed.objects.rglob("1.1.dcm")).unlink()
    assert {"1.1": 0x0112} == safe(routed, "1.1")


def test_a_destination_that_is_asked_for_commitment_has_what_it_commits_to(
    routed: RoutedSite, monkeypatch: pytest.MonkeyPatch
):
    """What it refuses to commit to has not arrived, and is quarantined; the file stays until then."""
    monkeypatch.setattr(asker_module, "_LOOK_SECONDS", 0.02)
    committing = Pacs(commits=True)
    try:
        committing.reports_at_once = True
        committing.refuses["1.2"] = 0x0110
        found = routed.settings.model_dump(mode="json", exclude_none=True)["destinations"]
        found["pacs"] |= {"port": committing.port, "commitment": True}
        routed.set(destinations=found, routes=[{"to": ["pacs"]}])
        routed.receive_and_end("1.1", "1.2")
        routed.run(routed.is_level)
    finally:
        committing.close()
    assert {"1.1": None, "1.2": 0x0110} == safe(routed, "1.1", "1.2")
    ((_, reason),) = list(routed.spool.scan_quarantined())
    assert "destination pacs: arrived, and the destination does not commit to it: 0110H" == reason
