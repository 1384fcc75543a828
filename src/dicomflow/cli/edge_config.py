"""What config.py says of one edge, for a device that gets it by `edge-install`: settings, network, ports.

With Greengrass the stack's deployment brings the settings; without, they are written once, into edge.toml.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import typer

from dicomflow.cli.stack_config import StackConfig
from dicomflow.cli.stacks import config_of_stack, require_device
from dicomflow.cli.toml import merged, to_toml
from dicomflow.errors import PermanentError

__all__ = ["EdgeConfig", "Network", "edge_toml"]

_PROXY: Final = re.compile(r"https?://[^\s'\"`$\\]+")
_EXCLUDES: Final = re.compile(r"[\w.:/*-]+(,[\w.:/*-]+)*")
_PORT: Final = 11112
_TLS_PORT: Final = 2762
_WRITE_OUT: Final = "write it out there, since the edge's settings come from it"


class Network(NamedTuple):
    """What is between the device and AWS."""

    proxy_url: str
    proxy_excludes: str
    only_443: bool
    is_fips: bool
    is_accelerated: bool


@dataclass(frozen=True)
class EdgeConfig:
    """What the config.py of this folder says, if it is the stack's; `settings` are the edge's own."""

    settings: Mapping[str, Any]
    config: StackConfig | None
    has_nucleus: bool

    @classmethod
    def of(cls, stack: str, name: str, *, has_nucleus: bool) -> Self:
        """Read config.py for an edge.

        Raises:
            PermanentError: the edge is an instance of the stack's, or its settings are not written out.
        """
        config = config_of_stack(stack)
        if config is None or (has_nucleus and config.hides("EDGE_CONFIG")):
            return cls({}, config, has_nucleus)
        edge = config.edges(_WRITE_OUT).get(name, {})
        require_device(name, edge)
        settings = edge.get("settings", {})
        if not isinstance(settings, dict):
            raise PermanentError(f"settings of {name} in EDGE_CONFIG must be names and values, in {{ and }}")
        return cls(settings, config, has_nucleus)

    @property
    def ports(self) -> str:
        """The ports that the edge listens to, parted by commas."""
        dimse = _table(self.settings, "dimse")
        found = [dimse.get("port", _PORT)]
        if "tls" in dimse:
            found.append(_table(dimse, "tls").get("port", _TLS_PORT))
        if wrong := [port for port in found if not str(port).isdecimal()]:
            raise PermanentError(f"settings.dimse in EDGE_CONFIG: {wrong[0]!r} is no port")
        return ", ".join(map(str, found))

    def network(
        self, proxy_url: str | None, proxy_excludes: str | None, *, only_443: bool | None, is_fips: bool | None
    ) -> Network:
        """Return what the options say, of the rest what the edge's own settings say, and of the rest config.py.

        Raises:
            PermanentError: config.py does not write out what no option says.
            typer.BadParameter: it could not stand in a command.
        """
        if self.config is None:
            typer.echo("note: no config.py of this stack is here: only the options say what the edge needs", err=True)
        own = {} if self.has_nucleus else _table(self.settings, "delivery")
        proxy_url = own.get("proxy_url") if proxy_url is None else proxy_url
        proxy_excludes = own.get("proxy_excludes") if proxy_excludes is None else proxy_excludes
        needed = {"--proxy-url": proxy_url, "--proxy-excludes": proxy_excludes}
        if self.has_nucleus:
            needed["--only-port-443"] = only_443
        missing = [option for option, value in needed.items() if value is None]
        devices = self._section("DEVICE_CONFIG", f"give {' and '.join(missing)}") if missing else {}
        account = self._section("ACCOUNT_CONFIG", "give --fips or --no-fips") if is_fips is None else {}
        found = Network(
            str(devices.get("proxy_url", "")) if proxy_url is None else proxy_url,
            str(devices.get("proxy_excludes", "")) if proxy_excludes is None else proxy_excludes,
            bool(devices.get("only_port_443", False)) if only_443 is None else only_443,
            bool(account.get("fips_endpoints", False)) if is_fips is None else is_fips,
            not self.has_nucleus and self._is_accelerated(),
        )
        if found.proxy_url and _PROXY.fullmatch(found.proxy_url) is None:
            raise typer.BadParameter("give http:// and the proxy's host and port", param_hint="--proxy-url")
        if found.proxy_excludes and _EXCLUDES.fullmatch(found.proxy_excludes) is None:
            raise typer.BadParameter("give hosts, parted by commas without blanks", param_hint="--proxy-excludes")
        return found

    def _is_accelerated(self) -> bool:
        storage, sample = self._section("STORAGE_CONFIG", _WRITE_OUT), self._section("S3_CONFIG", _WRITE_OUT)
        return bool(storage.get("transfer_acceleration", sample.get("s3_acceleration", False)))

    def _section(self, name: str, remedy: str) -> dict[str, Any]:
        return {} if self.config is None else self.config.section(name, remedy)


def edge_toml(
    values: Mapping[str, Any], spool: str, config: EdgeConfig, network: Network, credentials: Mapping[str, str] | None
) -> str:
    """Return the settings of an edge without Greengrass: those of config.py, and what is the stack's own above them.

    Raises:
        PermanentError: a value is none that a settings file can have.
    """
    delivery: dict[str, Any] = {"store_url": values["store_url"], "proxy_url": network.proxy_url or None}
    delivery["proxy_excludes"] = network.proxy_excludes or None if network.proxy_url else None
    if network.is_fips:
        delivery["endpoint"] = f"https://s3-fips.{values['region']}.amazonaws.com"
    if network.is_accelerated and not network.is_fips:
        delivery["accelerate"] = True
    if credentials is not None:
        delivery["credentials"] = dict(credentials)
    below = {"name": values["thing"], "spool": {"dir": spool}}
    return to_toml(merged(merged(below, config.settings), {"name": values["thing"], "delivery": delivery}))


def _table(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name, {})
    if not isinstance(found, dict):
        raise PermanentError(f"settings.{name} in EDGE_CONFIG must be names and values, in {{ and }}")
    return found
