"""The very short form of the simulation: a seed of each half, the same again, a planted fault, the box's own parts."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore

from tests.simulation.plan import draw_plan
from tests.simulation.planted import PLANTED
from tests.simulation.runs import Runner, runner
from tests.simulation.shrink import shorten
from tests.simulation.store import Bucket

pytestmark = pytest.mark.xdist_group("simulation")


@pytest.fixture(scope="module")
def made() -> Iterator[Runner]:
    """Give what runs plans; its templates take a second."""
    with runner() as one:
        yield one


@pytest.mark.parametrize(("half", "deliveries"), [("cloud", 3), ("joined", 2)])
def test_run_of_a_seed_breaks_nothing(made: Runner, half: str, deliveries: int) -> None:
    """A storm over real code leaves every promise kept."""
    assert [] == made.run(draw_plan(3, half, deliveries)).broken


def test_run_again_is_the_same(made: Runner) -> None:
    """A seed is a run: its second time is step by step its first."""
    plan = draw_plan(3, "edge", 4)
    outcome = made.run(plan)
    assert [] == outcome.broken
    assert outcome.trace == made.run(plan).trace


def test_run_with_a_planted_fault_is_told(made: Runner) -> None:
    """A fault that this code once had is found, by the seed that the table in docs/durability.md has for it."""
    with PLANTED["empty_wins"]():
        outcome = made.run(draw_plan(1, "cloud", 4))
    assert {"wrong_row"} == {name for name, _ in outcome.broken}


def test_shorten_leaves_what_breaks() -> None:
    """A failing plan is shortened to the acts without which it does not fail."""
    plan = draw_plan(1, "cloud", 12)
    needed = {plan.acts[2].number, plan.acts[7].number}

    def run(candidate: object) -> SimpleNamespace:
        is_broken = needed <= {act.number for act in candidate.acts}
        return SimpleNamespace(broken=[("lost", "")] if is_broken else [])

    short = shorten(plan, run, most_runs=200)
    assert needed == {act.number for act in short.acts}
    assert not any(short.chances.values())


def _answers(store: object) -> list[object]:
    """Ask a store for what the code asks of one."""
    store.put("a/b.dcm", b"0123456789")
    store.copy("a/b.dcm", "a/c/d.dcm")
    store.put("a.json", b"{}")
    answers: list[object] = [
        bytes(store.get("a/b.dcm").bytes()),
        b"".join(map(bytes, store.get("a/c/d.dcm").stream())),
        bytes(store.get("a/b.dcm", options={"range": (2, 5)}).bytes()),
        bytes(store.get_range("a/b.dcm", start=3, length=2)),
        bytes(store.get_range("a/b.dcm", start=3, end=6)),
        store.head("a/c/d.dcm")["size"],
        sorted(each["path"] for page in store.list("a") for each in page),
        sorted(each["path"] for page in store.list() for each in page),
    ]
    store.delete(["a/b.dcm"])
    for ask in (store.get, store.head):
        try:
            ask("a/b.dcm")
        except (BaseError, FileNotFoundError) as error:
            answers.append(isinstance(error, FileNotFoundError))
    return answers


def test_bucket_answers_as_obstore(tmp_path: Path) -> None:
    """The bucket of the box answers as obstore's stores do: a range, a copy, a list, and what is not there."""
    wanted = _answers(MemoryStore())
    assert wanted == _answers(LocalStore(tmp_path))
    assert wanted == _answers(Bucket(lambda: datetime(2026, 1, 5, tzinfo=UTC)))
