"""The import queue as people work on it: whose it is, found by what they have, and tried again by its reason."""

import csv
import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hospital import REASON, Hospital


@pytest.mark.parametrize(
    ("text", "patient"),
    [
        ("HV-22101", "Dahl^Noor"),
        ("noor", "Dahl^Noor"),
        ("{failed_series}", "Dahl^Noor"),
        ("{chest}", "Lindqvist^Ada Maria"),
    ],
)
def test_imports_are_found_by_what_people_have(client: httpx.Client, hospital: Hospital, text: str, patient: str):
    """Patient ID, words of a name, calling AE title, and UIDs of series and study."""
    found = client.get("/imports.json", params={"q": text.format_map(vars(hospital))}).json()["imports"]
    assert {patient} == {each["patient_name"] for each in found}
    senders = {title for each in found for title in each["senders"]}
    sent = client.get("/imports.json", params={"q": senders.pop()}).json()["imports"]
    assert patient in {each["patient_name"] for each in sent}


def test_imports_of_a_study_stand_together(client: httpx.Client):
    """Each study is headed once a page."""
    uids = [each["study_instance_uid"] for each in client.get("/imports.json").json()["imports"]]
    changes = sum(before != after for before, after in pairwise(uids))
    assert len(set(uids)) == changes + 1


def test_search_that_finds_nothing_says_so(client: httpx.Client):
    """What nobody is called is no error."""
    assert "No import fits all that was asked for." in client.get("/imports", params={"q": "nobody at all"}).text


def test_imports_are_given_as_csv_without_formulas(client_of: Any, new_hospital: Any):
    """All that a search finds, with who brought it and why it failed, and the export is in the trail."""
    hospital = new_hospital()
    client = client_of(hospital)
    answer = client.get("/imports.csv", params={"state": "partial"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert {("Nakamura^Jonas=Накамура^Йонас", "MR_1")} == {(row["patient_name"], row["senders"]) for row in rows}
    assert REASON in rows[0]["reasons"]
    assert any(each["action"] == "export_imports" for each in client.get("/audit.json").json()["events"])


def test_value_that_a_spreadsheet_would_run_is_text():
    """A patient may be called anything."""
    from dicomflow.console.pages.imports import as_csv

    assert b"'=1+1" in bytes(as_csv("x", ("a",), [{"a": "=1+1"}]).body)


def test_retry_of_a_reason_takes_those_that_failed_for_it(
    client_of: Any, new_hospital: Any, token_of: Callable[..., str]
):
    """The page lists reasons with their series; the others stay as they are."""
    hospital = new_hospital()
    client = client_of(hospital)
    reasons = {each["reason"]: each["series"] for each in client.get("/imports.json").json()["reasons"]}
    assert REASON in reasons
    form = {"csrf": token_of(client, "/imports"), "reason": REASON}
    queued = client.post("/imports/retry", data=form, headers={"accept": "application/json"}).json()["queued"]
    assert reasons[REASON] == len(queued)
    form["reason"] = "no such reason"
    assert [] == client.post("/imports/retry", data=form, headers={"accept": "application/json"}).json()["queued"]


def test_problems_are_found_and_given_as_csv(client: httpx.Client):
    """By a part of the reason or of the key."""
    every = client.get("/problems.json").json()["problems"]
    first = every[0]
    found = client.get("/problems.json", params={"q": first["object_key"][-40:]}).json()["problems"]
    assert [first["object_key"]] == [each["object_key"] for each in found]
    assert [] == client.get("/problems.json", params={"q": "100%"}).json()["problems"]
    rows = list(csv.DictReader(io.StringIO(client.get("/problems.csv").content.decode("utf-8-sig"))))
    assert len(every) == len(rows)
