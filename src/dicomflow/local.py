"""Everything on one machine: the edge, a folder for the bucket, SQLite, the simulator, and the pipeline's handlers.

The wiring, on one screen: what AWS gives a deployment (notifications, queues, functions, HealthImaging) has its
stand-in here; every stage is the one that runs there.
"""

import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from obstore.store import LocalStore, ObjectStore
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from dicomflow.archive.catalog.building import open_archive
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.archive.web.ohif import create_viewer
from dicomflow.catalog.buckets import remember_bucket
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.edge.http import register_edge
from dicomflow.edge.receive.posting import Posting
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.supervisor import Supervisor
from dicomflow.healthimaging.client import build_client, create_datastore
from dicomflow.healthimaging.simulator.app import create_app
from dicomflow.healthimaging.simulator.settings import SimulatorSettings
from dicomflow.local_address import forget_addresses, note_addresses
from dicomflow.local_archive import LocalArchive, beside
from dicomflow.local_folder import KeptFile, Room, claim_folder, load_edge_settings
from dicomflow.local_notifier import Notifier
from dicomflow.logs import LogSettings
from dicomflow.pipeline.behind import catch_up
from dicomflow.pipeline.events import LOCAL_BUCKET, decode_object_events
from dicomflow.pipeline.handlers import QUEUES, Dependencies, handlers_of
from dicomflow.pipeline.metrics import PrometheusMetrics, register_edges
from dicomflow.pipeline.outbox import Outbox, SendingThread, Webhook
from dicomflow.pipeline.worker import LocalQueues, run
from dicomflow.serving import WebServer, serve

__all__ = ["BuildConsole", "Local", "LocalSettings", "edge_settings"]

BuildConsole = Callable[[Engine, ObjectStore, Callable[[str, str], None], Callable[[], str], int | None], Starlette]
"""Makes the operators' pages from catalog, store, what sends to the pipeline, what reads metrics, and OHIF's port."""

_DATASTORE_NAME: Final = "local"
_ROLE: Final = "arn:aws:iam::123456789012:role/dicomflow-local"
_CONCURRENT_IMPORTS: Final = 100
_STARTS_PER_SECOND: Final = 1.0
# Catalog and simulator write some pages for a batch of messages.
_LEAST_FREE_BYTES: Final = 8 << 20
_CATALOG_GONE: Final = "the catalog's file was removed or replaced: restart, and what the bucket has is taken in again"
_VISIBILITY_SECONDS: Final = 30.0  # how long what was at work when the power went is hidden from the next start


_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What the command `local` is given; ports may be 0 for any free one.

    `issuers` and `character_sets` are the pipeline's settings. Events are posted to the URL `webhook`. `ohif` is the
    folder of a build of OHIF, which is served on `ohif_port`. What is
    None is as the folder's `edge.toml` has it, or as an edge has it by itself.
    """

    data: Path
    http_port: int
    port: int | None = None
    bind: str | None = None
    quiet_seconds: float | None = None
    database_url: str | None = None
    issuers: Mapping[str, str] = field(default_factory=dict)
    character_sets: Mapping[str, str] = field(default_factory=dict)
    webhook: str | None = None
    ohif: Path | None = None
    ohif_port: int = 0


def edge_settings(settings: LocalSettings) -> EdgeSettings:
    """Return the settings of the edge in a local system."""
    return load_edge_settings(settings.data.absolute(), settings.port, settings.bind, settings.quiet_seconds)


class Local:
    """The whole system; `start`, then `stop`. Data under `settings.data` outlives it.

    Raises:
        PermanentError: on creation, when another one works in the folder, it is another user's, or the webhook is none
            of HTTP; from `start` too,
            when a port cannot be had.
    """

    def __init__(self, settings: LocalSettings, build_console: BuildConsole | None = None) -> None:
        data = settings.data.absolute()
        edge = edge_settings(settings)
        self._webhook = Webhook(settings.webhook) if settings.webhook else None
        self._sender: SendingThread | None = None
        self._data = data
        self._lock = claim_folder(data)
        self._stopping = threading.Event()
        self._http_port = settings.http_port
        self._issuers = settings.issuers
        self._character_sets = settings.character_sets
        self._database_url = settings.database_url or f"sqlite:///{quote(str(data / 'catalog.db'))}"
        self._store = LocalStore(data / "objects", mkdir=True)
        self._engine = create_engine_for(self._database_url)
        self._queues = LocalQueues(self._engine, _now, _VISIBILITY_SECONDS, Room(data, _LEAST_FREE_BYTES))
        # What may be asked for on the DIMSE port is the peers' in edge.toml: reading is never promiscuous.
        archive = LocalArchive(self._database_url, data / "objects", edge.dimse.ae_title, edge.archive, edge.nodes)
        self._supervisor = Supervisor(
            edge, LogSettings.of_this_process(), Notifier(self._database_url), beside=beside(archive)
        )
        kept = edge.spool
        # What viewers store goes the way of what modalities send, by a lane of this process.
        lane = Lane(kept.dir, "web", fsync=kept.fsync)
        self._posting = Posting(lane, Watermark(kept), edge.dimse.ae_title, self._stopping)
        self._opened = ExitStack()
        self._archive = self._opened.enter_context(open_archive(self._engine, self._store, edge.dimse.ae_title))
        self._simulator = create_app(
            SimulatorSettings(state_path=data / "healthimaging.db"),
            {LOCAL_BUCKET: self._store},
            self._deliver_event,
            _now,
        )
        self._registry = CollectorRegistry()
        self._viewer: WebServer | None = None
        if settings.ohif is not None:
            viewer = create_viewer(settings.ohif, create_archive(self._archive, WebAccess()))
            self._viewer = WebServer(viewer, "127.0.0.1", settings.ohif_port)
        self._console = build_console and build_console(
            *(self._engine, self._store, self._queues.enqueue, self._read_metrics),
            None if self._viewer is None else self._viewer.port,
        )
        self._is_ready = False
        self._catalog: KeptFile | None = None
        self._server: WebServer | None = None
        self._worker: threading.Thread | None = None

    @property
    def addresses(self) -> dict[str, Any]:
        """Where it can be reached."""
        assert self._server is not None
        return {
            "dimse_port": self._supervisor.dimse_port,
            "http_port": self._server.port,
            "healthimaging": f"{self._server.url}/healthimaging",
            "dicomweb": f"{self._server.url}/dicomweb",
            **({"console": f"{self._server.url}/"} if self._console else {}),
            **({"ohif": f"{self._viewer.url}/"} if self._viewer else {}),
        }

    def start(self) -> None:
        """Migrate, serve HTTP and the simulator, start the pipeline and the edge; ready on return."""
        migrate(self._engine)
        if self._engine.url.get_backend_name() == "sqlite":
            self._catalog = KeptFile.of(Path(self._engine.url.database or ""))
        remember_bucket(self._engine, LOCAL_BUCKET, None)
        metrics = PrometheusMetrics(self._registry)
        register_edges(self._registry, self._store)
        self._server = serve(self._application(), port=self._http_port)
        endpoint = f"{self._server.url}/healthimaging"
        client = build_client(endpoint, "us-east-1", "local", "local")
        dependencies = Dependencies(
            engine=self._engine,
            store=self._store,
            bucket=LOCAL_BUCKET,
            client=client,
            datastore_id=create_datastore(client, _DATASTORE_NAME, _DATASTORE_NAME).datastore_id,
            data_access_role_arn=_ROLE,
            concurrent_imports=_CONCURRENT_IMPORTS,
            start_rate=_STARTS_PER_SECOND,
            import_enabled=True,
            enqueue=self._queues.enqueue,
            issuers=self._issuers,
            character_sets=self._character_sets,
            clock=_now,
            metrics=metrics,
            wake_sender=self._start_sender(metrics),
        )
        self._worker = threading.Thread(target=self._work, args=(dependencies,), name="pipeline")
        self._worker.start()
        if self._viewer is not None:
            self._viewer.start()
        self._supervisor.start()
        register_edge(self._registry, self._supervisor)
        note_addresses(self._data, self.addresses)
        self._is_ready = True

    def stop(self) -> None:
        """Drain: the edge first, then the handlers at work, then HTTP. What is not done goes on at the next start."""
        self._is_ready = False
        forget_addresses(self._data)
        self._stopping.set()
        self._supervisor.stop()
        if self._worker is not None:
            self._worker.join()
        if self._sender is not None:
            self._sender.stop()
        for server in (self._viewer, self._server):
            if server is not None:
                server.close()
        self._opened.close()
        self._engine.dispose()
        self._lock.release()

    def _work(self, dependencies: Dependencies) -> None:
        """Take in what the catalog does not know of the bucket, since it was lost or is an older one; then work."""
        try:
            catch_up(
                dependencies.engine,
                dependencies.store,
                dependencies.bucket,
                on_their_way={
                    each.key for body in self._queues.bodies("plan") for each in decode_object_events("", body)
                },
                issuers=dependencies.issuers,
                character_sets=dependencies.character_sets,
                clock=dependencies.clock,
            )
        except Exception:  # what comes is worked on all the same; `doctor` tells of what did not
            _logger.exception("catalog_not_caught_up")
        run(QUEUES, handlers_of(dependencies), self._queues, self._stopping)

    def _application(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            # A mounted application's own lifespan is not run by the one around it.
            async with AsyncExitStack() as stack:
                for mounted in filter(None, (self._simulator, self._console)):
                    await stack.enter_async_context(mounted.router.lifespan_context(mounted))
                yield

        async def healthz(_request: Request) -> JSONResponse:
            is_ready = self._is_ready and self._supervisor.is_ready
            body = {"ready": is_ready, **(self.addresses if is_ready else {})}
            if is_ready and self._catalog is not None and not self._catalog.is_there():
                is_ready, body = False, {"ready": False, "reason": _CATALOG_GONE}
            return JSONResponse(body, status_code=200 if is_ready else 503)

        def metrics(_request: Request) -> Response:
            return Response(self._read_metrics(), media_type=CONTENT_TYPE_LATEST)

        routes = [
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            Mount("/healthimaging", self._simulator),
            Mount("/dicomweb", create_archive(self._archive, WebAccess(), self._posting)),
        ]
        if self._console is not None:
            routes.append(Mount("/", self._console))
        return Starlette(routes=routes, lifespan=lifespan)

    def _start_sender(self, metrics: PrometheusMetrics) -> Callable[[], None] | None:
        """Start what posts events, and return what wakes it; without a webhook there is nothing to post to."""
        if self._webhook is None:
            return None
        self._sender = SendingThread(Outbox(self._engine, self._webhook, _now, metrics), _now)
        self._sender.start()
        return self._sender.wake

    def _read_metrics(self) -> str:
        return generate_latest(self._registry).decode()

    def _deliver_event(self, event: Any) -> None:
        """The event bus's rule: job events go to `collect`."""
        if event["detail-type"].startswith("Import Job"):
            self._queues.enqueue("collect", json.dumps(event))


def _now() -> datetime:
    return datetime.now(UTC)
