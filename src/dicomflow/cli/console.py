"""`dicomflow console`: the operators' pages over any catalog."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from sqlalchemy import Engine

from dicomflow.archive.catalog.building import open_archive
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.archive.web.ohif import create_viewer
from dicomflow.catalog import queue
from dicomflow.catalog.engine import require_schema
from dicomflow.cli.database import DatabaseUrl, DataFolder, writing
from dicomflow.cli.operator import caller, function_of
from dicomflow.cli.stores import StoreUrl, store_of
from dicomflow.console.access import Access, Role
from dicomflow.console.app import build_context, create_console
from dicomflow.console.counters import read_url
from dicomflow.console.forward import create_forwarder
from dicomflow.console.forwarded import HOSTS
from dicomflow.errors import PermanentError
from dicomflow.passcodes import PasscodeFile
from dicomflow.pipeline.connect import build_queues
from dicomflow.pipeline.transfers import TRANSFER_QUEUE
from dicomflow.pipeline.wakeups import DRIVE_QUEUE
from dicomflow.serving import WebServer
from dicomflow.sites import LOOPBACK_HOSTS
from dicomflow.visitors import Proxy

__all__ = ["Ohif", "OhifPort", "console", "own_hosts", "proxy_of", "require_protection", "users_of"]

Bind = Annotated[str, typer.Option(help="The address to serve on.")]
Port = Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)]
UsersFile = Annotated[
    Path | None,
    typer.Option(envvar="DICOMFLOW_CONSOLE_USERS_FILE", help="File of name:salt:hash lines to log in with."),
]
Certificate = Annotated[Path | None, typer.Option(help="The certificate and its chain, PEM; with it, TLS.")]
Key = Annotated[Path | None, typer.Option(help="The certificate's private key, PEM.")]
TrustedProxy = Annotated[
    list[str] | None, typer.Option(help="Address or network of a proxy that has asked who it is (OIDC).")
]
UserHeader = Annotated[str, typer.Option(help="The header in which the trusted proxy names the user.")]
Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        help="NAME=viewer, operator or admin: what a user may do; operator unless said. * stands for all others.",
        metavar="NAME=ROLE",
    ),
]
Host = Annotated[list[str] | None, typer.Option(help="A name under which it is reached; others are refused.")]
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Serve passcodes and patients' data unencrypted to other machines.")
]
EdgeMetrics = Annotated[list[str] | None, typer.Option(help="NAME=URL of an edge's /metrics, for what it has refused.")]
DriveQueueUrl = Annotated[
    str | None,
    typer.Option(
        envvar="DICOMFLOW_QUEUES__DRIVE",
        help="The SQS queue that wakes the pipeline; without one it is the catalog's own queue.",
        show_default=False,
    ),
]
TransfersQueueUrl = Annotated[
    str | None,
    typer.Option(
        envvar="DICOMFLOW_QUEUES__TRANSFERS",
        help="The SQS queue of transfers; without one it is the catalog's own queue.",
        show_default=False,
    ),
]
Stack = Annotated[
    str | None,
    typer.Option(help="A deployed stack, whose console function makes the pages; with it, --port alone."),
]
Ohif = Annotated[
    Path | None,
    typer.Option(help="A build of the OHIF viewer (npm pack @ohif/app), to open studies in; docs/console.md."),
]
OhifPort = Annotated[int, typer.Option(help="The viewer's port; 0 takes a free one.", min=0, max=65535)]
_FUNCTION_SECONDS: Final = 130
_ATTEMPTS: Final = 3


def console(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    stack: Stack = None,
    store_url: StoreUrl = None,
    bind: Bind = "127.0.0.1",
    port: Port = 8044,
    users_file: UsersFile = None,
    certificate: Certificate = None,
    key: Key = None,
    trusted_proxy: TrustedProxy = None,
    user_header: UserHeader = "X-Forwarded-User",
    role: Roles = None,
    host: Host = None,
    plain_http: PlainHttp = False,
    edge_metrics: EdgeMetrics = None,
    drive_queue_url: DriveQueueUrl = None,
    transfers_queue_url: TransfersQueueUrl = None,
    ohif: Ohif = None,
    ohif_port: OhifPort = 8046,
) -> None:
    """Serve the operators' pages over any catalog.

    Studies with their images, imports, edges, problems and audit. On a loopback address nobody is asked who it is. On
    any other a login is needed: a file of users, or a proxy that has asked. A viewer looks, an operator tries again and
    sends back, an admin downloads and deletes. `dicomflow local` has the
    same pages on its HTTP port. With --stack each request goes to a function of a deployed stack, by your rights in
    AWS: nothing listens there.

    For example: dicomflow console --data DIR --port 8044
    """
    if stack is not None:
        if bind not in HOSTS or any((data, users_file, trusted_proxy, host, certificate, key, edge_metrics, ohif)):
            raise typer.BadParameter("its pages are for this machine alone: give --port alone", param_hint="--stack")
        call = function_of(stack, "console", read_seconds=_FUNCTION_SECONDS, attempts=_ATTEMPTS)
        _serve(WebServer(create_forwarder(call, caller()), bind, port))
        return
    access = replace(
        _access(bind, users_file, trusted_proxy or [], user_header, host or [], certificate, key, plain_http),
        **_roles(role or []),
    )
    sources = dict(_metrics_source(each) for each in edge_metrics or [])
    with writing(data, database_url) as engine:
        require_schema(engine)
        _, store = store_of(data, store_url, may_create=True)
        enqueue = _enqueue(engine, {DRIVE_QUEUE: drive_queue_url, TRANSFER_QUEUE: transfers_queue_url})
        with ExitStack() as opened:
            viewer = None
            if ohif is not None:
                archive = opened.enter_context(open_archive(engine, store, "DICOMFLOW"))
                reading = WebAccess(proxy=access.proxy, users=access.users, hosts=access.hosts)
                application = create_viewer(ohif, create_archive(archive, reading))
                viewer = WebServer(application, bind, ohif_port, certificate=certificate, key=key)
                viewer.start()
                opened.callback(viewer.close)
            context = build_context(engine, store, enqueue, sources, viewer_port=viewer.port if viewer else None)
            server = WebServer(create_console(context, access), bind, port, certificate=certificate, key=key)
            _serve(server, viewer)


def _roles(texts: list[str]) -> dict[str, Any]:
    """Return the roles of users, and that of all others."""
    roles: dict[str, Role] = {}
    for text in texts:
        name, _, role = text.rpartition("=")
        if not name or role not in set(Role):
            raise typer.BadParameter(f"{text!r} is not NAME=viewer, operator or admin", param_hint="--role")
        roles[name] = Role(role)
    default = roles.pop("*", Role.OPERATOR)
    return {"roles": roles, "default_role": default}


def _serve(server: WebServer, viewer: WebServer | None = None) -> None:
    """Serve until a signal."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: server.stop())
    told = {"port": server.port, "pid": os.getpid(), **({"ohif_port": viewer.port} if viewer else {})}
    where = f", OHIF {viewer.url}/" if viewer else ""
    typer.echo(f"ready: {server.url}/{where} {json.dumps(told)}")
    server.run()


def _access(
    bind: str,
    users_file: Path | None,
    trusted_proxies: list[str],
    user_header: str,
    hosts: list[str],
    certificate: Path | None,
    key: Path | None,
    plain_http: bool,  # noqa: FBT001  # called once
) -> Access:
    """Return who may see the pages."""
    has_login = users_file is not None or bool(trusted_proxies)
    require_protection(bind, certificate, key, has_login=has_login, is_plain=plain_http or bool(trusted_proxies))
    return Access(
        proxy=proxy_of(trusted_proxies, user_header),
        users=users_of(users_file) if users_file is not None else None,
        hosts=own_hosts(bind, hosts),
        is_https=certificate is not None,
    )


def require_protection(
    bind: str, certificate: Path | None, key: Path | None, *, has_login: bool, is_plain: bool
) -> None:
    """Refuse to show patients' data to other machines without a login, or unencrypted where that is not wanted.

    Raises:
        typer.BadParameter: they would be shown.
    """
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--certificate and --key go together", param_hint="--certificate")
    if bind in LOOPBACK_HOSTS:
        return
    if not has_login:
        raise typer.BadParameter(
            f"{bind} is reached from other machines: give --users-file or --trusted-proxy", param_hint="--bind"
        )
    if certificate is None and not is_plain:
        raise typer.BadParameter(
            f"{bind} is reached from other machines: give --certificate and --key, or --plain-http", param_hint="--bind"
        )


def proxy_of(trusted_proxies: list[str], user_header: str) -> Proxy | None:
    """Return the proxy that tells who asks; None where none is trusted."""
    try:
        networks = tuple(ip_network(each) for each in trusted_proxies)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--trusted-proxy") from error
    return Proxy(networks, user_header) if networks else None


def own_hosts(bind: str, hosts: list[str]) -> tuple[str, ...]:
    """Return the names under which a server on an address is reached; none means any."""
    if not hosts and bind not in LOOPBACK_HOSTS:
        return ()
    return (*hosts, *LOOPBACK_HOSTS, *([bind] if _is_address(bind) else []))


def users_of(path: Path) -> PasscodeFile:
    """Read the logins; a file in which every line is flawed is a mistake to be told now, not at each login."""
    users = PasscodeFile(path, "--users-file")
    if users.bad_lines and not users.has_users:
        raise PermanentError(f"--users-file {path} names nobody: no line of it is name:salt:hash")
    return users


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def _metrics_source(text: str) -> tuple[str, Callable[[], str]]:
    name, _, url = text.partition("=")
    if not name or urlsplit(url).scheme not in {"http", "https"}:
        raise typer.BadParameter(f"{text!r} is not NAME=http://HOST:PORT/metrics", param_hint="--edge-metrics")
    return name, read_url(url)


def _enqueue(engine: Engine, urls: dict[str, str | None]) -> Callable[[str, str], None]:
    """Return what sends a message to a queue: SQS where it has a URL, else the catalog's own."""
    queues = build_queues({name: url for name, url in urls.items() if url})

    def enqueue(name: str, body: str) -> None:
        if urls[name]:
            queues.enqueue(name, body)
            return
        with engine.begin() as connection:
            queue.send(connection, name, body, datetime.now(UTC))

    return enqueue
