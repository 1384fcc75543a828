"""`dicomflow archive`: what is stored, for viewers, researchers and other systems, over any catalog and store."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import Field, ValidationError
from starlette.types import ASGIApp

from dicomflow.archive.access import Right
from dicomflow.archive.catalog.building import open_archive
from dicomflow.archive.dimse.peers import Peers
from dicomflow.archive.dimse.services import ArchiveSite, operations
from dicomflow.archive.web.access import ReadingRights, WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.archive.web.tokens import Tokens
from dicomflow.catalog.engine import require_schema
from dicomflow.cli.console import (
    Certificate,
    Host,
    Key,
    PlainHttp,
    TrustedProxy,
    UserHeader,
    UsersFile,
    own_hosts,
    proxy_of,
    require_protection,
    users_of,
)
from dicomflow.cli.database import DatabaseUrl, DataFolder, writing
from dicomflow.cli.stores import StoreUrl, store_of
from dicomflow.edge.destinations import AnyDestination, nodes_of
from dicomflow.edge.settings import EdgeSettings, read_document
from dicomflow.edge_archive import move_destinations
from dicomflow.errors import PermanentError
from dicomflow.local_folder import SETTINGS_FILE
from dicomflow.network.server import DimseServer
from dicomflow.network.settings import ArchiveSettings, ArchiveUser, DimseSettings, Section
from dicomflow.serving import WebServer
from dicomflow.spelling import describe_settings, meant

__all__ = ["archive"]

_PATH: Final = "/dicomweb"
_SECTIONS: Final = ("dimse", "archive", "destinations")


class _Settings(Section):
    """What an archive takes of a settings file: of an edge's, too, which has more."""

    dimse: DimseSettings = DimseSettings()
    archive: ArchiveSettings = ArchiveSettings()
    destinations: dict[str, AnyDestination] = Field({})


def archive(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    store_url: StoreUrl = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with [archive], [dimse], [destinations]; DIR/edge.toml if --data is given and it is there."
        ),
    ] = None,
    bind: Annotated[str, typer.Option(help="The address to serve on, HTTP and DIMSE.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The DIMSE port; 0 takes a free one.", min=0, max=65535)] = 11113,
    http_port: Annotated[int, typer.Option(help="The HTTP port; 0 takes a free one.", min=0, max=65535)] = 8045,
    users_file: UsersFile = None,
    certificate: Certificate = None,
    key: Key = None,
    trusted_proxy: TrustedProxy = None,
    user_header: UserHeader = "X-Forwarded-User",
    host: Host = None,
    plain_http: PlainHttp = False,
    origin: Annotated[
        list[str] | None, typer.Option(help="Another site whose pages may ask, like https://viewer.example.org.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="What it is reached by behind a proxy, like https://pacs.example.org/dicomweb.")
    ] = None,
) -> None:
    """Serve what is stored to viewers and other systems.

    Over any catalog and store. DICOMweb is at /dicomweb of the HTTP port: QIDO-RS searches and WADO-RS retrieves.
    C-FIND, C-MOVE and C-GET are on the DIMSE port, for the AE titles under [archive.peers] alone. On a loopback address
    nobody is asked over HTTP who it is; on any other a file of users, a provider of bearer tokens ([archive.tokens]) or
    a proxy that has asked says so. Each query and retrieval is in the audit trail. `dicomflow local` has the same on
    its own ports.

    For example: dicomflow archive --data DIR --http-port 8045
    """
    settings = _settings_of(config, data)
    tokens = settings.archive.tokens
    has_login = users_file is not None or bool(trusted_proxy) or tokens is not None
    require_protection(bind, certificate, key, has_login=has_login, is_plain=plain_http or bool(trusted_proxy))
    access = WebAccess(
        proxy=proxy_of(trusted_proxy or [], user_header),
        users=users_of(users_file) if users_file is not None else None,
        tokens=Tokens(tokens.issuer, tokens.audience, tokens.jwks_url, tokens.rights_claim) if tokens else None,
        rights_of=_rights_of(settings.archive.users),
        hosts=own_hosts(bind, host or []),
        origins=tuple(origin or []),
        public_url=public_url.rstrip("/") if public_url else None,
    )
    dimse = settings.dimse.model_copy(update={"bind": bind, "port": port})
    with ExitStack() as stack:
        engine = stack.enter_context(writing(data, database_url))
        require_schema(engine)
        _, store = store_of(data, store_url)
        opened = stack.enter_context(open_archive(engine, store, dimse.ae_title))
        moves = operations(move_destinations(nodes_of(settings.destinations), dimse.ae_title))
        site = ArchiveSite(opened, Peers(settings.archive.peers), moves)
        _serve(create_archive(opened, access), site, dimse, (bind, http_port, certificate, key))


def _serve(
    dicomweb: ASGIApp,
    site: ArchiveSite,
    dimse: DimseSettings,
    http: tuple[str, int, Path | None, Path | None],
) -> None:
    """Serve until a signal."""
    from starlette.applications import Starlette  # noqa: PLC0415  # with the extra, whose lack is told by name
    from starlette.routing import Mount  # noqa: PLC0415  # as above

    bind, http_port, certificate, key = http
    application = Starlette(routes=[Mount(_PATH, dicomweb)])
    web = WebServer(application, bind, http_port, certificate=certificate, key=key)
    server = DimseServer(dimse, site.serve)
    try:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda _number, _frame: web.stop())
        told = {"dimse_port": server.ports[0], "http_port": web.port, "pid": os.getpid()}
        typer.echo(f"ready: {web.url}{_PATH}, DIMSE port {server.ports[0]} {json.dumps(told)}")
        web.run()
    finally:
        server.close()


def _settings_of(config: Path | None, data: Path | None) -> _Settings:
    """Read the settings.

    Raises:
        PermanentError: the file cannot be read, or a key of it is unknown or wrong.
    """
    path = config if config is not None else data / SETTINGS_FILE if data is not None else None
    if path is None or (config is None and not path.exists()):
        return _Settings()
    document = read_document(path)
    unknown = sorted(set(document) - set(EdgeSettings.model_fields))
    if unknown:
        raise PermanentError(f"{path}: {unknown[0]}: no such section{meant(unknown[0], EdgeSettings.model_fields)}")
    taken: dict[str, Any] = {name: document[name] for name in _SECTIONS if name in document}
    try:
        return _Settings(**taken)
    except ValidationError as error:
        raise PermanentError(f"{path}: {describe_settings(error, _Settings)}") from error


def _rights_of(users: dict[str, ArchiveUser] | None) -> Callable[[str], frozenset[Right]]:
    """Return what gives a user's rights: those that are set, or reading where none are."""

    def rights(user: str) -> frozenset[Right]:
        if users is None:
            return ReadingRights
        found = users.get(user, ArchiveUser())
        return frozenset(right for right in Right if getattr(found, right.value))

    return rights
