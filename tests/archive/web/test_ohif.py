"""OHIF from a folder of its build: a configuration of ours, a policy of its own, and the archive on the same origin.

With DICOMFLOW_TEST_OHIF=FOLDER, where npm's package `@ohif/app` is unpacked, Chromium opens studies in it.
"""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import imagecodecs
import pytest
from framed import ROOT, image
from obstore.store import MemoryStore
from PIL import Image
from playwright.sync_api import sync_playwright
from pydicom.encaps import encapsulate
from sqlalchemy import Engine
from stored_archive import StoredArchive, as_stored
from waiting import WAIT_SECONDS
from web_archive import archive_over

from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.archive.web.ohif import create_viewer, find_build
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.errors import PermanentError
from dicomflow.serving import WebServer

OHIF = os.environ.get("DICOMFLOW_TEST_OHIF")
LS, FILM = "1.2.826.0.1.7", "1.2.826.0.1.8"
FLAGS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Give a folder as npm unpacks it, of a build with the fewest files."""
    dist = tmp_path / "package" / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<title>OHIF</title><script>boot()</script>")
    (dist / "app-config.js").write_text("window.config = {dataSources: ['https://elsewhere.example.org']};")
    (dist / "app.bundle.0123.js").write_text("boot()")
    (dist / "codec.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Give an empty catalog."""
    found = create_engine_for(f"sqlite:///{tmp_path / 'catalog.db'}")
    migrate(found)
    yield found
    found.dispose()


@pytest.fixture
def client(build: Path, engine: Engine) -> Iterator[httpx.Client]:
    """Give a client of the viewer over an empty archive."""
    archive = create_archive(archive_over(engine, None, MemoryStore()), WebAccess())
    server = WebServer(create_viewer(build, archive), "127.0.0.1", 0)
    server.start()
    with httpx.Client(base_url=server.url, timeout=WAIT_SECONDS) as found:
        yield found
    server.close()


def test_configuration_is_ours_and_asks_this_origin_alone(client: httpx.Client):
    """That of the build names a demonstration's server, and is never given."""
    text = client.get("/app-config.js").text
    assert "elsewhere" not in text
    config = json.loads(text.removeprefix("window.config = ").rstrip(";\n"))
    (source,) = config["dataSources"]
    assert {"/dicomweb"} == {source["configuration"][name] for name in ("qidoRoot", "wadoRoot", "wadoUriRoot")}
    assert "http" not in text.replace("https://", "http://").replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("path", "status", "kind", "kept"),
    [
        ("/", 200, "text/html", "no-cache"),
        ("/viewer?StudyInstanceUIDs=1.2.3", 200, "text/html", "no-cache"),
        ("/app.bundle.0123.js", 200, "text/javascript", "public, max-age=31536000, immutable"),
        ("/codec.wasm", 200, "application/wasm", "public, max-age=31536000, immutable"),
        ("/gone.bundle.js", 404, "text/plain", None),
        ("/..%2f..%2fsecret.txt", 404, "text/plain", None),
        ("/%2fetc%2fpasswd.txt", 404, "text/plain", None),
        ("/dicomweb/studies", 200, "application/dicom+json", None),
    ],
)
def test_files_of_the_build_and_its_page_for_the_rest(
    client: httpx.Client, path: str, status: int, kind: str, kept: str | None
):
    """Nothing outside the build; every answer has the viewer's policy, which lets nothing in from elsewhere."""
    answer = client.get(path)
    assert (status, kind) == (answer.status_code, answer.headers["content-type"].partition(";")[0])
    assert kept is None or kept == answer.headers["cache-control"]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy


def test_archive_beside_it_guards_itself(client: httpx.Client):
    """A name that is not this machine's is refused, where the viewer's files are nobody's secret."""
    assert 200 == client.get("/", headers={"host": "rebound.example.org"}).status_code
    assert client.get("/dicomweb/studies", headers={"host": "rebound.example.org"}).status_code in {403, 421}


def test_folder_without_a_build_is_told(tmp_path: Path):
    """At the start, and not as a page that is not there."""
    with pytest.raises(PermanentError, match="no build of OHIF"):
        find_build(tmp_path)


if OHIF:

    def test_viewer_shows_what_is_stored(tmp_path: Path, engine: Engine):
        """A JPEG-LS image and a film of two frames: bright where they are, black outside; nothing from elsewhere."""
        import numpy as np

        bright = np.full((24, 32), 3000, np.uint16)
        stored = StoredArchive(tmp_path, engine)
        window = {"WindowCenter": 1500, "WindowWidth": 3000, "Modality": "OT", "SeriesNumber": 1}
        packed = encapsulate([imagecodecs.jpegls_encode(bright)])
        one = image(f"{ROOT}.4.80", packed, is_encapsulated=True, **window)
        film = image(f"{ROOT}.1", bright.tobytes() * 2, NumberOfFrames=2, **window)
        stored.receive(
            as_stored(one, 1, study=LS, series=f"{LS}.1"), as_stored(film, 1, study=FILM, series=f"{FILM}.1")
        )
        archive = archive_over(engine, None, stored.store)
        server = WebServer(create_viewer(Path(OHIF or ""), create_archive(archive, WebAccess())), "127.0.0.1", 0)
        server.start()
        answers: list[tuple[int, str]] = []
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
                page = browser.new_page(viewport={"width": 1366, "height": 768})
                page.on("response", lambda response: answers.append((response.status, response.url)))
                for uid in (LS, FILM):
                    page.goto(f"{server.url}/viewer?StudyInstanceUIDs={uid}", wait_until="domcontentloaded")
                    page.wait_for_selector("canvas", timeout=WAIT_SECONDS * 1000)
                    middle, border = (0, 0, 0), (255, 255, 255)
                    for _ in range(60):
                        page.wait_for_timeout(500)
                        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                        middle, border = shot.getpixel((880, 300)), shot.getpixel((300, 300))
                        if min(middle) > 100:
                            break
                    assert min(middle) > 100, uid
                    assert max(border) < 60, uid
                browser.close()
        finally:
            server.close()
            archive.conversions.close()
        assert not [
            each for each in answers if each[0] >= 400 or not each[1].startswith((server.url, "blob:", "data:"))
        ]
