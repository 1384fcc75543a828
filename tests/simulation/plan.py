"""What will happen in a run, drawn by its seed before anything runs: acts with their times, chances and settings.

Swarm: each kind of fault and of act is off, rare, usual or often in a seed, since a run that lacks some features finds
more than one that has all.
"""

import random
from dataclasses import dataclass, replace

STRENGTHS = (0, 0.3, 1, 3)
_CLOUD_CHANCES = {
    "death": 0.002,
    "death_in_transaction": 0.001,
    "store_error": 0.004,
    "store_after": 0.004,
    "database_error": 0.003,
    "service_error": 0.01,
    "service_after": 0.01,
    "queue_error": 0.005,
    "duplicate": 0.05,
    "late": 0.03,
    "redelivery": 0.03,
    "event_lost": 0.1,
    "odd": 0.05,
}
_CLOUD_ACTS = {  # a delivery
    "retry": 0.1,
    "delete": 0.3,
    "rebuild": 0.04,
    "outage": 0.05,
    "job_fault": 0.2,
    "unreadable_results": 0.15,
    "limits": 0.1,
    "restore": 0.03,
}
_EDGE_CHANCES = {"edge_store_error": 0.02, "edge_store_after": 0.02, "rot_after": 0.3, "eio": 0.0005}
_EDGE_ACTS = {
    "resend": 0.5,
    "move": 0.15,
    "rot": 0.3,
    "full": 0.1,
    "store_down": 0.15,
    "death": 0.5,
    "power": 0.2,
    "yesterday": 0.1,
    "clock": 0.05,
    "commitment": 0.3,
    "remove": 0.1,
    "rename": 0.05,
}
_HOURS_A_DELIVERY = 0.4


@dataclass(frozen=True)
class Act:
    """Something that someone does; its own choices are drawn from `number`, whatever else is in the plan."""

    at: float
    kind: str
    number: int

    def rng(self, seed: int) -> random.Random:
        """Return the randomness of this act."""
        return random.Random(f"act {seed} {self.number}")


@dataclass(frozen=True)
class Plan:
    """A seed's run: `half` is cloud, edge or joined; `seconds` is the length of the storm."""

    seed: int
    half: str
    seconds: float
    acts: tuple[Act, ...]
    chances: dict[str, float]
    settings: dict[str, object]

    def without(self, left_out: set[int]) -> "Plan":
        """Return the plan without some acts."""
        return replace(self, acts=tuple(act for act in self.acts if act.number not in left_out))

    def calm(self, kind: str) -> "Plan":
        """Return the plan without one kind of chance."""
        return replace(self, chances={name: p for name, p in self.chances.items() if name != kind})


def draw_plan(seed: int, half: str, deliveries: int) -> Plan:
    """Draw a plan of so many deliveries and of what goes wrong meanwhile."""
    rng = random.Random(f"plan {half} {seed}")
    seconds = deliveries * _HOURS_A_DELIVERY * 3600 if half != "edge" else deliveries * 120.0
    chances = {kind: p * rng.choice(STRENGTHS) for kind, p in (_CLOUD_CHANCES | _EDGE_CHANCES).items()}
    chances["switch"] = rng.choice((0, 0.05, 0.2))
    kinds = ["deliver"] * deliveries
    rates = {"cloud": _CLOUD_ACTS, "edge": _EDGE_ACTS, "joined": _CLOUD_ACTS | _EDGE_ACTS}[half]
    for kind, rate in rates.items():
        expected = deliveries * rate * rng.choice(STRENGTHS)
        kinds += [kind] * (int(expected) + (rng.random() < expected % 1))
    if rng.random() < 0.3:  # neighbours are only judged where nothing else delays them
        kinds = [kind for kind in kinds if kind in {"deliver", "unreadable_results", "resend"}]
        chances |= dict.fromkeys(("late", "database_error", "queue_error", "store_error", "death"), 0)
    acts = tuple(Act(rng.random() * seconds, kind, number) for number, kind in enumerate(kinds))
    settings = {
        "concurrent_imports": rng.choice((1, 5, 100)),
        "is_throttled": rng.random() < 0.5,
        "concurrent_jobs": rng.choice((None, 2, 100)),
        "submit_seconds": rng.choice((1, 20)),
        "run_seconds": rng.choice((5, 60, 300)),
        "segment_bytes": rng.choice((0, 1 << 20)),
        "spare_bytes": rng.choice((0, 1 << 20)),
        "quiet_seconds": rng.choice((2, 10, 40)),
        "concurrency": rng.choice((1, 2, 8)),
        "batch": rng.choice((1, 10, 500)),
        "is_named_by_fsync": rng.random() < 0.5,
        "has_syncfs": rng.random() < 0.5,
    }
    return Plan(seed, half, seconds, tuple(sorted(acts, key=lambda act: act.at)), chances, settings)
