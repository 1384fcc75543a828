"""Shorten a plan that fails: acts are left out by halves, then kinds of fault, as long as the same invariant breaks."""

from collections.abc import Callable

from tests.simulation.plan import Plan
from tests.simulation.runs import Outcome

_MOST_RUNS = 60


def shorten(plan: Plan, run: Callable[[Plan], Outcome], most_runs: int = _MOST_RUNS) -> Plan:
    """Return the shortest plan found that breaks what this one breaks."""
    wanted = {name for name, _ in run(plan).broken}
    runs = 0

    def fails(candidate: Plan) -> bool:
        nonlocal runs
        runs += 1
        return runs <= most_runs and bool(wanted & {name for name, _ in run(candidate).broken})

    size = max(1, len(plan.acts) // 2)
    while True:
        numbers, start = [act.number for act in plan.acts], 0
        while start < len(numbers):
            candidate = plan.without(set(numbers[start : start + size]))
            if fails(candidate):
                plan = candidate
            start += size
        if size == 1:
            break
        size //= 2
    for kind in sorted(kind for kind, p in plan.chances.items() if p):
        candidate = plan.calm(kind)
        if fails(candidate):
            plan = candidate
    return plan
