"""Many series at the service's limits, drivers that die at each step, events that are lost or come three times.

Drivers die by an exception here, so that each call and each look at the clock can be the last one; as processes they
are killed in `test_killed_drivers`. The clock is the test's own: an hour of imports takes seconds.
`DICOMFLOW_TEST_SERIES=3000` runs the full length.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from dicomflow.catalog import queue as local_queue
from dicomflow.healthimaging.simulator import SERVICE_RATES, FileFault
from dicomflow.pipeline.drive import drive
from dicomflow.pipeline.handlers import handlers_of

SERIES = int(os.environ.get("DICOMFLOW_TEST_SERIES", "40"))
SERIES_PER_STUDY = 5
FULL_LENGTH = 3_000
START = "start_dicom_import_job"


class Killed(BaseException):
    """A driver's sudden end: no handler catches it, as none catches SIGKILL."""


class Fate:
    """Decides when a process dies, and counts its deaths and its calls of the service. Thread: any."""

    def __init__(self, seed: int, probability: float) -> None:
        self._random = random.Random(seed)
        self._probability = probability
        self.deaths = 0
        self.starts = 0

    def strike(self) -> None:
        """Die, perhaps."""
        if self._random.random() < self._probability:
            self.deaths += 1
            raise Killed


class MortalClient:
    """A client whose process may die before and after each call."""

    def __init__(self, client: Any, fate: Fate) -> None:
        self._client = client
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def strike_and_call(**arguments: Any) -> Any:
            self._fate.strike()
            self._fate.starts += name == START
            answer = call(**arguments)
            self._fate.strike()
            return answer

        return strike_and_call


class Site:
    """A deployment on its catalog's own queues, whose drivers and collectors are mortal."""

    def __init__(self, deployment: Any, fate: Fate, seed: int) -> None:
        self.deployment = deployment
        self.random = random.Random(seed)
        self.told: list[dict[str, Any]] = []
        engine, clock = deployment.deps.engine, deployment.deps.clock

        def enqueue(queue: str, body: str, delay_seconds: int = 0) -> None:
            with engine.begin() as connection:
                local_queue.send(connection, queue, body, clock(), delay_seconds)

        def mortal_clock() -> Any:
            fate.strike()
            return clock()

        safe = replace(deployment.deps, enqueue=enqueue)
        self.enqueue = enqueue
        self.planning = deployment.variant(enqueue=enqueue)
        self.deps = replace(safe, clock=mortal_clock, client=MortalClient(safe.client, fate))
        self.handlers = handlers_of(self.deps)

    def work(self, queue: str) -> None:
        """Receive a batch and handle it; what a dead process had comes back after its time."""
        deployment = self.deployment
        with deployment.deps.engine.begin() as connection:
            messages = local_queue.receive(connection, queue, deployment.now(), visibility_timeout_seconds=30)
        records = [
            {
                "messageId": message.message_id,
                "receiptHandle": message.receipt,
                "body": message.body,
                "attributes": {"ApproximateReceiveCount": str(message.receive_count)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
            }
            for message in messages
        ]
        if not records:
            return
        try:
            failed = {
                item["itemIdentifier"] for item in self.handlers[queue]({"Records": records})["batchItemFailures"]
            }
        except Killed:
            return
        with deployment.deps.engine.begin() as connection:
            for message in messages:
                if message.message_id not in failed:
                    local_queue.delete_message(connection, queue, message.message_id, message.receipt)

    def drive_besides(self, _number: int) -> None:
        """Run one more driver, that nobody has called."""
        try:
            drive(self.deps)
        except Killed:
            return

    def bring_events(self, lost: float, repeated: float) -> None:
        """Take the service's events to their queue: some not at all, some twice, in any order."""
        events = [event for event in self.deployment.events if event["detail-type"].startswith("Import Job")]
        self.deployment.events.clear()
        self.told += events
        kept = [event for event in events if self.random.random() >= lost]
        kept += [event for event in kept if self.random.random() < repeated]
        self.random.shuffle(kept)
        for event in kept:
            self.enqueue("collect", json.dumps(event))

    def run(self, *, lost: float, repeated: float, most_seconds: int) -> int:
        """Let a second pass again and again until every series is settled; return how many it took."""
        for second in range(most_seconds):
            self.work("drive")
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(self.drive_besides, range(self.random.randrange(3))))
            self.deployment.advance(1)
            self.bring_events(lost, repeated)
            self.work("collect")
            if not {"queued", "in_progress"} & set(self.deployment.states().values()):
                return second
        raise AssertionError(f"not settled in {most_seconds} s: {Counter(self.deployment.states().values())}")


def snapshot(deployment: Any) -> list[Any]:
    """Return the end state, but for times and for numbers that depend on the order of ends."""
    tables = ("series_import", "import_job", "import_outcome", "image_set", "series_image_set")
    return [
        {key: value for key, value in row.items() if not key.endswith("_at")}
        for table in tables
        for row in deployment.rows(table)
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_series_at_the_limits_with_dying_drivers_are_each_imported_once(deploy: Callable[..., Any]) -> None:
    """In as many jobs as deliveries, none twice, within rate and concurrency; each failed file has its reason."""
    concurrent = max(3, SERIES * 100 // FULL_LENGTH)
    deployment = deploy(
        rates={"StartDICOMImportJob": SERVICE_RATES["StartDICOMImportJob"]},
        concurrent_jobs=concurrent,
        submit_seconds=5,
        run_seconds=concurrent * 1.5,  # so that the quota holds starts back more than the rate does
    ).variant(concurrent_imports=concurrent)
    fate = Fate(7, 0.01)
    site = Site(deployment, fate, 11)
    uids = site.planning.deliver_studies(SERIES // SERIES_PER_STUDY)
    failing = set(random.Random(5).sample(uids, len(uids) // 20))
    for uid in failing:
        deployment.faults.fail_files(FileFault(f"/{uid}.dcm", "customer", f"simulated {uid}"))

    deliveries = SERIES // SERIES_PER_STUDY
    seconds = site.run(lost=0.2, repeated=0.2, most_seconds=20 * deliveries + 2_000)

    jobs = deployment.rows("import_job")
    assert deliveries == len(jobs) == len({job["client_token"] for job in jobs})
    assert deliveries == sum(1 for _ in deployment.all_service_jobs())
    assert fate.deaths > deliveries // 10, "nobody died, so nothing is shown"
    assert deliveries <= fate.starts <= deliveries + fate.deaths
    assert seconds >= deliveries, "the rate was not kept"

    deployment.check_outcomes(uids, failing)


def test_all_events_lost_then_all_repeated_three_times_end_in_the_same_state(deploy: Callable[..., Any]) -> None:
    """The sweep alone settles everything, and no event that comes after all changes anything."""
    deployment = deploy(concurrent_jobs=100)
    site = Site(deployment, Fate(1, 0), 3)
    uids = site.planning.deliver_studies(4)
    deployment.faults.fail_files(FileFault(f"/{uids[0]}.dcm", "customer"))
    site.run(lost=1, repeated=0, most_seconds=600)
    expected = snapshot(deployment)
    assert Counter(completed=19, partial=1) == Counter(deployment.states().values())

    events = site.told * 3
    site.random.shuffle(events)
    for event in events:
        assert {"batchItemFailures": []} == deployment.handle("collect", json.dumps(event))
    assert len(events) >= 3 * 3 * 4  # submitted, in progress and completed of four jobs
    assert expected == snapshot(deployment)


def test_every_acknowledged_instance_is_accounted_for(deploy: Callable[..., Any]) -> None:
    """Manifest, bucket, index and image sets agree, and what is missing in one is named with its reason."""
    deployment = deploy(concurrent_jobs=100)
    site = Site(deployment, Fate(1, 0), 3)
    uids = site.planning.deliver_studies(2)
    keys = [key for key in deployment.keys("edge") if key.endswith(".dcm")]
    deployment.handle("index", *(deployment.object_event(key) for key in keys))
    deployment.faults.fail_files(FileFault(f"/{uids[0]}.dcm", "customer", "simulated"))
    site.run(lost=0, repeated=0, most_seconds=600)
    assert set(uids) == {row["sop_instance_uid"] for row in deployment.rows("instance")}
    stored = {row["object_key"] for row in deployment.rows("stored_object")}
    told = {row["object_key"]: row for row in deployment.rows("import_outcome")}
    assert stored == set(keys) == set(told)
    image_sets = {row["image_set_id"] for row in deployment.rows("series_image_set")}
    missing = [key for key in keys if told[key]["image_set_id"] not in image_sets]
    assert [uids[0]] == [told[key]["sop_instance_uid"] for key in missing]
    assert [True] == ["simulated" in told[key]["reason"] for key in missing]
