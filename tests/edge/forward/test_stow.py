"""A destination that takes STOW-RS: each instance as it was received, once, whatever the origin answers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from routed_site import RoutedSite
from stow_origin import StowOrigin


@pytest.fixture
def origin() -> Iterator[StowOrigin]:
    """Give an origin."""
    started = StowOrigin()
    yield started
    started.close()


@pytest.fixture
def stowed(routed: RoutedSite, origin: StowOrigin, tmp_path: Path) -> RoutedSite:
    """Give an edge that sends all to it, with an authorization."""
    token = tmp_path / "token"
    token.write_text("Bearer one\n")
    destination = {"kind": "stow", "url": origin.url, "authorization_file": str(token)}
    routed.set(destinations={"web": destination}, routes=[{"to": ["web"]}])
    return routed


def test_instances_arrive_as_they_were_received(stowed: RoutedSite, origin: StowOrigin):
    """Several in one request, under the origin's own path, with the header that the file has."""
    stowed.receive_and_end("1.1", "1.2", pixels=100_000)
    stowed.run(stowed.is_level)
    assert stowed.digests("1.1", "1.2") == origin.digests
    assert {"1.1": 1, "1.2": 1} == dict(origin.taken)
    (request,) = origin.requests
    assert ("/dicom-web/studies", ["1.1", "1.2"]) == (request["path"], request["uids"])
    assert "Bearer one" == request["headers"]["Authorization"]
    assert ["done", "done"] == [stowed.routed(sop)[0].state for sop in ("1.1", "1.2")]


def test_an_origin_that_answers_of_itself_costs_no_instance_a_try(stowed: RoutedSite, origin: StowOrigin):
    """It is asked until it takes them, and none is quarantined."""
    origin.statuses = [503, 401, 404, 500, 429]
    stowed.receive_and_end("1.1")
    stowed.run(stowed.is_level)
    assert {"1.1": 1} == dict(origin.taken)
    assert [] == list(stowed.spool.quarantined.iterdir())


def test_what_is_refused_for_good_is_quarantined_and_the_rest_arrives(stowed: RoutedSite, origin: StowOrigin):
    """A Failure Reason decides as the status of a C-STORE does."""
    origin.refuses = {"1.1": [0xA900], "1.2": [0xA700, 0x0110], "1.3": [0x0111]}
    stowed.receive_and_end("1.1", "1.2", "1.3", "1.4")
    stowed.run(stowed.is_level)
    assert {"1.2": 1, "1.4": 1} == dict(origin.taken)
    ((file, reason),) = list(stowed.spool.scan_quarantined())
    assert "destination web: status A900H" == reason
    assert hashlib.sha256(stowed.sent["1.1"]).hexdigest() == file.sha256


def test_a_request_that_is_refused_whole_is_tried_one_by_one(stowed: RoutedSite, origin: StowOrigin):
    """One object that the origin cannot even read takes no other with it."""
    origin.statuses = [400]
    stowed.receive_and_end("1.1", "1.2")
    stowed.run(stowed.is_level)
    assert {"1.1": 1, "1.2": 1} == dict(origin.taken)
    first, *others = [each["uids"] for each in origin.requests]
    assert (["1.1", "1.2"], [["1.1"], ["1.2"]]) == (first, sorted(others))


def test_success_without_a_body_is_success(stowed: RoutedSite, origin: StowOrigin):
    """As 200 says that all of the instances are stored (PS3.18 10.5.3)."""
    origin.is_terse = True
    stowed.receive_and_end("1.1")
    stowed.run(stowed.is_level)
    assert {"1.1": 1} == dict(origin.taken)
