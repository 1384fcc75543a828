"""`scripts/simulate`: run seeds, tell what broke in words, shorten it, and count what was reached."""

# ruff: noqa: T201  # a command

import argparse
import itertools
import time
from collections import Counter

from tests.simulation.plan import Plan, draw_plan
from tests.simulation.planted import HALF, PLANTED
from tests.simulation.runs import Outcome, Runner, runner
from tests.simulation.shrink import shorten

HALVES = ("cloud", "edge", "joined")
_DELIVERIES_A_DAY = 12
_TWICE_EACH = 50
_LAST_STEPS = 30
EDGE_EVENTS = (
    *("delivery_closed", "delivery_stored", "put_failed", "resent", "instance_quarantined", "rotten_file_is_stored"),
    *("set_aside", "set_aside_no_more", "spool_full", "spool_has_room", "heartbeat_not_put", "feedback_not_read"),
)
SOMETIMES = {
    "cloud": (
        *("death", "death_in_transaction", "store_error", "store_after", "database_error", "service_error"),
        *("service_after", "queue_error", "duplicate", "late", "redelivery", "event_lost", "odd_object"),
        *("act retry", "act delete", "act rebuild", "act outage", "act job_fault", "act limits", "act restore"),
        *("unreadable_results", "study_deleted", "delivery_resent", "delivery_empty", "delivery_shared_series"),
    ),
    "edge": (
        *("edge_store_error", "edge_store_after", "eio", "death before a system call", "call on a full volume"),
        *("act resend", "act move", "act rot", "act store_down", "act yesterday", "act clock", "act commitment"),
        *("act remove", "act rename", "act full", "a stored file rots"),
        *("act power", "names lost with the power", "rot_after", "judged no such instance"),
        *(f"log {event}" for event in EDGE_EVENTS),
    ),
    "joined": ("act deliver", "act resend", "death before a system call", "odd_object", "service_error"),
}
"""What must be reached at least once in a long run of a half, or it tests less than it says."""


def tell(outcome: Outcome, *, is_replay_equal: bool) -> None:
    """Print what is wrong with a run, in words."""
    plan = outcome.plan
    print(f"seed {plan.seed} of {plan.half}: {len(outcome.broken)} violations in {outcome.steps} steps")
    for name, text in outcome.broken[:10]:
        print(f"  {name}: {text}")
    if not is_replay_equal:
        print("  the same seed ran otherwise a second time")
    print(f"  acts: {', '.join(f'{act.kind}@{act.at:.0f}' for act in plan.acts)}")
    print("  last steps:", *outcome.last[-_LAST_STEPS:], sep="\n    ")


def check(made: Runner, plan: Plan, *, is_twice: bool) -> tuple[Outcome, bool]:
    """Run a plan, and perhaps again; tell whether both runs were the same."""
    outcome = made.run(plan)
    return outcome, not is_twice or made.run(plan).trace == outcome.trace


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of each half")
    parser.add_argument("--days", type=float, default=0.34, help="site-days a seed: 12 deliveries each")
    parser.add_argument("--half", choices=HALVES, action="append", help="only this half; may be repeated")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after this time")
    parser.add_argument("--planted", choices=sorted(PLANTED), help="plant an old fault, and stop when it is found")
    parser.add_argument("--shorten", action="store_true", help="shorten the first plan that fails")
    parser.add_argument("--sometimes", action="store_true", help="fail unless all that may happen did")
    parser.add_argument("--counts", action="store_true", help="print how often each thing happened")
    options = parser.parse_args()
    halves = options.half or ([HALF[options.planted]] if options.planted else HALVES)
    deliveries = max(1, round(options.days * _DELIVERIES_A_DAY))
    counts: dict[str, Counter[str]] = {half: Counter() for half in halves}
    began, cpu, done, failed = time.monotonic(), time.process_time(), 0, 0
    with runner() as made, PLANTED[options.planted]() if options.planted else made.nothing():
        for number, half in itertools.product(range(options.seeds), halves):
            if time.monotonic() - began > options.seconds:
                break
            plan = draw_plan(options.seed + number, half, deliveries)
            outcome, is_equal = check(made, plan, is_twice=number % _TWICE_EACH == 0)
            counts[half] += outcome.counts
            done += 1
            if outcome.broken or not is_equal:
                failed += 1
                tell(outcome, is_replay_equal=is_equal)
                if options.shorten and outcome.broken:
                    options.shorten = False
                    print("shortened:")
                    check_short = made.run(shorten(plan, made.run))
                    tell(check_short, is_replay_equal=True)
                if options.planted:
                    print(f"{options.planted}: found by seed {plan.seed}, run {done}")
                    break
    spent = time.process_time() - cpu
    days = done * deliveries / _DELIVERIES_A_DAY
    print(f"{done} seeds, {days:.1f} site-days, {failed} with violations, {spent:.0f} CPU s, seed {options.seed} on")
    for half, counted in counts.items():
        excused = {name: number for name, number in sorted(counted.items()) if name.startswith(("excused", "judged"))}
        print(f"{half}: {excused}")
        if options.counts:
            print(f"{half}: {dict(sorted(counted.items()))}")
    missing = {half: [name for name in SOMETIMES[half] if not counts[half][name]] for half in halves}
    if options.sometimes:
        print("never reached:", missing)
    return 1 if failed or (options.sometimes and any(missing.values())) else 0


if __name__ == "__main__":
    raise SystemExit(main())
