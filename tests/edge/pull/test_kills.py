"""SIGKILL of the command, of the edge and of the source in the middle of a pull: the report is right each time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_daemon import EdgeDaemon
from pydicom.dataset import Dataset
from sources import Source
from waiting import free_ports, wait_for

# pynetdicom leaves sockets to the collector when a peer breaks off.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

_IMAGES = 24


class Party:
    """An edge of a test's own, a slow source, and `dicomflow pull` as a process."""

    def __init__(self, folder: Path, source: Source) -> None:
        (port,) = free_ports(1)
        self.source = source
        dimse = {"port": port, "bind": "127.0.0.1", "ae_title": "EDGE"}
        self.edge = EdgeDaemon(folder, dimse=dimse, spool={"workers": 1})
        self.know(source)
        self.edge.start()

    def know(self, source: Source) -> None:
        """Have the edge's settings name a source, and the source the edge."""
        self.source = source
        text = self.edge.config.read_text().partition("[sources.")[0]
        port = int(text.partition("port = ")[2].partition("port = ")[2].partition("\n")[0])
        source.destinations["EDGE"] = ("127.0.0.1", port)
        self.edge.config.write_text(
            f'{text}[sources.PACS1]\nhost = "127.0.0.1"\nport = {source.port}\nae_title = "SOURCE"\n'
            'move_destination = "EDGE"\nquiet_seconds = 0.5\nassociations = 1\n'
        )

    def begin(self) -> subprocess.Popen[bytes]:
        """Start a pull."""
        command = [sys.executable, "-m", "dicomflow", "pull", "PACS1", "--config", str(self.edge.config), "--json"]
        return subprocess.Popen(
            [*command, "--patience-seconds", "3"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def report(self, pull: subprocess.Popen[bytes]) -> tuple[int, dict[str, Any]]:
        """Return what a pull says at its end."""
        out, _ = pull.communicate(timeout=120)
        return pull.returncode, json.loads(out)

    def here(self) -> set[str]:
        """Return the images that the store has."""
        return {path.stem for path in self.edge.objects.rglob("*.dcm")}


@pytest.fixture
def party(tmp_path: Path, source_of: Callable[..., Source], ct: Callable[..., list[Dataset]]) -> Iterator[Party]:
    """Give a party whose source takes its time."""
    source = source_of(ct(2, slices=_IMAGES // 2))
    source.late_seconds = 0.05
    made = Party(tmp_path, source)
    yield made
    made.edge.close()


def _all(party: Party) -> set[str]:
    return {image.SOPInstanceUID for image in party.source.images}


def test_killed_pull_is_finished_by_the_edge(party: Party):
    """A reboot takes the command with it: the edge goes on, and asks for nothing that has come."""
    pull = party.begin()
    wait_for(lambda: len(party.source.sent) > 3)
    pull.kill()
    pull.communicate()
    wait_for(lambda: party.here() == _all(party), explain=party.edge.tail)
    code, told = party.report(party.begin())
    assert (0, _IMAGES, _IMAGES, 0) == (code, told["source"], told["here"], told["missing"])
    assert max(party.source.sent.values()) <= 2  # what was under way when its retrieval broke may come twice


def test_killed_edge_is_told_and_a_second_run_ends_with_nothing_missing(party: Party):
    """The report of the first counts what is here, and nothing else; the spool and the job go on."""
    pull = party.begin()
    wait_for(lambda: len(party.source.sent) > 3)
    os.killpg(party.edge.process.pid, signal.SIGKILL)
    party.edge.process.wait()
    code, told = party.report(pull)
    assert 1 == code
    assert not told["is_whole"]
    party.edge.start()
    code, told = party.report(party.begin())
    assert (0, _IMAGES, _IMAGES, 0) == (code, told["source"], told["here"], told["missing"])
    wait_for(lambda: party.here() == _all(party), explain=party.edge.tail)


def test_killed_source_is_told_and_a_second_run_ends_with_nothing_missing(
    party: Party, source_of: Callable[..., Source]
):
    """It goes in the middle of a move: the job is interrupted, says so, and goes on when the source is there again."""
    pull = party.begin()
    wait_for(lambda: len(party.source.sent) > 3)
    party.source.close()
    code, told = party.report(pull)
    assert 1 == code
    assert not told["is_whole"]
    assert told["interrupted"] or told["missing"]
    party.know(source_of(party.source.images))
    code, told = party.report(party.begin())
    assert (0, _IMAGES, _IMAGES, 0) == (code, told["source"], told["here"], told["missing"])
    wait_for(lambda: party.here() == _all(party), explain=party.edge.tail)
