"""HealthImaging in process: botocore's `before-send` hook hands requests to the simulator, on the box's timetable.

All of signing, parsing and retrying stays the client's; there is no socket.
"""

import io
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from tests.simulation.box import Box
from tests.simulation.seams import HealthImaging, build_client, state
from tests.simulation.store import Bucket

_QUIET_SECONDS = 60.0
CURRENT = SimpleNamespace(service=None)
"""The client of a process is built once (0.13 s); this is whom it speaks to."""


class Service:
    """The simulator of one seed."""

    def __init__(
        self, box: Box, bucket: Bucket, files: tuple[Path, Path], settings: dict[str, Any], tell: Callable[[dict], None]
    ) -> None:
        template, path = files
        copyfile(template, path)
        self._box, self._tell = box, tell
        self.simulator = HealthImaging(path, settings, lambda _name: bucket, box.clock, self._event)
        self._routes = [
            (
                each.http["method"],
                re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", each.http["requestUri"]) + "$"),
                each,
            )
            for each in self.simulator.operations
        ]
        self._due: datetime | None = None
        CURRENT.service = self

    @property
    def steps(self) -> int:
        """What has happened: another number at each call."""
        return self._box.steps

    def send(self, request: Any, name: str) -> AWSResponse:
        """Answer a request of the client, or fail it."""
        box = self._box
        box.point(f"service {name}")
        if box.fails("service_error", "service"):
            raise EndpointConnectionError(endpoint_url=request.url)
        answer = self._answer(request)
        self.look()
        box.point(f"service {name} answered {answer.status_code}")
        if box.task is not None and answer.status_code >= 429:
            box.task.is_faulted = True  # throttled, or told to fail
        if box.fails("service_after", "service"):
            raise ReadTimeoutError(endpoint_url=request.url)
        return answer

    def _answer(self, request: Any) -> AWSResponse:
        parts = urlsplit(request.url)
        for method, pattern, operation in self._routes:
            found = pattern.match(parts.path)
            if method != request.method or found is None:
                continue
            query = parse_qsl(parts.query, keep_blank_values=True)
            asked = SimpleNamespace(
                path_params={name: unquote(value) for name, value in found.groupdict().items()},
                headers={key.lower(): value for key, value in request.headers.items()},
                query_params=SimpleNamespace(multi_items=query.copy),
            )
            body = request.body or b""
            try:
                answer = self.simulator.answer(operation, asked, body if isinstance(body, bytes) else body.encode())
            except Exception as error:  # noqa: BLE001  # as its server does
                self._box.note(f"the simulator failed: {error!r:.200}")
                self._box.counts["simulator_failed"] += 1
                return AWSResponse(request.url, 500, {}, _Raw(b"Internal Server Error"))
            headers = {key.decode(): value.decode() for key, value in answer.raw_headers}
            return AWSResponse(request.url, answer.status_code, headers, _Raw(answer.body))
        raise AssertionError(f"no route for {request.method} {parts.path}")

    def look(self) -> None:
        """Have the timetable run when its next item is due."""
        wait = max(self.simulator.seconds_to_next(), 0.2)
        due = self._box.now + timedelta(seconds=wait)
        if wait < _QUIET_SECONDS and (self._due is None or due < self._due):
            self._due = due
            self._box.at(wait, lambda: self._run(due))

    def _run(self, due: datetime) -> None:
        if self._due != due:
            return
        self._due = None
        if self._box.is_storm and self._box.now < self._box.down_until["service"]:
            self._due = self._box.now + timedelta(seconds=60)
            self._box.at(60, lambda due=self._due: self._run(due))
            return
        self.simulator.run_due()
        self.look()

    def _event(self, event: dict[str, Any]) -> None:
        if event["detail-type"].startswith("Import Job") and not self._box.chance("event_lost"):
            self._tell(event)

    def heal(self) -> None:
        """End all faults; jobs that hang go on."""
        self.simulator.faults.clear()
        table = state.job
        with self.simulator.engine.begin() as connection:
            hanging = (table.c.status == "IN_PROGRESS", table.c.due_at.is_(None))
            connection.execute(table.update().where(*hanging).values(due_at=self.simulator.now()))
        self.look()


class _Raw(io.BytesIO):
    def stream(self, *_args: object, **_options: object) -> Any:
        yield self.read()


def make_client() -> Any:
    """Return the process's client of the service, which reaches the service of the seed at work."""
    client = build_client("http://simulated", "us-east-1", "test", "test")

    def send(request: Any, event_name: str = "", **_: object) -> AWSResponse:
        return CURRENT.service.send(request, event_name.rpartition(".")[2])

    client.meta.events.register("before-send", send)
    return client
