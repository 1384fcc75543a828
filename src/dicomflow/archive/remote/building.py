"""An archive over a DICOMweb origin, for who speaks DIMSE at a site."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dicomflow.archive.access import Principal
from dicomflow.archive.archive import Archive
from dicomflow.archive.pixels.conversions import Conversions
from dicomflow.archive.remote.client import OriginClient
from dicomflow.archive.remote.origin import Origin
from dicomflow.archive.remote.query import RemoteQuery
from dicomflow.archive.remote.retrieval import RemoteRetrieval

__all__ = ["open_remote_archive"]

_logger = logging.getLogger(__name__)


class _LogAudit:
    """Writes what is asked for into the log of the site; an origin has its own trail of what the site asked it."""

    def record(self, principal: Principal, action: str, uid: str | None, details: Mapping[str, Any]) -> None:
        """Note it."""
        told = " ".join(f"{name}={value}" for name, value in sorted(details.items()))
        _logger.info("%s principal=%s uid=%s %s", action, principal.name, uid, told)


class _RemoteConversions(Conversions):
    """The origin decompresses what it can; what it cannot is a failed sub-operation."""

    def can_convert(self, transfer_syntax_uid: str) -> bool:
        """Let it be tried."""
        del transfer_syntax_uid
        return True


@contextmanager
def open_remote_archive(
    origin: Origin, ae_title: str, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Archive]:
    """Give an archive; nobody is asked before a peer asks."""
    client = OriginClient(origin, sleep)
    retrieval = RemoteRetrieval(client)
    conversions = _RemoteConversions(retrieval)
    try:
        yield Archive(RemoteQuery(client), retrieval, conversions, _LogAudit(), ae_title)
    finally:
        conversions.close()
        client.close()
