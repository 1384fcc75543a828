"""`dicomflow commitments` shows what no requestor has taken, and sends it again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dicomflow.dicom.references import Reference
from dicomflow.edge.commitment.requests import CommitmentRequest, Commitments
from dicomflow.edge.spool.folders import Spool

Run = Callable[..., tuple[int, str, str]]

OPEN = CommitmentRequest("1.2.8", "CT1", "EDGE", (Reference("1.2.840", "1.2.1"),), 1_000_000.0)
GIVEN_UP = replace(OPEN, transaction_uid="1.2.9", attempts=7, undelivered="the AE title has no address")


@pytest.fixture
def kept(data: Path) -> Commitments:
    """Give one request that waits and one that was given up."""
    found = Commitments(Spool(data / "spool").root)
    found.add(OPEN)
    found.add(replace(GIVEN_UP, undelivered=""))
    found.update(GIVEN_UP)
    return found


@pytest.mark.parametrize(("option", "expected"), [((), ["open", "undelivered"]), (("--undelivered",), ["undelivered"])])
def test_list_shows_what_waits_and_what_was_given_up(
    run: Run, kept: Commitments, data: Path, option: tuple[str, ...], expected: list[str]
):
    """For whom, since when, how often it was tried and why it was given up."""
    code, output, _ = run("commitments", "list", "--data", data, "--json", *option)
    rows = json.loads(output)
    assert (0, expected) == (code, [row["state"] for row in rows])
    assert ("CT1", 1, 7, "the AE title has no address", "1.2.9") == tuple(
        rows[-1][name] for name in ("ae_title", "instances", "attempts", "reason", "transaction")
    )
    assert 2 == len(list(kept.open_requests()))


@pytest.mark.parametrize(("what", "code"), [("1.2.9", 0), ("--all", 0), ("1.2.8", 1), ("1.2.77", 1)])
def test_retry_has_a_report_sent_again(run: Run, kept: Commitments, data: Path, what: str, code: int):
    """What was given up is due at once; what waits is left alone."""
    found, output, _ = run("commitments", "retry", what, "--data", data, "--json")
    assert (code, {"retried": 1 - code}) == (found, json.loads(output))
    assert 2 - code == sum(not each.undelivered for each in kept.open_requests())


def test_retry_asks_what(run: Run, kept: Commitments, data: Path):
    """Neither nothing nor both."""
    del kept
    code, _, errors = run("commitments", "retry", "--data", data)
    assert 0 != code
    assert "name Transaction UIDs, or --all" in errors
