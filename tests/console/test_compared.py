"""What nightly comparisons lack stands first on the console's overview, and by day on a page of its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hospital import Hospital

from dicomflow.bucket.compared import ComparedSource
from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.console.edges import Edge
from dicomflow.console.pages.overview import _of_sources

NOW = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)


def _said(*sources: ComparedSource, nightly: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    heartbeat = Heartbeat("hill", "1", NOW, "HILL", 0, 0, 0, 1 << 40, 0.0, sources=sources, nightly=nightly)
    found = _of_sources(Edge("hill", heartbeat, 1.0, is_silent=False), NOW + timedelta(hours=1))
    return [(level, what) for level, what, _ in found]


def test_missing_images_and_what_could_not_be_compared_are_concerns():
    """Red where something is missing, a warning where nobody knows, and nothing where all is here."""
    assert [] == _said(ComparedSource("PACS1", NOW, 40, 0, is_whole=True))
    assert [("bad", "lacks 2 of 1,040 images that PACS1 has of the last days")] == _said(
        ComparedSource("PACS1", NOW, 1040, 2, is_whole=False)
    )
    assert [("warn", "could not compare all of the last days with PACS2")] == _said(
        ComparedSource("PACS2", NOW, 0, 0, is_whole=False, reason="cannot connect")
    )
    assert [("warn", "has not compared itself with PACS1 since 2026-11-28 02:30")] == _said(
        ComparedSource("PACS1", NOW - timedelta(days=2), 40, 0, is_whole=True)
    )
    assert [("warn", "has not compared itself with VNA yet")] == _said(nightly=("VNA",))


def _cells(source: dict[str, Any]) -> dict[str, str]:
    return {cell["day"]: cell["standing"] for week in source["weeks"] for cell in week if cell}


def test_calendar_shows_days_as_the_last_comparison_left_them(client: httpx.Client, hospital: Hospital):
    """The worst source first; nothing of one whose reports are late, or never came, is complete."""
    sources = client.get("/completeness.json").json()["sources"]
    assert [("PACS1", "missing"), ("ARCHIVE", "not_checked"), ("VNA", "not_checked")] == [
        (each["source"], each["standing"]) for each in sources
    ]
    cells = _cells(sources[0])
    day = [f"{hospital.now - timedelta(days=ago):%Y-%m-%d}" for ago in range(40)]
    assert ("not_checked", "missing", "not_checked", "missing") == (
        cells[day[0]],
        cells[day[3]],
        cells[day[5]],
        cells[day[9]],
    )
    assert {"complete", "nothing_there"} == {cells[each] for each in day[10:]}
    assert {"not_checked"} == set(_cells(sources[1]).values()) == set(_cells(sources[2]).values())
    assert all(len(week) == 7 for each in sources for week in each["weeks"])


def test_day_names_its_studies_with_a_way_on(client: httpx.Client, hospital: Hospital):
    """A study that the catalog has is a link, and the command that fetches the day is told."""
    page = client.get(f"/completeness/harbour/PACS1/{hospital.lacking_day}")
    assert f'href="/studies/{hospital.chest}"' in page.text
    assert f"--study-date {hospital.lacking_day.replace('-', '')}" in page.text
    unread = f"{hospital.now - timedelta(days=5):%Y-%m-%d}"
    found = client.get(f"/completeness/harbour/PACS1/{unread}.json").json()
    assert ("not_checked", "The last comparison could not see all of this day.") == (found["standing"], found["why"])
    assert [("2.25.4711", 0, False)] == [
        (each["study"], each["missing"], each["is_known"]) for each in found["studies"]
    ]


@pytest.mark.parametrize("path", ["harbour/PACS9/2026-11-27", "lake/PACS1/2026-11-27", "harbour/PACS1/yesterday"])
def test_day_of_nothing_that_is_compared_is_not_found(client: httpx.Client, path: str):
    """It is no empty page: a failure is no empty answer."""
    assert 404 == client.get(f"/completeness/{path}").status_code
