"""`dicomflow status --config`: an edge is asked how it is, whether it runs or not."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def readyz() -> Iterator[dict[str, Any]]:
    """Answer `/readyz` as an edge does; `status` and `text` are what it says."""
    says: dict[str, Any] = {"status": 200, "text": "ready\n"}

    class Edge(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(says["status"])
            self.end_headers()
            self.wfile.write(says["text"].encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Edge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    says["port"] = server.server_port
    yield says
    server.shutdown()
    thread.join()
    server.server_close()


def _config(folder: Path, port: int) -> Path:
    config = folder / "edge.toml"
    config.write_text(
        f'name = "edge-1"\nhttp_port = {port}\n[spool]\ndir = "{folder}/spool"\n'
        f'[delivery]\nstore_url = "file://{folder}/objects"\n'
    )
    return config


def test_edge_that_does_not_run_is_said_to_be_that(run: Run, tmp_path: Path):
    """Its spool is told of all the same."""
    (tmp_path / "spool" / "received").mkdir(parents=True)
    code, output, _ = run("status", "--config", _config(tmp_path, 1), "--json")
    told = json.loads(output)
    assert (0, "edge-1", False) == (code, told["edge"], told["ready"])
    assert "nothing answers at http://127.0.0.1:1/readyz" in told["says"][0]
    assert 0 == told["spool"]["received"]


def test_edge_that_is_ready_and_one_that_is_not_say_so(run: Run, tmp_path: Path, readyz: dict[str, Any]):
    """The reasons are those of its `/readyz`."""
    config = _config(tmp_path, readyz["port"])
    readyz["text"] = "ready\nthe store fails: what is received stays in the spool\n"
    told = json.loads(run("status", "--config", config, "--json")[1])
    assert told["ready"] is True
    assert "the store fails: what is received stays in the spool" == told["says"][0]
    readyz |= {"status": 503, "text": "not ready: the disk is full\n"}
    told = json.loads(run("status", "--config", config, "--json")[1])
    assert told["ready"] is False
    assert "not ready: the disk is full" == told["says"][0]
    code, output, _ = run("status", "--config", config)
    assert 0 == code
    assert "not ready: the disk is full" in output


def test_edge_and_catalog_at_once_is_a_wrong_call(run: Run, tmp_path: Path):
    """An edge has no catalog."""
    assert 2 == run("status", "--config", _config(tmp_path, 1), "--data", tmp_path)[0]


def test_times_are_utc_with_the_machines_own_beside_them(monkeypatch: pytest.MonkeyPatch):
    """Where the machine's zone is UTC nothing is said twice."""
    import time
    from datetime import UTC, datetime

    from dicomflow.cli.moments import moment

    at = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    for zone, written in (
        ("UTC", "2026-07-01 23:30:00Z"),
        ("Europe/Berlin", "2026-07-01 23:30:00Z (Thu 01:30:00 here)"),
        ("America/Lima", "2026-07-01 23:30:00Z (18:30:00 here)"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert written == moment(at)
    monkeypatch.delenv("TZ")
    time.tzset()
