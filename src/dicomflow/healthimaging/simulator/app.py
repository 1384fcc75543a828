"""The simulator as a Starlette application: the service's routes, and a control API under `/_simulator`."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from botocore.model import OperationModel
from obstore.store import ObjectStore
from sqlalchemy import Connection, select
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dicomflow.healthimaging.simulator import datastores, edits, frames, imagesets, jobs, search, tags
from dicomflow.healthimaging.simulator.dicomweb import dicomweb_routes
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.faults import Faults, FileFault
from dicomflow.healthimaging.simulator.model import load_model, parse_request, serialize
from dicomflow.healthimaging.simulator.runner import DeliverEvent, Runner
from dicomflow.healthimaging.simulator.settings import SimulatorSettings
from dicomflow.healthimaging.simulator.state import image_set, job, open_state
from dicomflow.healthimaging.simulator.throttle import Throttle
from dicomflow.healthimaging.simulator.world import Blob, World

__all__ = ["Stores", "create_app"]

Stores = Mapping[str, ObjectStore] | Callable[[str], ObjectStore | None]
Perform = Callable[[World, Connection, Mapping[str, Any]], dict[str, Any] | Blob]

OPERATIONS: Final[Mapping[str, Perform]] = {
    "CreateDatastore": datastores.create_datastore,
    "GetDatastore": datastores.get_datastore,
    "ListDatastores": datastores.list_datastores,
    "DeleteDatastore": datastores.delete_datastore,
    "StartDICOMImportJob": jobs.start_job,
    "GetDICOMImportJob": jobs.get_job,
    "ListDICOMImportJobs": jobs.list_jobs,
    "SearchImageSets": search.search_image_sets,
    "GetImageSet": imagesets.get_image_set,
    "GetImageSetMetadata": imagesets.get_image_set_metadata,
    "GetImageFrame": frames.get_image_frame,
    "ListImageSetVersions": imagesets.list_image_set_versions,
    "UpdateImageSetMetadata": edits.update_image_set_metadata,
    "CopyImageSet": edits.copy_image_set,
    "DeleteImageSet": imagesets.delete_image_set,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListTagsForResource": tags.list_tags_for_resource,
}


def create_app(
    settings: SimulatorSettings,
    stores: Stores,
    deliver_event: DeliverEvent = lambda _event: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Starlette:
    """Build a simulator; its state is in `settings.state_path` and outlives it.

    Args:
        settings: limits, delays and switches.
        stores: the object store of a bucket name; None or a missing key is a bucket without access.
        deliver_event: called with each EventBridge event, after the change it tells of is durable.
        clock: the time; the control API can put the simulator ahead of it.
    """
    resolve = stores if callable(stores) else stores.get
    world = World(settings, open_state(settings.state_path), resolve, clock, Faults())
    runner = Runner(world, deliver_event)
    service = _Service(world, runner)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        runner.start()
        yield
        await run_in_threadpool(runner.stop)
        world.engine.dispose()

    app = Starlette(routes=[*service.routes(), *_control_routes(world, runner)], lifespan=lifespan)
    app.state.world = world
    app.state.runner = runner
    return app


class _Service:
    """The service's routes, made from its model."""

    def __init__(self, world: World, runner: Runner) -> None:
        self._world = world
        self._runner = runner
        self._throttle = Throttle(world.settings.rates, world.now)

    def routes(self) -> list[Route]:
        model = load_model()
        native = [self._route(model.operation_model(name)) for name in OPERATIONS]
        return [*native, *dicomweb_routes(self._world, self._begin, _told)]

    def _route(self, operation: OperationModel) -> Route:
        # An ARN in a path is percent-encoded by clients, and decoded before it is routed.
        path = operation.http["requestUri"].replace("{resourceArn}", "{resourceArn:path}")

        async def endpoint(request: Request) -> Response:
            body = await request.body()
            return await run_in_threadpool(self._answer, operation, request, body)

        return Route(path, endpoint, methods=[operation.http["method"]], name=operation.name)

    def _answer(self, operation: OperationModel, request: Request, body: bytes) -> Response:
        try:
            return self._perform(operation, request, body)
        except ServiceError as error:
            return _told(error)

    def _perform(self, operation: OperationModel, request: Request, body: bytes) -> Response:
        """Throttle, authorise, validate, then perform in one transaction."""
        name = operation.name
        self._begin(name)
        if self._world.settings.require_auth and "authorization" not in request.headers:
            raise ServiceError("AccessDeniedException", "Missing Authentication Token")
        params = parse_request(operation, request.path_params, request.query_params.multi_items(), body)
        with self._world.lock, self._world.engine.begin() as connection:
            result = OPERATIONS[name](self._world, connection, params)
        self._runner.wake()
        self._raise_fault(name, "after")
        if self._world.faults.take_call(name, "cut") is not None:
            return _CutResponse()
        if isinstance(result, Blob):
            headers = {"Content-Encoding": result.content_encoding} if result.content_encoding else None
            return Response(result.body, headers=headers, media_type=result.content_type)
        assert operation.output_shape is not None  # every operation of the service has one
        return JSONResponse(serialize(operation.output_shape, result))

    def _begin(self, name: str) -> None:
        """Throttle, and fail what is to fail before it is done."""
        if not self._throttle.take(name):
            raise ServiceError("ThrottlingException", "Rate exceeded")
        self._raise_fault(name, "before")

    def _raise_fault(self, name: str, when: str) -> None:
        error = self._world.faults.take_call(name, when)
        if error is not None:
            raise ServiceError(error, "simulated")


def _told(error: ServiceError) -> Response:
    return JSONResponse({"message": error.message}, status_code=error.status, headers={"x-amzn-ErrorType": error.name})


class _CutResponse(Response):
    """An answer that ends before the length it announced, so that the server closes the connection."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def _control_routes(world: World, runner: Runner) -> list[Route]:
    """Return the control API: time, faults and a dump of the state."""

    async def advance(request: Request) -> Response:
        document = json.loads(await request.body())
        world.ahead_seconds += float(document["seconds"])
        await run_in_threadpool(runner.run_due)
        runner.wake()
        return JSONResponse({"now": world.now()})

    async def faults(request: Request) -> Response:
        document = json.loads(await request.body() or b"{}")
        if request.method == "DELETE":
            world.faults.clear()
        elif "operation" in document:
            world.faults.fail_calls(**document)
        elif "suffix" in document:
            world.faults.fail_files(FileFault(**document))
        elif "output" in document:
            world.faults.spoil_outputs(document["output"], document.get("count", 1))
        elif "stuck_jobs" in document:
            world.faults.stick_jobs(document["stuck_jobs"])
        elif "failed_jobs" in document:
            world.faults.fail_jobs(document.get("message", "simulated"), document["failed_jobs"])
        return JSONResponse({})

    async def state(_request: Request) -> Response:
        with world.engine.connect() as connection:
            dump = {
                table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in (job, image_set)
            }
        settings = {key: str(value) for key, value in asdict(world.settings).items()}
        return JSONResponse({"now": world.now(), "settings": settings, **dump})

    return [
        Route("/_simulator/advance", advance, methods=["POST"]),
        Route("/_simulator/faults", faults, methods=["POST", "DELETE"]),
        Route("/_simulator/state", state, methods=["GET"]),
    ]
