"""Sending a study back from its page, and following it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hospital import Hospital

from dicomflow.bucket.heartbeat import Heartbeat, KnownDestination
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.catalog.audit import list_audit_events
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.transfers import get_transfer


@pytest.fixture
def own(new_hospital: Any) -> Hospital:
    """Give a hospital with an edge that knows a PACS."""
    built: Hospital = new_hospital()
    known = (KnownDestination("pacs", "PACS_AE"),)
    beat = Heartbeat("edge-9", "1", datetime.now(UTC), "AE", 0, 0, 0, 1 << 40, 0.0, destinations=known)
    built.store.put(heartbeat_key("edge-9"), beat.to_json())
    return built


def test_study_is_sent_when_that_is_confirmed(client_of: Any, own: Hospital, token_of: Any):
    """The study's page leads to a form that says how much and where to, and the form to the transfer."""
    client = client_of(own)
    form = f"/studies/{own.chest}/send"
    assert form in client.get(f"/studies/{own.chest}").text
    asked = client.get(form).text
    assert "pacs (PACS_AE) by edge-9" in asked
    assert [] == client.sent
    answer = client.post(
        "/transfers", data={"csrf": token_of(client, form), "uid": own.chest, "destination": "edge-9/pacs"}
    )
    assert 303 == answer.status_code
    name = answer.headers["location"].rpartition("/")[2]
    assert [("transfers", json.dumps({"transfer": name}))] == client.sent
    shown = client.get(f"/transfers/{name}.json").json()
    assert ("queued", "pacs", "edge-9") == tuple(shown["transfer"][each] for each in ("state", "destination", "edge"))
    assert name[:12] in client.get("/transfers").text
    assert f"/transfers/{name}" in client.get(f"/studies/{own.chest}").text
    with begin_read(own.engine) as connection:
        event = list_audit_events(connection, uid=own.chest)[0]
    assert ("console:local", "send_back", name) == (event.actor, event.action, event.details["transfer"])


def test_transfer_is_cancelled_and_tried_again(client_of: Any, own: Hospital, token_of: Any):
    """Its page has the button that its state allows; the other is refused."""
    client = client_of(own)
    token = token_of(client, f"/studies/{own.chest}/send")
    answer = client.post("/transfers", data={"csrf": token, "uid": own.chest, "destination": "edge-9/pacs"})
    page = answer.headers["location"]
    name = page.rpartition("/")[2]
    assert 303 == client.post(f"{page}/cancel", data={"csrf": token}).status_code
    assert 409 == client.post(f"{page}/cancel", data={"csrf": token}).status_code
    assert "Send what did not arrive" in client.get(page).text
    assert 303 == client.post(f"{page}/retry", data={"csrf": token}).status_code
    with begin_read(own.engine) as connection:
        found = get_transfer(connection, name)
    assert found is not None
    assert ("queued", 2) == (found.row.state, found.row.rounds)
    assert 3 == len(client.sent)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-csrf-token": "guessed"}, {"origin": "http://elsewhere.example", "x-csrf-token": "own"}],
)
def test_send_from_another_site_is_refused(client_of: Any, own: Hospital, token_of: Any, headers: dict[str, str]):
    """Without the session's token, or from another origin, nothing is sent."""
    client = client_of(own)
    token = token_of(client, f"/studies/{own.chest}/send")
    sent = {name: token if value == "own" else value for name, value in headers.items()}
    form = {"uid": own.chest, "destination": "edge-9/pacs"}
    assert 403 == client.post("/transfers", data=form, headers=sent).status_code
    assert ([], []) == (client.sent, client.get("/transfers.json").json()["transfers"])


def test_what_is_not_there_is_not_sent(client_of: Any, own: Hospital, token_of: Any):
    """A study that nobody has, a form without a destination, and a transfer that is none."""
    client = client_of(own)
    token = token_of(client, f"/studies/{own.chest}/send")
    assert 404 == client.get("/studies/1.2.3.999/send").status_code
    assert 400 == client.post("/transfers", data={"csrf": token, "uid": own.chest}).status_code
    form = {"csrf": token, "uid": "1.2.3.999", "destination": "edge-9/pacs"}
    assert 409 == client.post("/transfers", data=form).status_code
    assert 404 == client.get("/transfers/none").status_code
    assert 409 == client.post("/transfers/none/retry", data={"csrf": token}).status_code
    assert 400 == client.get("/transfers?state=lost").status_code
    assert [] == client.sent
