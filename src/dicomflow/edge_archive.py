"""What an edge answers on its DIMSE port beside storage: what an archive has, by DICOMweb; and where a C-MOVE may go.

Knows no catalog: at a site the edge is installed without what one needs.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from dicomflow.archive.dimse.move import MoveDestination
from dicomflow.archive.dimse.peers import Peers
from dicomflow.archive.dimse.services import ArchiveServices, ArchiveSite, operations
from dicomflow.archive.remote.building import open_remote_archive
from dicomflow.archive.remote.origin import Kind, Origin, Sign, healthimaging_region, kind_of
from dicomflow.archive.remote.signing import AwsKeys, authorization_of, sign_for_aws
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.edge.settings import DeliverySettings, Destination, EdgeSettings
from dicomflow.errors import PermanentError
from dicomflow.network.settings import ArchiveSettings, ClientTls
from dicomflow.network.tls import client_context

__all__ = ["EdgeArchive", "edge_archive", "move_destinations"]

_HEALTHIMAGING_RATE: Final = 50.0
"""What HealthImaging lets an account retrieve a second, unless a higher quota was asked for."""


def move_destinations(destinations: Mapping[str, Destination], ae_title: str) -> dict[str, MoveDestination]:
    """Return where a C-MOVE may go, by AE title, from the nodes of the settings by their names.

    Raises:
        PermanentError: the files of one's TLS do not load.
    """

    def destination(name: str, each: Destination) -> MoveDestination:
        try:
            tls = client_context(each.tls if isinstance(each.tls, ClientTls) else ClientTls()) if each.tls else None
        except PermanentError as error:
            raise PermanentError(f"destinations.{name}: {error}") from error
        calling = each.calling_ae_title or ae_title
        return MoveDestination(each.host, each.port, each.ae_title, calling, each.timeout_seconds, tls)

    return {each.ae_title: destination(name, each) for name, each in destinations.items()}


@dataclass(frozen=True, slots=True)
class EdgeArchive:
    """How a worker makes it; it is pickled. `workers` share the rate that the origin has for all."""

    settings: EdgeSettings
    workers: int

    def __call__(self) -> "_Opened":
        """Open it in this process."""
        return _Opened(self.settings, self.workers)


class _Opened:
    """The archive of one worker, until `close`."""

    def __init__(self, settings: EdgeSettings, workers: int) -> None:
        self._stack: Final = ExitStack()
        title = settings.dimse.ae_title
        archive = self._stack.enter_context(open_remote_archive(_origin(settings, workers), title))
        moves = operations(move_destinations(settings.nodes, title))
        self._site = ArchiveSite(archive, Peers(settings.archive.peers), moves)

    def serve(self, acceptor: Acceptor, association_id: str, peer: str) -> ArchiveServices:
        """Make the services of an association."""
        return self._site.serve(acceptor, association_id, peer)

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()


def edge_archive(settings: EdgeSettings, workers: int) -> EdgeArchive | None:
    """Return what the edge's workers make beside their receivers: nothing where no peer may ask, or nobody is asked.

    Raises:
        PermanentError: a file that the settings name does not load.
    """
    if not settings.archive.peers or settings.archive.dicomweb_url is None:
        return None
    Peers(settings.archive.peers)
    move_destinations(settings.nodes, settings.dimse.ae_title)
    _origin(settings, workers)
    return EdgeArchive(settings, workers)


def _origin(settings: EdgeSettings, workers: int) -> Origin:
    asked = settings.archive
    assert asked.dicomweb_url is not None
    kind = Kind(asked.dicomweb_kind) if asked.dicomweb_kind else kind_of(asked.dicomweb_url)
    rate = asked.dicomweb_requests_per_second
    if rate is None and kind is Kind.HEALTHIMAGING:
        rate = _HEALTHIMAGING_RATE
    return Origin(
        asked.dicomweb_url.rstrip("/"),
        kind,
        rate / workers if rate else None,
        _sign(settings, asked, kind),
        _readable(asked.dicomweb_ca),
        _proxy_of(urlsplit(asked.dicomweb_url), settings.delivery),
    )


def _proxy_of(url: SplitResult, delivery: DeliverySettings) -> str | None:
    """Return the proxy that the edge's store is reached by too, unless the origin's host is reached without it."""
    host = url.hostname or ""
    if delivery.proxy_url is not None:
        from dicomflow.edge.devicecredentials import is_excluded  # noqa: PLC0415  # imports botocore

        return None if is_excluded(host, delivery.proxy_excludes or "") else delivery.proxy_url
    return None if proxy_bypass(host) else getproxies().get(url.scheme)


def _sign(settings: EdgeSettings, asked: ArchiveSettings, kind: Kind) -> Sign:
    if asked.dicomweb_authorization_file is not None:
        return authorization_of(asked.dicomweb_authorization_file)
    if kind is not Kind.HEALTHIMAGING:
        return lambda _url, headers: dict(headers)
    from dicomflow.edge.stores import build_credentials  # noqa: PLC0415  # imports botocore, a third of a second

    provider, region = build_credentials(settings.delivery)

    def keys() -> AwsKeys:
        found = provider()
        return found["access_key_id"], found["secret_access_key"], found["token"]

    where = healthimaging_region(asked.dicomweb_url or "") or region
    if where is None:
        raise PermanentError("archive.dicomweb_url is HealthImaging's, and no region is set: set AWS_REGION")
    return sign_for_aws(keys, where)


def _readable(file: Path | None) -> str | None:
    if file is not None and not os.access(file, os.R_OK):
        raise PermanentError(f"archive.dicomweb_ca {file} cannot be read")
    return None if file is None else str(file)
