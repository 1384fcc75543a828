"""Runs of plans: one seed from its plan to what is broken, with its trace."""

import gc
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.simulation import checks, edge, edge_checks, rebuilt
from tests.simulation.box import Box
from tests.simulation.cloud import CALM, Cloud, Listener
from tests.simulation.database import make_templates
from tests.simulation.disk import descriptors
from tests.simulation.edge import Edge
from tests.simulation.joined import Joined
from tests.simulation.plan import Plan
from tests.simulation.service import make_client
from tests.simulation.store import Bucket

_MEMORY = Path("/dev/shm")
Broken = list[tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """What became of a plan; `broken` names the invariant of each violation."""

    plan: Plan
    broken: Broken
    trace: str
    marks: list[str]
    last: list[str]
    counts: Counter[str]
    steps: int


class Runner:
    """Runs plans; templates and client are made once a process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_templates(folder)
        self._client = make_client()

    nothing = staticmethod(nullcontext)  # planted

    def run(self, plan: Plan) -> Outcome:
        """Run a plan: its storm, the calm, and the checks."""
        box, open_before = Box(plan.seed, plan.chances), set(descriptors().items())
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            broken = {"cloud": self._run_cloud, "edge": self._run_edge, "joined": self._run_joined}[plan.half](
                plan, box, folder
            )
            broken += [("judge_failed", text) for text in box.judges_errors]
            box.forget()
            gc.collect()
            if left := set(descriptors().items()) - open_before:
                broken.append(("descriptors_left", f"{len(left)} descriptors are open: {sorted(left)[:3]}"))
            return Outcome(plan, broken, box.trace.hexdigest(), box.marks, list(box.last), box.counts, box.steps)
        finally:
            shutil.rmtree(folder)

    def _run_cloud(self, plan: Plan, box: Box, folder: Path) -> Broken:
        cloud = Cloud(plan, box, self._folder, folder, self._client)
        with cloud.seams():
            cloud.schedule()
            box.run_until(cloud.storm_ends)
            broken = _broken(cloud, checks.BEFORE_HEALING)
            cloud.heal()
            box.run_until(cloud.storm_ends + CALM)
            broken += _broken(cloud, (*checks.AFTER, rebuilt.rebuilt_differs))
        cloud.close()
        return broken

    def _run_edge(self, plan: Plan, box: Box, folder: Path) -> Broken:
        world = Edge(plan, box, folder, Bucket(box.clock))
        with Listener(box).listening(), world.seams():
            world.schedule()
            world.live(world.storm_ends)
            world.heal()
            world.live(box.now + edge.CALM)
            return _broken(world, edge_checks.AFTER)

    def _run_joined(self, plan: Plan, box: Box, folder: Path) -> Broken:
        cloud = Cloud(plan, box, self._folder, folder, self._client)
        world = Edge(plan, box, folder, cloud.bucket)
        site = Joined(cloud, world)
        with cloud.seams(), world.seams():
            site.schedule()
            world.live(cloud.storm_ends)
            world.heal()
            cloud.heal()
            world.live(box.now + edge.CALM)
            broken = _broken(world, edge_checks.AFTER)
            box.run_until(box.now + CALM)
            broken += _broken(cloud, (*checks.AFTER, rebuilt.rebuilt_differs))
        cloud.close()
        return broken


def _broken(world: object, invariants: tuple) -> Broken:
    return [(check.__name__, text) for check in invariants for text in check(world)]


@contextmanager
def runner() -> Iterator[Runner]:
    """Give a runner whose files are in memory where that can be."""
    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory(prefix="dicomflow-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        logging.getLogger("alembic").setLevel(logging.ERROR)
        made = Runner(Path(folder))
        root.setLevel(logging.INFO)
        root.addHandler(quiet := logging.NullHandler())  # what is logged is looked at, not printed
        try:
            yield made
        finally:
            root.setLevel(level)
            root.removeHandler(quiet)
