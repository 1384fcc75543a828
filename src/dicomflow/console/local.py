"""The console of `dicomflow local`: on its HTTP port, which only this machine reaches, and so without a login."""

from collections.abc import Callable

from obstore.store import ObjectStore
from sqlalchemy import Engine
from starlette.applications import Starlette

from dicomflow.console.access import Access
from dicomflow.console.app import build_context, create_console

__all__ = ["local_console"]


def local_console(
    engine: Engine,
    store: ObjectStore,
    enqueue: Callable[[str, str], None],
    read_metrics: Callable[[], str],
    viewer_port: int | None,
) -> Starlette:
    """Return the pages over a local catalog and its folder of objects."""
    context = build_context(engine, store, enqueue, {"local": read_metrics}, viewer_port=viewer_port)
    return create_console(context, Access())
