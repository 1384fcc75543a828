"""Death at any call between what was received and its destinations: each gets exactly what its rule says."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted import encoded, reading
from routed_site import RoutedSite
from stow_origin import StowOrigin
from transfer_site import Pacs

IS_FULL = os.environ.get("DICOMFLOW_TEST_FULL") == "1"
STRIDE = 1 if IS_FULL else 29
# More than a run makes; the test ends at the first that is not reached.
MOST_STEPS = 2000


class Victim:
    """A process that forks edges."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "route_victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, folder: Path, peer: int | str, step: int = -1) -> int:
        """Fork an edge, and return how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder} {peer} {step}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Kill it and what it forked."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def victim() -> Iterator[Victim]:
    """Give a process that forks edges."""
    started = Victim()
    yield started
    started.close()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """Give a destination."""
    started = Pacs()
    yield started
    started.close()


@pytest.mark.slow
def test_kill_9_at_every_step_leaves_each_destination_what_its_rule_says(victim: Victim, pacs: Pacs, tmp_path: Path):
    """By digest, and nothing more; a PACS has at most one instance twice, whose answer was not written yet."""
    deaths = twice = 0
    for step in range(0, MOST_STEPS, STRIDE):
        site = RoutedSite(tmp_path / str(step))
        site.receive("1.1", series="1.2.3.1", modality="CT")
        site.receive("2.1", series="1.2.3.2", modality="MR")
        site.receive_and_end("3.1", series="1.2.3.3", modality="SR")
        pacs.taken.clear()
        ended = victim.run(site.folder, pacs.port, step)
        if ended == 0:
            break  # it was not reached
        assert signal.SIGKILL == ended
        deaths += 1
        assert 0 == victim.run(site.folder, pacs.port)
        assert site.digests("2.1", "3.1") == site.stored(site.objects), step
        assert site.digests("1.1") == site.stored(site.research), step
        assert {"1.1", "2.1"} == pacs.taken.keys(), step
        assert sum(pacs.taken.values()) <= 3, step  # two, and one again
        twice += sum(pacs.taken.values()) - 2
        assert [] == list(site.spool.quarantined.iterdir()), step
        told = {(sop, each.destination, each.state) for sop in site.sent for each in site.routed(sop)}
        assert told == {
            ("1.1", "pacs", "done"),
            ("1.1", "research", "done"),
            ("2.1", "pacs", "done"),
            ("2.1", "store", "store"),
            ("3.1", "store", "store"),
        }, step
        assert all(each.stored_at is not None and each.problem is None for each in site.entries().values()), step
    assert deaths > 120 / STRIDE  # how often it looks around, and so how many calls it makes, differs
    assert twice <= deaths / 3


@pytest.mark.slow
def test_kill_9_at_every_step_leaves_each_recipient_the_same_copies(victim: Victim, tmp_path: Path) -> None:
    """While copies are made, put and sent by STOW-RS: whatever was cut short, they are of the same bytes and UIDs."""
    images = {str(each.SOPInstanceUID): encoded(each) for each in reading()[:2]}
    copies: list[tuple[dict[str, str], dict[str, str]]] = []
    with contextlib.closing(StowOrigin()) as origin:
        for step in range(0, MOST_STEPS, STRIDE * 2):
            site = RoutedSite(tmp_path / str(step))
            for sop, content in images.items():
                site.receive_content(sop, content)
            site.spool.associations.note_end("a1", "released")
            origin.taken.clear()
            origin.digests.clear()
            ended = victim.run(site.folder, origin.url, step)
            if ended != 0:
                assert signal.SIGKILL == ended
                assert 0 == victim.run(site.folder, origin.url)
            assert site.digests(*images) == site.stored(site.objects), step
            copies.append((site.stored(site.research), dict(origin.digests)))
            assert copies[-1] == copies[0], step
            (manifest,) = site.manifests(site.research)
            assert {each.sop_instance_uid: each.sha256 for each in manifest.instances()} == copies[0][0], step
            assert max(origin.taken.values()) <= 2, step
            assert [] == list(site.spool.quarantined.iterdir()), step
            assert not list(site.handed.root.rglob("*.copy")), step
            if ended == 0:
                break  # the step was not reached
    assert len(copies) > 120 / STRIDE
    assert all(len(each) == len(images) and not set(each) & set(images) for each in copies[0])
