"""The edge with what Windows has of Python: no locks, no descriptors passed on, no open file renamed or removed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_daemon import EdgeDaemon
from scu import begin_object, end_object
from waiting import WAIT_SECONDS

VIEW = Path(__file__).parents[1] / "support" / "windows_view"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows is that already")


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeDaemon]:
    """Give an edge with one worker, whose processes see no POSIX."""
    monkeypatch.setenv("PYTHONPATH", str(VIEW))
    daemon = EdgeDaemon(tmp_path, spool={"workers": 1})
    yield daemon
    daemon.close()


def test_edge_without_posix_receives_delivers_and_comes_back(
    edge: EdgeDaemon, scu_with: Any, data_set: Any, until: Any, python: Any
) -> None:
    """What it acknowledges is stored whole; a worker and a deliverer that die are replaced; a stop drains."""
    assert "False\n" == python("from dicomflow.edge.spool import segments; print(segments.is_supported)")
    edge.start()
    contents = {f"1.2.{size}": data_set(f"1.2.{size}", pixels=bytes(size)) for size in (10, 60_000, 3_000_000)}
    scu = scu_with(edge.port)
    scu.associate()
    for uid, content in contents.items():
        assert 0 == scu.store(content, affected_sop_instance_uid=uid.encode()).status, edge.tail()
    before = edge.children()
    os.kill(before[0], signal.SIGKILL)
    os.kill(before[-1], signal.SIGKILL)
    until(lambda: _stored(edge).keys() == contents.keys(), explain=edge.tail)
    assert all(_stored(edge)[uid].endswith(content) for uid, content in contents.items())
    until(lambda: list(edge.objects.glob("manifests/site-1/*.json")), explain=edge.tail)
    until(lambda: not list(edge.spool.delivering.iterdir()), explain=edge.tail)
    until(lambda: edge.get("/readyz")[0] == 200 and not set(before[:1]) & set(edge.children()), explain=edge.tail)
    scu = scu_with(edge.port)
    scu.associate()
    begin_object(scu, half := data_set())
    edge.process.terminate()
    assert 0 == end_object(scu, half)
    assert 0 == edge.process.wait(WAIT_SECONDS), edge.tail()
    assert "Traceback" not in edge.log.read_text()


def _stored(edge: EdgeDaemon) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in edge.objects.glob("site-1/*/*/*/*.dcm")}
