"""SIGKILL at random moments under load: nothing that was answered Success is ever lost.

`DICOMFLOW_CRASH_ROUNDS` sets how many rounds there are, `DICOMFLOW_CRASH_SEED` repeats a run's moments. A round is
one kill; the edge lives on after the kill of a worker, and is started again at once after any other.
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import pytest

from dicomflow.edge.spool.view import count_files

ROUNDS = int(os.environ.get("DICOMFLOW_CRASH_ROUNDS", "12"))
SEED = int(os.environ.get("DICOMFLOW_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ASSOCIATIONS = 4
LONGEST_SECONDS = 0.4
# A life is two deaths of a worker or of the deliverer, then the supervisor's or that of all.
LIFE = ("child", "child")
LIVES_OF_A_SITE = 4  # on one spool


def check(site: Any, load: Any) -> None:
    """All that was acknowledged is there byte for byte, and nothing is there that was not sent whole."""
    found = site.instances()
    lost = {uid for uid, digest in dict(load.acknowledged).items() if digest not in found}
    assert set() == lost, f"seed {SEED}: lost {sorted(lost)[:9]}"
    unknown = {path for digest, path in found.items() if digest not in load.begun}
    assert set() == unknown, f"seed {SEED}: these were never sent whole"


@pytest.mark.slow
@pytest.mark.timeout(300 + 20 * ROUNDS)
def test_kill_9_at_random_moments_under_load_loses_no_acknowledged_object(
    site_with: Any, load_on: Any, until: Any, request: pytest.FixtureRequest
):
    """Kills of a child, of the supervisor and of all, under 4 associations: nothing answered Success is lost."""
    chance = random.Random(SEED)
    kills: Counter[str] = Counter()
    acknowledged = refused = 0
    started = time.monotonic()
    while kills.total() < ROUNDS:
        site = site_with()
        site.start()
        load = load_on(site, ASSOCIATIONS, chance.randrange(1 << 30))
        for _ in range(LIVES_OF_A_SITE):
            for victim in (*LIFE, chance.choice(("supervisor", "group"))):
                _kill_one(site, load, victim, chance, until)
                kills[victim] += 1
            if victim == "group":
                site.kill_all()
                check(site, load)
            site.start()
        load.stop()
        until(
            lambda site=site: not any(count_files(site.spool.root).values()),
            site.tail,
        )
        until(lambda site=site, load=load: set(dict(load.acknowledged).values()) <= set(site.listed()), site.tail)
        assert len(set(site.listed())) == len(site.listed()), "an instance stands in two manifests"
        site.kill_all()
        check(site, load)
        acknowledged += len(load.acknowledged)
        refused += load.refused
        site.remove()
    line = (
        f"crash suite: {kills.total()} rounds, kills {dict(sorted(kills.items()))}, {acknowledged} instances"
        f" acknowledged, {refused} refused, 0 lost, {time.monotonic() - started:.0f} s, seed {SEED}"
    )
    request.node.user_properties.append(("told", line))  # what a run of many rounds is for


def _kill_one(site: Any, load: Any, victim: str, chance: random.Random, until: Any) -> None:
    """Wait until objects are acknowledged, then a moment more, then kill."""
    before = len(load.acknowledged)
    until(lambda: len(load.acknowledged) > before + ASSOCIATIONS, site.tail)
    time.sleep(chance.uniform(0, LONGEST_SECONDS))  # the moment is what is tested
    if victim == "child":
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(until(site.children, site.tail)), signal.SIGKILL)
    elif victim == "supervisor":
        site.kill_supervisor()
    else:
        site.kill_all()
