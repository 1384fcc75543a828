"""Settings of destinations and routes: what stops the start, and what is in force without one."""

import os
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.settings import EdgeSettings, SettingsFile, StoreDestination, build_settings, load_settings
from dicomflow.errors import PermanentError

PACS = {"host": "127.0.0.1", "port": 104, "ae_title": "PACS"}
STORE = {"kind": "store", "url": "s3://research"}


def settings(**sections: Any) -> EdgeSettings:
    """Build settings with some sections."""
    document = {"name": "e", "spool": {"dir": "spool"}, "delivery": {"store_url": "file:///objects"}}
    return build_settings(document | sections, "edge.toml")


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"routes": [{"to": ["pasc"]}]}, "names 'pasc', which is no destination: there are store, pacs"),
        ({"routes": [{"to": []}]}, "routes.0.to"),
        ({"routes": [{"when": {"modalty": "CT"}, "to": ["store"]}]}, "routes.0.when.modalty"),
        ({"routes": [{"when": {"not": {"ae": "CT"}}, "to": ["store"]}]}, "routes.0.when.not.ae"),
        ({"routes": [{"name": "a", "to": ["store"]}, {"name": "a", "to": ["pacs"]}]}, "two have one name"),
        ({"destinations": {"store": PACS}}, "is not 'store'"),
        ({"destinations": {"a": PACS | {"kind": "ftp"}}}, "destinations.a"),
        ({"destinations": {"a": {"host": "h", "port": 104}}}, "destinations.a.ae_title: it is missing"),
        ({"destinations": {"a": STORE | {"host": "h"}}}, "destinations.a.host: there is no such setting"),
        ({"destinations": {"a": STORE | {"prefix": "../x"}}}, "destinations.a.prefix"),
        ({"destinations": {"a": STORE | {"prefix": "/x"}}}, "destinations.a.prefix"),
        ({"destinations": {"a": STORE | {"url": "https://x"}}}, "destinations.a.url"),
        ({"destinations": {"a": PACS | {"profile": "mine"}}}, "destinations.a.profile is 'mine', which is none"),
    ],
)
def test_what_is_wrong_is_named(sections: dict[str, Any], told: str):
    """The key, or the route and what it names: a copy must not go astray by a word that is spelt wrong."""
    with pytest.raises(PermanentError) as error:
        settings(**({"destinations": {"pacs": PACS}} | sections))
    assert told in str(error.value)


@pytest.mark.parametrize("other", [PACS, STORE])
def test_a_route_without_a_home_for_the_original_is_refused(other: dict[str, Any]):
    """One destination of each route has to be required."""
    optional = other | {"required": False}
    with pytest.raises(PermanentError, match="route 2 goes only to destinations that are not required"):
        settings(destinations={"a": optional}, routes=[{"to": ["store", "a"]}, {"to": ["a"]}])
    found = settings(destinations={"a": optional, "b": other}, routes=[{"to": ["a", "b"]}])
    assert ("a", "b") == found.routes[0].to


def test_the_cloud_sends_to_nodes_alone():
    """A bucket is no node, and its prefix ends in a slash."""
    found = settings(destinations={"pacs": PACS, "research": STORE | {"prefix": "a/b"}})
    assert {"pacs"} == found.nodes.keys()
    research = found.destinations["research"]
    assert isinstance(research, StoreDestination)
    assert "a/b/" == research.prefix


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file with a destination and a route."""
    path = tmp_path / "edge.toml"
    _write(path, 'to = ["pacs"]')
    return path


def _write(path: Path, route: str, port: int = 104) -> None:
    route = f"[[routes]]\n{route}" if route else ""
    path.write_text(
        f'name = "e"\n[spool]\ndir = "s"\n[delivery]\nstore_url = "file:///o"\n'
        f'[destinations.pacs]\nhost = "h"\nport = {port}\nae_title = "PACS"\n{route}\n'
    )
    os.utime(path, ns=(len(route) * 1_000_000 + port, len(route) * 1_000_000 + port))


def test_a_changed_route_is_in_force_without_a_restart(file: Path):
    """So is one that is gone; a broken file, and a destination that is new, leave the old ones."""
    watched = SettingsFile(file, load_settings(file))
    _write(file, 'to = ["store", "pacs"]')
    watched.read()
    assert [("store", "pacs")] == [each.to for each in watched.routes]
    assert not watched.is_flawed
    _write(file, 'to = ["nobody"]')
    watched.read()
    assert [("store", "pacs")] == [each.to for each in watched.routes]
    assert watched.is_flawed
    _write(file, 'to = ["store"]', port=105)
    watched.read()
    assert [("store", "pacs")] == [each.to for each in watched.routes]
    assert watched.is_flawed
    _write(file, "")
    watched.read()
    assert () == watched.routes
    assert not watched.is_flawed


def test_the_first_route_waits_for_a_restart(file: Path):
    """It needs a process that sends, and deliveries that wait until they are decided."""
    _write(file, "")
    watched = SettingsFile(file, load_settings(file))
    _write(file, 'to = ["pacs"]')
    watched.read()
    assert () == watched.routes
    assert watched.is_flawed
