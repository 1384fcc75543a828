"""Checks of everything on one machine: the edge's, and the catalog's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from obstore.store import LocalStore

from dicomflow.catalog.engine import database_url
from dicomflow.doctor.edge import checks_of_edge
from dicomflow.doctor.findings import Check, Warn
from dicomflow.doctor.pipeline import check_database, check_deliveries
from dicomflow.local import LocalSettings, edge_settings
from dicomflow.local_folder import open_to_others

__all__ = ["checks_of_local"]

_HTTP_BIND: Final = "127.0.0.1"


def checks_of_local(settings: LocalSettings) -> Iterator[Check]:
    """Yield the checks of what `dicomflow local` is given."""
    data = settings.data.absolute()
    yield Check("data folder", lambda: _check_private(data), "repair the data folder")
    edge = edge_settings(settings).model_copy(update={"http_port": settings.http_port, "http_bind": _HTTP_BIND})
    yield from checks_of_edge(edge)
    yield Check("catalog", lambda: _check_catalog(settings), "run `dicomflow migrate` on it")


def _check_private(data: Path) -> str:
    """Look whether other users of the machine can see images, catalog or spool."""
    if not data.exists():
        return f"{data} is not there yet; `dicomflow local` makes it for its owner alone"
    if found := open_to_others(data):
        raise Warn(
            f"other users can look into {', '.join(str(path) for path in found)}, where patients' data lie",
            f"`dicomflow local` closes them when it starts; or: chmod -R go= {data}",
        )
    return f"{data} is for its owner alone"


def _check_catalog(settings: LocalSettings) -> str:
    url = settings.database_url or f"sqlite:///{quote(str(settings.data.absolute() / 'catalog.db'))}"
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return "there is none yet; `dicomflow local` makes it"
    text = check_database(url)
    objects = settings.data.absolute() / "objects"
    return f"{text}; {check_deliveries(url, LocalStore(objects))}" if objects.exists() else text
