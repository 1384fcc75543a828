"""The cloud half in a box: bucket, events, the real handlers over SQLite and the HealthImaging simulator."""

import json
import logging
import sqlite3
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tests.simulation import seams
from tests.simulation.box import START, Box, Task
from tests.simulation.database import Watched, open_catalog
from tests.simulation.objects import SURNAMES
from tests.simulation.operators import Operators
from tests.simulation.plan import Act, Plan
from tests.simulation.queues import Queues
from tests.simulation.service import Service
from tests.simulation.site import BUCKET, Books, Site
from tests.simulation.store import OBSTORE, Bucket, FaultyStore

CALM = timedelta(hours=8)
"""Within this after the storm everything is level: a given-up job takes six hours."""
ROLE = "arn:aws:iam::123456789012:role/import"


class Listener(logging.Handler):
    """Keeps what would be logged, with tracebacks, to look for patients in it, and what failed without a fault."""

    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box
        self.leaks: list[str] = []
        self.failures: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        extra = {name: value for name, value in record.__dict__.items() if name in {"error", "reason", "key"}}
        text = f"{record.getMessage()} {extra}"
        self._box.counts[f"log {str(record.msg).partition(' ')[0]}"] += 1
        if record.exc_info and record.exc_info[1] is not None:
            text += "".join(traceback.format_exception(record.exc_info[1]))
            task = self._box.task
            if task is not None and not self._box.is_excused("failure in a log", task.is_faulted):
                self.failures[f"{task.key.split()[0]} {record.msg} {record.exc_info[1]!r:.160}"] += 1
        self.look(text)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear of all that is logged."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)

    def look(self, text: str) -> None:
        """Look for a patient in a text."""
        if any(name in text for name in SURNAMES):
            self.leaks.append(text[:200] + " … " + text[-300:])


class Cloud:
    """One seed's deployment."""

    def __init__(self, plan: Plan, box: Box, templates: Path, folder: Path, client: Any) -> None:
        self.plan, self.box, self.books = plan, box, Books()
        self.templates, self.folder = templates, folder
        self.listener, self.errors = Listener(box), []
        self.bucket = Bucket(box.clock)
        self.bucket.on_put = self._put
        self.is_next_unreadable = False
        self.store = FaultyStore(box, self.bucket)
        self.engine = open_catalog(templates, folder / "catalog.db")
        Watched(box, self.engine)
        settings = {name: plan.settings[name] for name in ("concurrent_jobs", "submit_seconds", "run_seconds")}
        settings["rates"] = seams.SERVICE_RATES if plan.settings["is_throttled"] else {}
        files = (templates / "service.db", folder / "service.db")
        self.queues = Queues(box, {})
        self.service = Service(box, self.bucket, files, settings, self._job_event)
        self._dependencies = seams.Dependencies(
            engine=self.engine,
            store=self.store,
            bucket=BUCKET,
            client=client,
            datastore_id=client.create_datastore(datastoreName="test", clientToken="datastore")["datastoreId"],
            data_access_role_arn=ROLE,
            concurrent_imports=plan.settings["concurrent_imports"],
            start_rate=1.0,
            import_enabled=True,
            enqueue=self.queues.enqueue,
            clock=box.clock,
            stat_ae_titles=frozenset({"EMERGENCY"}),
        )
        self.service.simulator.run_due()
        self.deploy()
        self.operators = Operators(self)
        self.site = Site(box, self.bucket, self.books)
        box.on_error = self._on_error

    def deploy(self, **changed: object) -> None:
        """Put handlers of other settings in place."""
        self._dependencies = replace(self._dependencies, **changed)
        self.queues.handlers = seams.handlers_of(self._dependencies)

    def _put(self, key: str) -> None:
        if self.is_next_unreadable and key.startswith("imports/"):
            self.bucket.unreadable.add("/".join(key.split("/")[:2]) + "/")
            self.is_next_unreadable = False
        self.tell(key)

    def tell(self, key: str) -> None:
        """Send the event of an object, as the deployment's rules do."""
        if seams.is_manifest(key) or (seams.is_received(key) and key.endswith(".dcm")):
            queue = "plan" if seams.is_manifest(key) else "index"
            self.queues.put(queue, seams.encode_object_event(BUCKET, key, 1))

    def _job_event(self, event: dict[str, Any]) -> None:
        self.queues.put("collect", json.dumps(event))

    def _on_error(self, task: Task, error: BaseException) -> None:
        if not self.box.is_excused("end of a handler", task.is_faulted):
            self.listener.look("".join(traceback.format_exception(error)))  # the runtime logs what leaves a handler
            self.errors.append(f"{task.key.split()[0]} {type(error).__name__}: {error!s:.300}")

    def dump(self) -> bytes:
        """Return the catalog as a backup has it."""
        with sqlite3.connect(self.folder / "catalog.db") as source, sqlite3.connect(":memory:") as copy:
            source.backup(copy)
            return copy.serialize()

    def load(self, content: bytes) -> bool:
        """Put a backup in the catalog's place, unless somebody is at work in it."""
        with sqlite3.connect(":memory:") as copy, sqlite3.connect(self.folder / "catalog.db", timeout=0) as target:
            copy.deserialize(content)
            try:
                copy.backup(target)
            except sqlite3.OperationalError:
                return False
        return True

    def act(self, act: Act) -> None:
        """Do what the plan has now."""
        self.books.kinds.add(act.kind)
        self.box.counts[f"act {act.kind}"] += 1
        do = self.site.deliver if act.kind == "deliver" else getattr(self.operators, act.kind)
        do(act.rng(self.plan.seed), act.number)

    def schedule(self) -> None:
        """Put the plan's acts on the timetable."""
        for act in self.plan.acts:
            self.box.at(act.at, partial(self.act, act))

    def heal(self) -> None:
        """End the storm."""
        self.bucket.unreadable.clear()
        self.is_next_unreadable = False
        self.box.is_storm = False
        self.box.note("the storm is over")
        self.service.heal()

    @property
    def storm_ends(self) -> Any:
        """When the faults end."""
        return START + timedelta(seconds=self.plan.seconds)

    @contextmanager
    def seams(self) -> Any:
        """Stand in the places of the machine's clock, threads, store functions and ids."""
        ids = self.box
        new_id = lambda: uuid.UUID(int=int(ids.draw("id") * (1 << 56)), version=4)  # noqa: E731
        with self.listener.listening(), seams.cloud_seams(OBSTORE, new_id):
            yield

    def deletion(self) -> Any:
        """Return what deletes studies, as an operator's command has it."""
        return seams.Deletion(
            self.engine,
            lambda: (BUCKET, self.store),
            lambda: self._dependencies.client,
            "operator",
            {},
            {},
            clock=self.box.clock,
            wait=self.box.pause,
        )

    def close(self) -> None:
        """Let go of files."""
        self.engine.dispose()
        self.service.simulator.engine.dispose()
