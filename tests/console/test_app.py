"""Every page has its twin, says what is so, and does nothing that was not asked from a page of its own."""

import base64
import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import httpx
import pytest
from hospital import REASON, Hospital
from sqlalchemy import event, func, select, update

from dicomflow.catalog.audit import list_audit_events
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.imports import find_series
from dicomflow.catalog.states import SeriesState
from dicomflow.catalog.tables import series, series_import, study

PAGES = (
    "/overview",
    "/studies",
    "/studies/{chest}",
    "/series/{chest_series}",
    "/series/{report_series}",
    "/associations",
    "/imports",
    "/imports?state=failed&state=partial",
    "/imports/1",
    "/studies/{chest}/send",
    "/transfers",
    "/completeness",
    "/completeness/harbour/PACS1/{lacking_day}",
    "/edges",
    "/problems",
    "/audit",
)


def address(hospital: Hospital, path: str) -> str:
    """Fill a hospital's UIDs into a path."""
    return path.format_map(vars(hospital))


def twin(path: str) -> str:
    """Return the address of a page's JSON twin."""
    before, mark, query = path.partition("?")
    return f"{before}.json{mark}{query}"


@pytest.mark.parametrize("path", PAGES)
def test_page_and_its_twin_answer(client: httpx.Client, hospital: Hospital, path: str):
    """Each page is HTML, its twin the same document by address and by Accept."""
    path = address(hospital, path)
    page = client.get(path)
    assert (200, "text/html; charset=utf-8") == (page.status_code, page.headers["content-type"])
    by_address = client.get(twin(path))
    by_accept = client.get(path, headers={"accept": "application/json"})
    assert 200 == by_address.status_code
    assert by_address.json().keys() == by_accept.json().keys()


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
def test_page_holds_nothing_that_its_policy_forbids(client: httpx.Client, hospital: Hospital, path: str):
    """No inline script or style, no outside resource, and the headers that say so; kept by no cache."""
    page = client.get(address(hospital, path))
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "no-store" == page.headers["cache-control"]
    assert "nosniff" == page.headers["x-content-type-options"]
    assert [] == re.findall(
        r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|(?:src|href)=.(?:https?:)?//", page.text
    )


def test_overview_names_what_needs_attention_first(client: httpx.Client):
    """Silent edges and failed imports come before warnings."""
    page = client.get("/overview.json").json()
    titles = [concern["title"] for concern in page["concerns"]]
    assert any(re.fullmatch(r"Edge lake is silent for \d+ minutes", title) for title in titles)
    assert "2 series are not in, or not whole" in titles
    assert "Edge hill holds 2 instances it cannot deliver" in titles
    levels = [concern["level"] for concern in page["concerns"]]
    assert sorted(levels) == levels
    assert {"to_deliver": 56, "to_index": 0} == {name: page["backlog"][name] for name in ("to_deliver", "to_index")}
    assert page["counts"]["instances"] + 1 == page["flow"]["indexed"]["sum"]  # one of them came twice


def test_overview_begins_with_what_no_viewer_sees(
    new_hospital: Callable[..., Hospital], client_of: Callable[..., httpx.Client]
):
    """A series that is imported and hidden comes before all else, and its study says so."""
    hospital = new_hospital()
    with hospital.engine.begin() as connection:
        connection.execute(
            update(series_import)
            .where(series_import.c.series_instance_uid == hospital.chest_series)
            .values(state=SeriesState.HIDDEN)
        )
    client = client_of(hospital)
    first = client.get("/overview.json").json()["concerns"][0]
    assert ("bad", "/imports?state=hidden") == (first["level"], first["href"])
    assert "1 series imported that no viewer shows" == first["title"]
    (listed,) = client.get("/imports.json", params={"state": "hidden"}).json()["imports"]
    assert (hospital.chest_series, False) == (listed["series_instance_uid"], listed["can_retry"])
    (study,) = client.get("/studies.json", params={"status": "hidden"}).json()["studies"]
    assert {"completed": 2, "hidden": 1} == study["imports"]


def test_studies_are_found_by_name_and_shown(client: httpx.Client):
    """The beginnings of words are enough; the row has what a reader decides by."""
    page = client.get("/studies", params={"name": "lindq ada m"})
    assert "Lindqvist, Ada Maria" in page.text
    (found,) = client.get("/studies.json", params={"name": "lindq ada m"}).json()["studies"]
    assert (["CT", "SR"], 3, 10, {"completed": 3}) == (
        found["modalities"],
        found["series_count"],
        found["instance_count"],
        found["imports"],
    )


def test_arrivals_are_the_latest_first_with_patient_and_sender(client: httpx.Client):
    """What came last is what people ask for first."""
    rows = client.get("/arrivals.json").json()["arrivals"]
    times = [each["closed_at"] for each in rows]
    assert sorted(times, reverse=True) == times
    assert all(each["calling_ae_titles"] and each["instance_count"] for each in rows)
    names = [study["patient_name"] for each in rows for study in each["studies"]]
    assert "Lindqvist^Ada Maria" in names
    text = client.get("/arrivals").text
    assert "Lindqvist, Ada Maria" in text
    assert "CT_EAST" in text


def test_studies_pages_joined_hold_every_study_once(client: httpx.Client):
    """Next page after next page, each study comes once."""
    seen: list[str] = []
    path = "/studies"
    while path:
        page = client.get(path, headers={"accept": "application/json"}).json()
        seen += [each["study_instance_uid"] for each in page["studies"]]
        path = page["next"]
    assert 34 == len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/studies?first=yesterday", 400, "is no date"),
        ("/studies?status=lost", 400, "is none of"),
        ("/studies?after=rubbish", 400, "this is no page"),
        ("/imports?state=lost", 400, "there is no state"),
        ("/imports/999999", 404, "there is no import 999999"),
        ("/imports/x", 404, "there is no import"),
        ("/studies/1.2.3", 404, "no such study"),
        ("/series/1.2.3", 404, "no such series"),
        ("/instances/1.2.3", 404, "no such instance"),
        ("/instances/1.2.3/frames/0.png", 404, "no such instance"),
        ("/nowhere", 404, "Not Found"),
    ],
)
def test_wrong_address_is_answered_with_what_is_wrong(client: httpx.Client, path: str, status: int, text: str):
    """A mistake is told in the page and in its twin, and is no error of ours."""
    page = client.get(path)
    assert status == page.status_code
    assert text in unescape(page.text)
    assert status == client.get(path, headers={"accept": "application/json"}).status_code


@pytest.mark.parametrize("path", ["/studies", "/associations", "/imports", "/problems", "/audit"])
@pytest.mark.parametrize(
    "parts",
    [
        [10**30],
        [True],
        ["\ud800"],
        ["\0"],
        ["x", 10**30],
        ["2026-01-01T00:00:00", "x"],
        ["2026-01-01T00:00:00", 1.5],
        ["2026-01-01T00:00:00+00:00", None],
        [],
        {},
        None,
        1,
    ],
)
def test_page_key_that_is_none_of_ours_is_refused(client: httpx.Client, path: str, parts: Any):
    """Whatever an address says is behind it, it is a mistake of who asks, and no error of ours."""
    key = base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()
    assert 400 == client.get(path, params={"after": key}).status_code


@pytest.mark.parametrize("path", ["/studies?name=%00", "/audit?uid=%00", "/studies/%00", "/series/1%002"])
def test_nul_in_an_address_is_refused(client: httpx.Client, path: str):
    """PostgreSQL has no text with a NUL."""
    assert 400 == client.get(path).status_code


def test_values_are_escaped(client: httpx.Client):
    """What is asked for comes back as text."""
    page = client.get("/studies", params={"name": '"><script>alert(1)</script>'})
    assert "<script>alert" not in page.text


def test_study_shows_custody_conflicts_and_imports(client: httpx.Client, hospital: Hospital):
    """A study's page has how it came, what contradicts itself and what became of it."""
    (found,) = client.get("/studies.json", params={"name": "dahl noor"}).json()["studies"]
    study = client.get(f"/studies/{found['study_instance_uid']}.json").json()
    assert ["versions"] == [each["kind"] for each in study["conflicts"]]
    assert ["CR_ER", "CR_ER"] == [each["associations"][0]["calling_ae_title"] for each in study["deliveries"]]
    assert {"failed", "queued"} == {each["state"] for each in study["imports"]}


def test_study_is_opened_in_ohif_where_that_is_served(client_of: Any, client: httpx.Client, hospital: Hospital):
    """On another port of the same host; the console's own policy stays as strict as without."""
    (found,) = client.get("/studies.json", params={"name": "dahl noor"}).json()["studies"]
    uid = found["study_instance_uid"]
    assert "OHIF" not in client.get(f"/studies/{uid}").text
    with client_of(hospital, viewer_port=8046) as served:
        page = served.get(f"/studies/{uid}")
    assert f'href="http://127.0.0.1:8046/viewer?StudyInstanceUIDs={uid}"' in page.text
    assert client.get("/overview").headers["content-security-policy"] == page.headers["content-security-policy"]


def test_study_takes_as_many_statements_with_many_series_as_with_one(client_of: Any, new_hospital: Any):
    """Each series has its thumbnail; a study of a hundred series must not ask the database a hundred times."""
    hospital = new_hospital()
    with begin_read(hospital.engine) as connection:
        rows = connection.execute(
            select(study.c.study_instance_uid, func.count()).join(series).group_by(study.c.study_key)
        ).all()
    by_series = {count: uid for uid, count in rows}
    assert len(by_series) > 1
    client, asked = client_of(hospital), []
    event.listen(hospital.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    statements = set()
    for uid in by_series.values():
        client.get(f"/studies/{uid}.json")  # the first look is recorded
        asked.clear()
        assert 200 == client.get(f"/studies/{uid}.json").status_code
        statements.add(len(asked))
    assert 1 == len(statements)


def test_instance_shows_each_object_and_outcome(client: httpx.Client, hospital: Hospital):
    """An instance that came twice has two objects, and the reason of its failure."""
    series = client.get(f"/series/{hospital.failed_series}.json").json()
    twice = next(each for each in series["instances"] if each["versions"] == 2)
    instance = client.get(f"/instances/{twice['sop_instance_uid']}.json").json()
    assert 2 == len(instance["objects"])
    assert [REASON] == [each["reason"] for each in instance["outcomes"]]
    assert 200 == client.get(f"/instances/{twice['sop_instance_uid']}").status_code


def test_looking_at_a_study_is_recorded_once_an_hour(client_of: Any, new_hospital: Any):
    """The audit trail names who looked at what, not every click."""
    own = new_hospital()
    client = client_of(own)
    for _ in range(3):
        client.get(f"/studies/{own.chest}")
    series = client.get(f"/series/{own.chest_series}.json").json()
    for each in series["instances"]:
        client.get(f"/instances/{each['sop_instance_uid']}/frames/0.png")
    with begin_read(own.engine) as connection:
        events = list_audit_events(connection)
    seen = [(each.action, each.uid) for each in events if each.actor == "console:local"]
    assert [("view_series", own.chest_series), ("view_study", own.chest)] == seen


def test_search_is_recorded_without_what_was_searched_for(client_of: Any, new_hospital: Any):
    """The trail says by which fields, and never a patient's name."""
    own = new_hospital()
    client_of(own).get("/studies", params={"name": "lindqvist", "modality": "ct"})
    with begin_read(own.engine) as connection:
        event = list_audit_events(connection, limit=1)[0]
    assert ("search_studies", {"by": ["modality", "name"], "found": 1}) == (event.action, event.details)


def _state(hospital: Hospital, number: int) -> str:
    with begin_read(hospital.engine) as connection:
        return str(find_series(connection, str(number))[0].state)


def _failed(hospital: Hospital) -> int:
    with begin_read(hospital.engine) as connection:
        rows = find_series(connection, hospital.failed_series)
    return int(next(row.series_import_id for row in rows if row.state == "failed"))


def test_retry_queues_the_series_wakes_the_pipeline_and_is_recorded(client_of: Any, new_hospital: Any, token_of: Any):
    """The button does what the command does."""
    own = new_hospital()
    client, number = client_of(own), _failed(own)
    answer = client.post(f"/imports/{number}/retry", data={"csrf": token_of(client, f"/imports/{number}")})
    assert (303, f"/imports/{number}?retried=1") == (answer.status_code, answer.headers["location"])
    assert ("queued", [True]) == (_state(own, number), client.woken)
    assert "Queued again." in client.get(answer.headers["location"]).text
    with begin_read(own.engine) as connection:
        event = list_audit_events(connection, uid=own.failed_series)[0]
    assert ("console:local", "retry_imports", [number]) == (event.actor, event.action, event.details["imports"])


def test_retry_of_all_takes_failed_and_partial(client_of: Any, new_hospital: Any, token_of: Any):
    """One button for the morning after."""
    own = new_hospital()
    client = client_of(own)
    answer = client.post("/imports/retry", data={"csrf": token_of(client, "/imports")})
    assert "/imports?retried=2" == answer.headers["location"]
    counts = client.get("/imports.json").json()["counts"]
    assert (0, 0) == (counts["failed"], counts["partial"])


def test_retry_by_json_answers_what_was_queued(client_of: Any, new_hospital: Any, token_of: Any):
    """A script sends the token in a header, and what is in already is refused."""
    own = new_hospital()
    client, number = client_of(own), _failed(own)
    headers = {"x-csrf-token": token_of(client, f"/imports/{number}"), "accept": "application/json"}
    assert {"queued": [number]} == client.post(f"/imports/{number}/retry", headers=headers).json()
    again = client.post(f"/imports/{number}/retry", headers=headers)
    assert 409 == again.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-csrf-token": "guessed"},
        {"origin": "http://elsewhere.example", "x-csrf-token": "own"},
        {"sec-fetch-site": "cross-site", "x-csrf-token": "own"},
        {"origin": "null", "x-csrf-token": "own"},
    ],
)
def test_retry_from_another_site_is_refused(client_of: Any, new_hospital: Any, token_of: Any, headers: dict[str, str]):
    """Without the session's token, or from another origin, nothing is done."""
    own = new_hospital()
    client, number = client_of(own), _failed(own)
    token = token_of(client, f"/imports/{number}")
    sent = {name: token if value == "own" else value for name, value in headers.items()}
    assert 403 == client.post(f"/imports/{number}/retry", headers=sent).status_code
    assert ("failed", []) == (_state(own, number), client.woken)


def test_form_that_is_too_large_is_refused(client: httpx.Client):
    """Nobody fills the memory with a form."""
    assert 413 == client.post("/imports/retry", content=b"x" * 20_000).status_code


def test_page_of_a_foreign_host_is_refused(client: httpx.Client):
    """A site that resolves its own name to this machine reads nothing."""
    assert 421 == client.get("/studies", headers={"host": "evil.example"}).status_code
    assert 200 == client.get("/studies", headers={"host": "localhost:8042"}).status_code


def test_edges_page_tells_when_the_store_does_not_answer(client_of: Callable[..., httpx.Client], hospital: Hospital):
    """Without the store the rest still shows."""
    from dataclasses import replace

    from obstore.store import S3Store

    away = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:9",
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    client = client_of(replace(hospital, store=away))
    assert "the store does not answer" in client.get("/edges").text
    first = client.get("/overview.json").json()["concerns"][0]
    assert ("bad", True) == (first["level"], first["title"].startswith("The store does not answer"))


def test_counters_of_an_edge_are_shown_with_their_meaning(client_of: Callable[..., httpx.Client], hospital: Hospital):
    """What was refused is told with its status in words; an edge that does not answer says so."""
    text = (
        'dicomflow_associations_total{ae_title="CT_EAST",result="released"} 12.0\n'
        'dicomflow_associations_total{ae_title="STRANGER",result="rejected"} 3.0\n'
        'dicomflow_instances_total{ae_title="CT_EAST",sop_class="1.2"} 40.0\n'
        'dicomflow_refusals_total{status="A700"} 5.0\n'
        'dicomflow_refusals_total{status="C000"} 0.0\n'
    )

    def away() -> str:
        raise ConnectionRefusedError

    client = client_of(hospital, metrics={"harbour": lambda: text, "lake": away})
    harbour, lake = client.get("/associations.json").json()["counters"]
    assert [["A700", "out of resources", 5]] == harbour["refusals"]
    assert {"CT_EAST": {"released": 12}, "STRANGER": {"rejected": 3}} == harbour["associations"]
    assert "ConnectionRefusedError: its metrics cannot be read" == lake["problem"]
    assert "out of resources" in client.get("/associations").text
