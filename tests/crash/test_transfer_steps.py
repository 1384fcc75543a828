"""Death at each call of a transfer: everything arrives, and nothing twice but the one whose answer was not kept."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clocks import Clock
from obstore.store import LocalStore
from transfer_site import Pacs, Site, uid

from dicomflow.bucket.transfer import InstanceState

INSTANCES = 2
# More than a transfer of so many makes; the test ends at the first that is not reached.
MOST_STEPS = 400
IS_FULL = os.environ.get("DICOMFLOW_TEST_FULL") == "1"


class Victim:
    """A process that forks edges."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "transfer_victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def send(self, folder: Path, port: int, step: int = -1, *, commits: bool) -> int:
        """Fork an edge, and return how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder} {port} {step} {commits:d}\n")
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
    """Give a destination that reports at once on what it is asked to commit to."""
    started = Pacs(commits=True)
    started.reports_at_once = True
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commits", "stride"), [(False, 1 if IS_FULL else 3), (True, 1 if IS_FULL else 8)], ids=["", "with commitment"]
)
def test_kill_9_at_every_step_sends_everything_and_only_the_unanswered_twice(
    victim: Victim, pacs: Pacs, tmp_path: Path, part10: Callable[..., bytes], *, commits: bool, stride: int
):
    """Before whichever call the edge dies: the next one ends it, and at most what was under way came twice."""
    deaths, twice = 0, Counter[int]()
    for step in range(0, MOST_STEPS, stride):
        folder = tmp_path / str(step)
        site = Site(folder, pacs.port, Clock(), part10, LocalStore(folder / "objects", mkdir=True))
        site.offer(count=INSTANCES)
        pacs.taken.clear()
        ended = victim.send(folder, pacs.port, step, commits=commits)
        if ended == 0:
            break  # it was not reached
        assert signal.SIGKILL == ended
        deaths += 1
        answered = sum('"is_stored":true' in line if commits else '"done"' in line for line in _lines(folder))
        assert 0 == victim.send(folder, pacs.port, commits=commits)
        returns = site.returns()
        assert returns.is_final
        assert {"committed" if commits else ""} == {each.reason for each in returns.instances}
        assert [InstanceState.DONE] * INSTANCES == [each.state for each in returns.instances]
        assert {uid(number) for number in range(INSTANCES)} == pacs.taken.keys()
        assert sum(pacs.taken.values()) <= INSTANCES + 1
        # What was written down as answered came once.
        assert all(pacs.taken[uid(number)] == 1 for number in range(answered))
        assert [] == list((folder / "spool" / "transfers").rglob("*.dcm"))
        twice[sum(pacs.taken.values()) - INSTANCES] += 1
    assert deaths > 50 / stride
    # Only between an object's last byte and the line of its answer.
    assert twice[1] <= deaths / 4


def _lines(folder: Path) -> list[str]:
    path = folder / "spool" / "transfers" / "t1" / "answers"
    return path.read_text().splitlines() if path.exists() else []
