"""What an edge says of itself: its spool's files, the progress that it writes there, and whether it answers.

Needs the extra `edge` alone.
"""

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from dicomflow.edge.progress import read_progress
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.view import look
from dicomflow.errors import PermanentError

__all__ = ["count_spool", "edge_status"]

_ANSWER_SECONDS: Final = 5.0
_MAX_ANSWER_BYTES: Final = 64 << 10


def edge_status(settings: EdgeSettings) -> tuple[dict[str, Any], list[str]]:
    """Return how an edge is, and a line for each part of its spool that could not be read.

    `ready` is what it says on its HTTP port, None where it has none; `says` are the reasons.
    """
    ready, says = _ask(settings)
    counts, unreadable = count_spool(settings.spool.dir) if settings.spool.dir.is_dir() else ({}, [])
    if not settings.spool.dir.is_dir():
        says = [*says, f"there is no spool in {settings.spool.dir} yet"]
    status: dict[str, Any] = {"edge": settings.name, "ready": ready, "says": says} | counts
    return status | {"store": {"url": settings.delivery.store_url}}, unreadable


def count_spool(spool: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what a spool holds and how its delivery gets on, and a line for each part that could not be read.

    Raises:
        PermanentError: the spool itself cannot be read, so that no figure at all would be true.
    """
    view = look(spool, ages=False)
    for path, reason in view.unreadable.items():
        if path.parent == spool:
            raise PermanentError(f"cannot read {path}: {reason}; run it as the user that receives")
    counts: dict[str, Any] = {"spool": view.counts()}
    if view.destinations:
        counts["destinations"] = view.waiting()
    progress = read_progress(spool)
    if progress is not None:
        counts["delivery"] = progress
    return counts, [f"{path}: {reason}" for path, reason in view.unreadable.items()]


def _ask(settings: EdgeSettings) -> tuple[bool | None, list[str]]:
    """Ask `/readyz`; nobody who answers is an edge that does not run, or that is just being started."""
    if settings.http_port is None:
        return None, ["it has no http_port to be asked on"]
    host = "127.0.0.1" if settings.http_bind in {"0.0.0.0", "::"} else settings.http_bind  # noqa: S104  # it is compared
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # http
            return True, _lines(answer.read(_MAX_ANSWER_BYTES))[1:]
    except urllib.error.HTTPError as error:
        return False, _lines(error.read(_MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return False, [f"nothing answers at {url}: {getattr(reason, 'strerror', None) or reason}: it does not run"]


def _lines(answer: bytes) -> list[str]:
    return answer.decode("utf-8", "replace").splitlines()
