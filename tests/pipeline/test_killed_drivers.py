"""Drivers as real processes, killed with SIGKILL, at the service's real limits, on both databases.

The clock of all of them runs faster than the machine's, the limits with it. `DICOMFLOW_TEST_SERIES=3000` runs the full
length.
"""

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crew import Crew, crew_of
from driver_process import CALLER, POLL_SECONDS, FastClock, Post, run_driver
from sqlalchemy import func, select

from dicomflow.catalog import queue as local_queue
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.tables import series_import
from dicomflow.healthimaging.simulator import SERVICE_RATES, FileFault

SERIES = int(os.environ.get("DICOMFLOW_TEST_SERIES", "60"))
SERIES_PER_STUDY = 5
FULL_LENGTH = 3_000
DRIVERS = 3
SPEED = 20 if SERIES > 1_000 else 60
MOST_SECONDS = 500 if SERIES > 1_000 else 300
START = "startDICOMImportJob"
ASKED = (START, "getDICOMImportJob")
CALLS_BETWEEN_KILLS = 10 if SERIES > 1_000 else 4
SECONDS_BETWEEN_KILLS = 2.0


@dataclass
class Reaper:
    """The simulator behind a front that kills callers, some before their call is heard, some before its answer.

    It counts what the service answers to each start. Thread: any.
    """

    app: Any = None
    kill: Callable[[str], bool] = lambda _name: False
    answers: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    calls: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def before(self, app: Any) -> "Reaper":
        """Stand before an application."""
        self.app = app
        return self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on, unless its caller dies before."""
        operation = scope["path"].split("/")[1] if scope["type"] == "http" else ""
        if operation not in ASKED:
            await self.app(scope, receive, send)
            return
        fate = next(self.calls) % (2 * CALLS_BETWEEN_KILLS)
        if fate == 0 and self._strike(scope, "before a call"):
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})  # to nobody
            return

        async def send_or_strike(message: Any) -> None:
            if message["type"] == "http.response.start":
                if operation == START:
                    self.answers[message["status"]] += 1
                if fate == CALLS_BETWEEN_KILLS:
                    self._strike(scope, "before an answer")
            await send(message)

        await self.app(scope, receive, send_or_strike)

    def _strike(self, scope: Any, when: str) -> bool:
        """Kill the caller."""
        is_killed = self.kill(dict(scope["headers"])[CALLER.encode()].decode())
        self.kills[when] += is_killed
        return is_killed


class Events:
    """The service's events on their way to the collectors: some lost, some twice, some late. Thread: one at a time."""

    def __init__(self, chance: random.Random) -> None:
        self.enqueue: Callable[[str, str, int], None] = lambda _queue, _body, _delay: None
        self._chance = chance

    def deliver(self, event: Any) -> None:
        """Bring an event of a job none, one or two times."""
        if event["detail-type"].startswith("Import Job"):
            for _ in range(self._chance.choice((0, 1, 1, 1, 2))):
                self.enqueue("collect", json.dumps(event), self._chance.randrange(4))


def work_under_fire(deployment: Any, crew: Crew, chance: random.Random) -> None:
    """Let time pass for the service, and kill somebody now and then, until every series is settled."""
    deadline = time.monotonic() + MOST_SECONDS
    next_kill = time.monotonic() + SECONDS_BETWEEN_KILLS
    while count_open_series(deployment):
        assert time.monotonic() < deadline, f"not settled: {Counter(deployment.states().values())}"
        deployment.app.state.runner.run_due()
        if time.monotonic() >= next_kill:
            crew.kill(chance.choice(crew.names()))
            next_kill += 2 * SECONDS_BETWEEN_KILLS * chance.random()
        crew.replace_dead()
        time.sleep(POLL_SECONDS)  # the service's time passes whether or not it is looked at


def count_open_series(deployment: Any) -> int:
    """Count the series that are still to be imported."""
    is_open = series_import.c.state.in_(("queued", "in_progress"))
    with begin_read(deployment.deps.engine) as connection:
        return connection.scalar(select(func.count()).where(is_open)) or 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_series_with_drivers_killed_are_each_imported_once(deploy: Callable[..., Any], tmp_path: Path) -> None:
    """As many jobs as studies, none twice; no call but theirs and those of the dead; each file has its outcome."""
    chance = random.Random(7)
    studies = SERIES // SERIES_PER_STUDY
    concurrent = max(3, SERIES * 100 // FULL_LENGTH)
    clock = FastClock(time.time(), SPEED)
    reaper, events = Reaper(), Events(chance)
    deployment = deploy(
        clock=clock,
        front=reaper.before,
        deliver_event=events.deliver,
        rates=SERVICE_RATES,
        concurrent_jobs=concurrent,
        submit_seconds=5,
        run_seconds=concurrent * 1.5,  # so that the quota holds starts back more than the rate does
    )
    engine = deployment.deps.engine

    def enqueue(queue: str, body: str, delay_seconds: int = 0) -> None:
        with engine.begin() as connection:
            local_queue.send(connection, queue, body, clock(), delay_seconds)

    events.enqueue = enqueue
    deployment = deployment.variant(enqueue=enqueue, concurrent_imports=concurrent)
    uids = deployment.deliver_studies(studies)
    failing = set(chance.sample(uids, len(uids) // 20))
    for uid in failing:
        deployment.faults.fail_files(FileFault(f"/{uid}.dcm", "customer", f"simulated {uid}"))
    post = Post(
        engine.url.render_as_string(hide_password=False),
        str(tmp_path / "objects"),
        deployment.deps.bucket,
        deployment.deps.client.meta.endpoint_url,
        deployment.deps.datastore_id,
        concurrent,
        clock,
        str(tmp_path / "drivers.log"),
    )
    begun = clock()
    with crew_of(DRIVERS, run_driver, post) as crew:
        reaper.kill = crew.kill
        work_under_fire(deployment, crew, chance)
    seconds = (clock() - begun).total_seconds()

    deaths = crew.hired - DRIVERS
    assert deaths >= 3, "hardly anybody died, so nothing is shown"
    jobs = deployment.rows("import_job")
    assert studies == len(jobs) == len({job["client_token"] for job in jobs})
    assert studies == sum(1 for _ in deployment.all_service_jobs())
    assert studies <= reaper.answers[200] <= studies + deaths
    assert seconds >= studies - 2, "the rate was not kept"
    assert reaper.answers[402] == 0, "more jobs were asked for than may run at once"
    deployment.check_outcomes(uids, failing)
    assert "" == Path(post.log).read_text()
