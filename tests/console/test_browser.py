"""The pages in a real browser: search, turn pages, look at images with the keyboard, retry, log in; at two widths.

Needs Chromium on the machine. With DICOMFLOW_TEST_SCREENSHOTS=FOLDER the pages are kept there as pictures, from a
larger hospital.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import imagecodecs
import pytest
from axe_playwright_python.sync_playwright import Axe
from hospital import Hospital
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from sqlalchemy import select
from waiting import WAIT_SECONDS

from dicomflow.bucket.heartbeat import Heartbeat, SeenPeer
from dicomflow.bucket.keys import STATUS_PREFIX
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.imports import find_series
from dicomflow.catalog.tables import instance, series
from dicomflow.console.access import Access
from dicomflow.console.page import Context
from dicomflow.passcodes import PasscodeFile, hash_passcode

SCREENSHOTS = os.environ.get("DICOMFLOW_TEST_SCREENSHOTS")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = {
    "overview": "/overview",
    "studies": "/studies",
    "arrivals": "/arrivals",
    "study": "/studies/{chest}",
    "viewer": "/series/{chest_series}",
    "instance": "/instances/{chest_instance}",
    "associations": "/associations",
    "imports": "/imports?state=failed&state=partial&state=in_progress&state=queued",
    "import": "/imports/{failed_import}",
    "completeness": "/completeness",
    "day": "/completeness/harbour/PACS1/{lacking_day}",
    "edges": "/edges",
    "problems": "/problems",
    "audit": "/audit",
}
WIDE, NARROW = (1280, 860), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium, with a profile of its own."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    expect.set_options(timeout=WAIT_SECONDS * 1000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=WAIT_SECONDS * 1000)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages in a fresh context; whatever a page complains of fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and "422" not in message.text:
            complaints.append(message.text)

    def open_(url: str, size: tuple[int, int] = WIDE, scheme: Any = "light") -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, base_url=url, reduced_motion="reduce"
        )
        context.set_default_timeout(WAIT_SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [] == complaints


def addresses(hospital: Hospital) -> dict[str, str]:
    """Return the address of each page."""
    with begin_read(hospital.engine) as connection:
        failed = next(row for row in find_series(connection, hospital.failed_series) if row.state == "failed")
        middle = (
            connection.execute(
                select(instance.c.sop_instance_uid)
                .join_from(instance, series, series.c.series_key == instance.c.series_key)
                .where(series.c.series_instance_uid == hospital.chest_series)
                .order_by(instance.c.instance_number)
            )
            .scalars()
            .all()
        )
    names = vars(hospital) | {"failed_import": failed.series_import_id, "chest_instance": middle[len(middle) // 2]}
    return {name: path.format_map(names) for name, path in PAGES.items()}


def settled(page: Page) -> None:
    """Wait until a page shows all that it fetches."""
    page.wait_for_load_state("load")
    page.evaluate("() => Promise.all([...document.images].map((image) => image.decode().catch(() => null)))")
    if page.locator("canvas#picture").count():
        expect(page.locator("canvas#picture")).to_have_attribute("aria-label", re.compile("^Image "))
    if page.locator("svg.bars").count():
        expect(page.locator("svg.bars rect").first).to_be_attached()


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (NARROW, "light")])
@pytest.mark.timeout(600)
def test_every_page_fits_and_is_accessible(
    hospital: Hospital, client_of: Any, open_page: Callable[..., Page], size: tuple[int, int], scheme: str
):
    """No page is wider than the screen, and axe finds nothing in it that keeps a person out."""
    clock = Clock()
    client = client_of(hospital, clock=clock, prepare=lambda context: _fill(context, hospital, clock))
    page = open_page(client.url, size, scheme)
    for name, path in addresses(hospital).items():
        page.goto(path)
        settled(page)
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wider) <= 0, f"{name} is wider than {size[0]} pixels"
        if size == WIDE:
            _check(page, name, *(["color-contrast"] if scheme == "dark" else []))
        if scheme == "light" and size == WIDE:
            _keep(page, name)
        elif name in {"overview", "viewer", "completeness", "day"}:
            _keep(page, f"{name}-{'dark' if size == WIDE else 'narrow'}")


def _keep(page: Page, name: str) -> None:
    """Keep a picture of the page, where pictures are asked for: without what makes it large."""
    if SCREENSHOTS:
        pixels = imagecodecs.png_decode(page.screenshot())[..., :3]
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        (Path(SCREENSHOTS) / f"{name}.png").write_bytes(imagecodecs.png_encode(pixels, level=9))


class Clock:
    """Tells the time, moved by `offset`."""

    offset = timedelta()

    def __call__(self) -> datetime:
        """Return the moved time."""
        return datetime.now(UTC) + self.offset


def _fill(context: Context, hospital: Hospital, clock: Clock) -> None:
    """Let the console see the last hour: what edges told in it, and what waited."""
    names = ("harbour", "hill")
    last = {
        name: Heartbeat.from_json(bytes(hospital.store.get(f"{STATUS_PREFIX}{name}.json").bytes())) for name in names
    }
    for minute in range(60):
        clock.offset = timedelta(minutes=minute - 60)
        for name, beat in last.items():
            count = sum(peer.instances for peer in beat.peers) - 3 * (60 - minute)
            waiting = max(0, int(220 * math.sin(minute / 9 + len(name))))
            peers = (SeenPeer("ANY", "10.0.0.1", count, clock()),)
            hospital.store.put(
                f"{STATUS_PREFIX}{name}.json", replace(beat, at=clock(), delivering=waiting, peers=peers).to_json()
            )
        context.history.sample()
    clock.offset = timedelta()
    for name, beat in last.items():
        hospital.store.put(f"{STATUS_PREFIX}{name}.json", replace(beat, at=clock()).to_json())


def _check(page: Page, name: str, *rules: str) -> None:
    """Let axe judge a page by these of its rules, by all when none is named."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    found = Axe().run(page, options=options).response["violations"]
    told = [(each["id"], [node["html"][:160] for node in each["nodes"][:3]]) for each in found]
    assert [] == told, f"{name}: {json.dumps(told, indent=1)}"


def test_search_finds_and_pages_turn(hospital: Hospital, client_of: Any, open_page: Callable[..., Page]):
    """What a person types finds the study; without it the next page has others."""
    page = open_page(client_of(hospital).url)
    page.goto("/studies")
    first = page.locator("tbody tr").all_inner_texts()
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("link", name="First page")).to_be_visible()
    assert set(first).isdisjoint(page.locator("tbody tr").all_inner_texts())
    page.goto("/studies")
    page.get_by_label("Patient’s name").fill("lind ada")  # noqa: RUF001  # as it is printed
    page.keyboard.press("Enter")
    rows = page.locator("tbody tr").filter(has_text="HV-20417")
    expect(rows).to_have_count(1)
    rows.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Lindqvist, Ada Maria")
    page.get_by_role("link", name=re.compile("^Chest, lung")).click()
    expect(page.locator("#stage")).to_be_visible()


def test_viewer_scrolls_windows_inverts_and_resets_by_keyboard(
    hospital: Hospital, client_of: Any, open_page: Callable[..., Page]
):
    """Keys alone are enough, and what is on the stage is told to who cannot see it."""
    page = open_page(client_of(hospital).url)
    page.goto(f"/series/{hospital.chest_series}")
    picture, stage, status = page.locator("#picture"), page.locator("#stage"), page.locator("#viewer-status")
    expect(picture).to_have_attribute("aria-label", "Image 1 of 6, C -600 W 1500")
    before = _pixels(page)
    stage.focus()
    page.keyboard.press("ArrowDown")
    expect(picture).to_have_attribute("aria-label", "Image 2 of 6, C -600 W 1500")
    assert before != _pixels(page)
    page.keyboard.press("End")
    expect(status).to_have_text("Image 6 of 6, C -600 W 1500")
    page.keyboard.press("Home")
    page.keyboard.press("d")
    expect(picture).to_have_attribute("aria-label", "Image 1 of 6, C -562.5 W 1500")
    page.keyboard.press("s")
    expect(page.get_by_label("Width", exact=True)).to_have_value("1425")
    page.locator("#preset").select_option(label="soft tissue (40/400)")
    expect(picture).to_have_attribute("aria-label", "Image 1 of 6, C 40 W 400")
    soft = _pixels(page)
    stage.focus()
    page.keyboard.press("i")
    expect(page.get_by_role("button", name="Invert")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("(old) => document.querySelector('#picture').toDataURL() !== old", arg=soft)
    page.keyboard.press("r")
    expect(picture).to_have_attribute("aria-label", "Image 1 of 6, C -600 W 1500")
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(picture).to_have_attribute("data-place", "3")
    page.keyboard.press(" ")


def test_viewer_follows_wheel_drag_and_slider(hospital: Hospital, client_of: Any, open_page: Callable[..., Page]):
    """The mouse does what it does in other viewers."""
    page = open_page(client_of(hospital).url)
    page.goto(f"/series/{hospital.chest_series}")
    picture = page.locator("#picture")
    expect(picture).to_have_attribute("aria-label", "Image 1 of 6, C -600 W 1500")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.wheel(0, 60)
    expect(picture).to_have_attribute("data-place", "2")
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 230)
    page.mouse.up()
    expect(picture).to_have_attribute("aria-label", "Image 3 of 6, C -450 W 1600")
    page.locator("#slider").fill("5")
    expect(picture).to_have_attribute("data-place", "4")


def test_viewer_says_why_an_object_cannot_be_shown(hospital: Hospital, client_of: Any, open_page: Callable[..., Page]):
    """A report has no pixels, and the stage says so."""
    url = client_of(hospital).url
    page = open_page(url)
    page.on("console", lambda _message: None)
    page.goto(f"/series/{hospital.report_series}")
    expect(page.locator("#reason")).to_have_text("cannot be shown: the object has no pixel data")


def test_retry_button_queues_the_import(new_hospital: Any, client_of: Any, open_page: Callable[..., Page]):
    """From the overview's warning to the queue in three steps."""
    own = new_hospital()
    client = client_of(own)
    page = open_page(client.url)
    page.goto("/overview")
    page.get_by_role("link", name="2 series are not in, or not whole").click()
    page.get_by_role("row").filter(has_text="2 of 2 instances failed").get_by_role("button").click()
    expect(page.get_by_role("status").filter(has_text="Queued again.")).to_be_visible()
    assert [True] == client.woken
    page.goto("/imports")
    page.get_by_role("button", name="Try all 1 failed").click()
    expect(page.get_by_text("1 series queued again.")).to_be_visible()


def test_overview_is_live_until_it_is_paused(new_hospital: Any, client_of: Any, open_page: Callable[..., Page]):
    """What arrives shows without a reload; the pause holds the page still."""
    own = new_hospital()
    page = open_page(client_of(own).url)
    page.clock.install()
    page.goto("/overview")
    expect(page.locator("svg.bars rect").first).to_be_attached()
    waiting = page.locator("[data-field='backlog.to_deliver']")
    expect(waiting).to_have_text("56")
    beat = Heartbeat.from_json(bytes(own.store.get(f"{STATUS_PREFIX}lake.json").bytes()))
    own.store.put(f"{STATUS_PREFIX}lake.json", _more(beat, received=1000).to_json())
    page.clock.run_for(6000)
    expect(waiting).to_have_text("1,044")
    page.get_by_role("button", name="Pause").click()
    own.store.put(f"{STATUS_PREFIX}lake.json", _more(beat, received=0).to_json())
    with page.expect_response("**/overview.json"):
        page.get_by_role("button", name="Pause").click()
    expect(waiting).to_have_text("44")


def test_login_page_lets_in_and_out(hospital: Hospital, client_of: Any, open_page: Callable[..., Page], tmp_path: Path):
    """A person logs in, lands where she wanted to, and logs out."""
    users = tmp_path / "users"
    users.write_text(hash_passcode("ines", "four plain words here") + "\n", encoding="utf-8")
    page = open_page(client_of(hospital, Access(users=PasscodeFile(users, "--users-file"))).url)
    page.goto("/edges")
    expect(page).to_have_title("Log in · dicomflow")
    _check(page, "login")
    _keep(page, "login")
    page.get_by_label("Name").fill("ines")
    page.get_by_label("Passcode").fill("four plain words here")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Edges")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in · dicomflow")


def _pixels(page: Page) -> str:
    return str(page.evaluate("document.querySelector('#picture').toDataURL()"))


def _more(beat: Heartbeat, *, received: int) -> Heartbeat:
    return replace(beat, received=received)
