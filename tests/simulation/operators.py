"""What operators and the world around do to the cloud half: each act of a plan by its kind."""

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.seams import DicomflowError, PermanentError, find_study, imports, rebuild_catalog
from tests.simulation.site import BUCKET

if TYPE_CHECKING:
    from tests.simulation.cloud import Cloud

_SPOILT = ("no_manifest", "cut_manifest", "no_lists", "cut_lists", "unknown_members")
_CALLS = ("ThrottlingException", "InternalServerException", "ConflictException", "AccessDeniedException")
_TRIES = 200


class Operators:
    """Acts on one cloud."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud, self._box = cloud, cloud.box
        self._backup: bytes | None = None

    def retry(self, _rng: Random, number: int) -> None:
        """Have failed and partial series imported again."""

        def run() -> None:
            with self._cloud.engine.begin() as connection:
                imports.retry_series(connection, self._box.now)
            self._cloud.queues.enqueue("drive", json.dumps({"reason": "retry"}))

        self._again(f"operator retry {number}", run)

    def delete(self, rng: Random, number: int) -> None:
        """Delete a study as the command does, and again until it is done."""
        books = self._cloud.books
        if not books.studies:
            return
        study, objects, image_sets = rng.choice(books.studies), rng.random() < 0.5, rng.random() < 0.7
        uid = study["uid"]
        books.deleted.add(uid)
        self._box.note(f"operator deletes {uid} objects={objects} image_sets={image_sets}")

        def run() -> None:
            found = find_study(self._cloud.engine, uid)
            self._cloud.deletion().delete(found, objects=objects, image_sets=image_sets)
            self._box.counts["study_deleted"] += 1
            if not objects:  # the documents: they come back when their events are sent again
                keys = [key for key, sent in books.sent.items() if sent.study["uid"] == uid]
                manifests = {key for key, of in books.manifests.values() if set(of) & set(keys)}
                for key in [*keys, *sorted(manifests)]:
                    self._cloud.tell(key)

        self._again(f"operator delete {number}", run)

    def _again(self, key: str, run: Callable[[], None], tries: int = _TRIES) -> None:
        is_done = []

        def once() -> None:
            try:
                run()
            except PermanentError as error:  # nothing to delete: nothing was begun
                self._box.note(f"{key}: {type(error).__name__}")
            except Exception as error:  # noqa: BLE001  # an operator reads it and tries again
                self._box.note(f"{key}: {type(error).__name__}")
                return
            is_done.append(True)

        self._box.spawn(f"{key} {tries}", once)
        self._box.at(120, lambda: None if is_done or not tries else self._again(key, run, tries - 1))

    def rebuild(self, _rng: Random, number: int) -> None:
        """Rebuild the catalog while it is used."""
        run = partial(rebuild_catalog, self._cloud.engine, self._cloud.store, BUCKET, issuers={}, clock=self._box.clock)
        self._guarded(f"operator rebuild {number}", run)

    def _guarded(self, key: str, run: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                run()
            except DicomflowError as error:
                self._box.note(f"{key}: {type(error).__name__}")

        self._box.spawn(key, guarded)

    def outage(self, rng: Random, _number: int) -> None:
        """Let the store, the database or the service be away for minutes or hours."""
        side, minutes = rng.choice(("store", "database", "service", "queue")), rng.choice((2, 20, 120))
        self._box.down_until[side] = self._box.now + timedelta(minutes=minutes)
        self._box.note(f"{side} is away for {minutes} minutes")

    def job_fault(self, rng: Random, _number: int) -> None:
        """Let jobs fail, hang or write odd results, and calls be refused."""
        faults = self._cloud.service.simulator.faults
        kind = rng.choice(("fail", "stick", "spoil", "before", "after"))
        if kind == "fail":
            faults.fail_jobs("simulated")
        elif kind == "stick":
            faults.stick_jobs()
        elif kind == "spoil":
            faults.spoil_outputs(rng.choice(_SPOILT))
        else:
            is_after = kind == "after"
            error = "InternalServerException" if is_after else rng.choice(_CALLS)
            faults.fail_calls("*", error, kind, 1 if is_after else rng.randrange(1, 6))
        self._box.note(f"a fault of jobs: {kind}")

    def unreadable_results(self, _rng: Random, _number: int) -> None:
        """Let nobody read the next job's results."""
        self._cloud.is_next_unreadable = True
        self._box.note("the next job's results will be unreadable")

    def limits(self, rng: Random, _number: int) -> None:
        """Deploy other limits."""
        self._cloud.deploy(concurrent_imports=rng.choice((1, 5, 100)), start_rate=rng.choice((0.2, 1.0, 5.0)))
        self._box.note("other limits are deployed")

    def restore(self, _rng: Random, number: int) -> None:
        """Keep the catalog of now, or put the one kept before in its place and bring it up to date from the bucket."""
        if self._backup is None:
            self._backup = self._cloud.dump()
            self._box.note("the catalog is kept")
            return
        if not self._cloud.load(self._backup):
            return  # somebody is at work in it
        self._box.note("the catalog of before is restored")
        self._cloud.books.kinds.add("restored")
        self._again(
            f"operator restore {number}",
            partial(rebuild_catalog, self._cloud.engine, self._cloud.store, BUCKET, issuers={}, clock=self._box.clock),
        )
