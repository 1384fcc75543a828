"""A browser on this machine may be made to ask us by another site's page: it gets nothing and changes nothing."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dicomflow.serving import serve

Ask = Callable[[str, dict[str, str]], int]


def application() -> Starlette:
    """Return one that answers everything with its method."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.method)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve it on loopback."""
    server = serve(application())
    yield server.port
    server.close()


@pytest.fixture
def ask(port: int) -> Ask:
    """Return the status of a request."""

    def _ask(method: str, headers: dict[str, str]) -> int:
        own = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
        return httpx.request(method, f"http://127.0.0.1:{port}/x", headers=own).status_code

    return _ask


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8042",
        "127.0.0.1.evil.example",
        "localhost.",
        "",
        "[::2]",
        "[",
        "127.0.0.1@evil",
        "0",
    ],
)
def test_request_with_a_foreign_host_is_refused(ask: Ask, method: str, host: str):
    """A name that resolves to our address is not ours (DNS rebinding)."""
    assert 421 == ask(method, {"host": host})


@pytest.mark.parametrize("host", ["localhost", "localhost:8042", "127.0.0.1", "[::1]:8042", "LOCALHOST"])
def test_request_with_our_host_is_answered(ask: Ask, host: str):
    """A program on this machine says no origin, whatever it does."""
    assert {200} == {ask(method, {"host": host}) for method in ("GET", "POST", "DELETE")}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_request_of_another_sites_page_changes_nothing(ask: Ask, headers: dict[str, str]):
    """A form needs no leave to be sent, and no answer to do harm; a link may lead to us."""
    assert [200, 403, 403, 403] == [ask(method, headers) for method in ("GET", "POST", "PUT", "DELETE")]


def test_request_of_our_own_page_is_answered(ask: Ask):
    """The console's forms say where they come from."""
    assert 200 == ask("POST", {"origin": "http://127.0.0.1:PORT", "sec-fetch-site": "same-origin"})


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", 421), ("0.0.0.0", 200)])
def test_served_on_loopback_only_this_machines_names_are_answered(host: str, expected: int):
    """What `local` and `simulator` serve stands behind it; other addresses have names that nobody knows."""
    server = serve(application(), host)
    try:
        found = httpx.get(f"http://127.0.0.1:{server.port}/x", headers={"host": "evil.example"}).status_code
    finally:
        server.close()
    assert expected == found
