"""One `dicomflow local` with a few studies in it, against which the documents are held."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicomflow import cli, samples

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """The running system, the files that were sent to it, and settings of an edge beside it."""

    daemon: Any
    images: Path
    edge_toml: Path
    archive: Path
    events: list[dict[str, Any]]


@pytest.fixture(scope="session")
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give the URL of a receiver of events, and what it has taken."""
    events: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", events
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, local_daemon_factory: Any, webhook: tuple[str, list[dict[str, Any]]]
) -> Iterator[Site]:
    """Give a system in which two series are imported; it logs JSON, and posts events."""
    folder = tmp_path_factory.mktemp("site")
    images = folder / "images"
    paths = samples.write(samples.ct_study(11, series=2, slices=3), images)
    edge_toml = folder / "edge.toml"
    edge_toml.write_text(
        f'name = "site-1"\nhttp_port = 0\n[dimse]\nport = 0\n[spool]\ndir = "{folder / "spool"}"\n'
        f'slow_below_bytes = 0\nrefuse_below_bytes = 0\n[delivery]\nstore_url = "{(folder / "objects").as_uri()}"\n'
    )
    (folder / "spool").mkdir()
    daemon = local_daemon_factory(folder, global_options=("--json-logs",), options=("--webhook", webhook[0]))
    try:
        daemon.start()
        assert 0 == cli.run(["send", "127.0.0.1", str(daemon.port), str(images)])
        daemon.wait_until_mapped(path.stem for path in paths)
        daemon.wait_until_idle()
        yield Site(daemon, images, edge_toml, folder / "archive.zip", webhook[1])
    finally:
        daemon.close()
