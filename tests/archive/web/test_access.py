"""Who is let in: passcodes, tokens, proxies, hosts and other sites' pages."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jwt
import pytest
from archived import a_study, fill
from cryptography.hazmat.primitives.asymmetric import rsa
from obstore.store import MemoryStore
from web_archive import Noted, archive_over, asking

from dicomflow.archive.access import Principal, Right
from dicomflow.archive.archive import Archive
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.tokens import Tokens
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.errors import TransientError
from dicomflow.passcodes import PasscodeFile, hash_passcode
from dicomflow.visitors import Attempts, Proxy

ISSUER, AUDIENCE = "https://login.example.org", "dicomflow"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Give an archive of one study."""
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('access') / 'catalog.db'}")
    migrate(engine)
    fill(engine, MemoryStore(), a_study(1, ("CT", 1)))
    yield archive_over(engine, Noted())
    engine.dispose()


@pytest.fixture
def users(tmp_path: Path) -> PasscodeFile:
    """Give a file of one user."""
    path = tmp_path / "users"
    path.write_text(hash_passcode("ada", "secret") + "\n")
    return PasscodeFile(path, "users")


class Provider:
    """A provider of tokens: its keys over HTTP, and tokens that they sign."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.asked = 0
        self.is_away = False
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                self.send_response(503 if provider.is_away else 200)
                self.end_headers()
                public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(provider.key.public_key()))
                self.wfile.write(json.dumps({"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]}).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def token(self, key: Any = None, kid: str = "one", algorithm: str = "RS256", **changed: Any) -> str:
        """Return a token; keyword arguments change its claims, None leaves one out."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "u1",
            "exp": time.time() + 300,
            "scope": "openid dicomflow.query",
        }
        kept = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(kept, self.key if key is None else key, algorithm, headers={"kid": kid})

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """Give a provider."""
    opened = Provider()
    yield opened
    opened.close()


def bearer(token: str) -> dict[str, str]:
    """Return the header that a token comes in."""
    return {"authorization": f"Bearer {token}"}


def basic(user: str, passcode: str) -> dict[str, str]:
    """Return the header that a passcode comes in."""
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{passcode}".encode()).decode()}


def test_stranger_is_asked_who_it_is(archive: Archive, users: PasscodeFile):
    """Without a proof 401 and how to give one; with it the answer, and the trail names the user."""
    noted = archive.audit
    assert isinstance(noted, Noted)
    with asking(archive, WebAccess(users=users)) as client:
        refused = client.get("/studies")
        assert (401, 'Basic realm="dicomflow", charset="UTF-8"') == (
            refused.status_code,
            refused.headers["www-authenticate"],
        )
        wrong = [basic("ada", "x"), basic("eve", "secret"), {"authorization": "Basic %%"}, {"authorization": "Basic"}]
        wrong += [{"authorization": "Basic " + "A" * 20_000}, bearer("x")]
        assert {401} == {client.get("/studies", headers=each).status_code for each in wrong[:4] + wrong[5:]}
        assert [] == noted
        assert 1 == len(client.get("/studies", headers=basic("ada", "secret")).json())
    assert ["web:ada"] == [row[0] for row in noted]
    noted.clear()


def test_guessing_is_slowed_down(archive: Archive, users: PasscodeFile):
    """After some failures even the right passcode waits."""
    with asking(archive, WebAccess(users=users, attempts=Attempts(allowed=2, pause_seconds=300))) as client:
        answers = [client.get("/studies", headers=basic("ada", each)).status_code for each in ("a", "b", "secret")]
    assert [401, 401, 429] == answers


def test_viewer_that_asks_many_things_at_once_is_let_in(archive: Archive, users: PasscodeFile):
    """Its first requests are one attempt; and guesses at its name do not shut out who was let in before."""
    with (
        asking(archive, WebAccess(users=users, attempts=Attempts(allowed=2, pause_seconds=300))) as client,
        ThreadPoolExecutor(12) as threads,
    ):
        ada = basic("ada", "secret")
        asked = list(threads.map(lambda _: client.get("/studies", headers=ada).status_code, range(12)))
        guessed = [client.get("/studies", headers=basic("ada", str(each))).status_code for each in range(3)]
        after = client.get("/studies", headers=ada).status_code
    assert ([200] * 12, [401, 401, 429], 200) == (asked, guessed, after)


def test_provider_that_hangs_holds_up_nobody_else(archive: Archive, users: PasscodeFile):
    """While the keys of tokens are asked for, who shows a passcode is answered."""
    hangs, asked = threading.Event(), threading.Event()

    class Hanging(Tokens):
        def principal_of(self, token: str) -> Principal:
            asked.set()
            hangs.wait(60)
            raise TransientError(token)

    access = WebAccess(users=users, tokens=Hanging(ISSUER, AUDIENCE, "http://127.0.0.1:9/"))
    with asking(archive, access) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.get, "/studies", headers=bearer("x"))
        try:
            assert asked.wait(60)
            assert 200 == client.get("/studies", headers=basic("ada", "secret")).status_code
            assert not waiting.done()
        finally:
            hangs.set()
        assert 503 == waiting.result(60).status_code


def test_user_without_the_right_is_refused(archive: Archive, users: PasscodeFile):
    """403, and no list, not even an empty one."""
    access = WebAccess(users=users, rights_of=lambda _: frozenset({Right.RETRIEVE, Right.STORE}))
    with asking(archive, access) as client:
        answer = client.get("/studies", headers=basic("ada", "secret"))
    assert (403, "no right to query\n") == (answer.status_code, answer.text)


def test_token_of_the_provider_is_believed_for_what_it_names(archive: Archive, provider: Provider):
    """Signed by a key of the provider, for us, in time; its scope names the rights."""
    access = WebAccess(tokens=Tokens(ISSUER, AUDIENCE, provider.url))
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bad = [
        provider.token(exp=time.time() - 100),
        provider.token(nbf=time.time() + 1000),
        provider.token(aud="other"),
        provider.token(iss="https://evil.example"),
        provider.token(exp=None),
        provider.token(sub=None),
        provider.token(other),
        provider.token("0" * 32, algorithm="HS256"),
        provider.token("", algorithm="none"),
        "no.token.here",
        "x",
    ]
    with asking(archive, access) as client:
        assert 200 == client.get("/studies", headers=bearer(provider.token())).status_code
        assert 200 == client.get("/studies", headers=bearer(provider.token(exp=time.time() - 30))).status_code
        for token in bad:
            answer = client.get("/studies", headers=bearer(token))
            assert (401, "Bearer") == (answer.status_code, answer.headers["www-authenticate"].split()[0])
        assert 403 == client.get("/studies", headers=bearer(provider.token(scope="openid"))).status_code
        assert 401 == client.get(f"/studies?access_token={provider.token()}").status_code


def test_invented_keys_do_not_have_the_provider_asked_for_each(archive: Archive, provider: Provider):
    """A flood of tokens with unknown key IDs costs the provider one question in half a minute."""
    with asking(archive, WebAccess(tokens=Tokens(ISSUER, AUDIENCE, provider.url))) as client:
        provider.asked = 0
        for number in range(5):
            assert 401 == client.get("/studies", headers=bearer(provider.token(kid=f"k{number}"))).status_code
        assert 1 == provider.asked


def test_provider_that_is_away_is_503(archive: Archive, provider: Provider):
    """Nobody is let in, nobody is told that the token is wrong, and it is not asked for each request."""
    provider.is_away, provider.asked = True, 0
    try:
        with asking(archive, WebAccess(tokens=Tokens(ISSUER, AUDIENCE, provider.url))) as client:
            asked = [client.get("/studies", headers=bearer(provider.token())).status_code for _ in range(5)]
        assert ([503] * 5, 1) == (asked, provider.asked)
    finally:
        provider.is_away = False


def test_proxy_is_believed_from_its_address_alone(archive: Archive):
    """The header that names a user counts where the proxy sends it, and nowhere else."""
    for network, status in (("127.0.0.0/8", 200), ("10.0.0.0/8", 401)):
        with asking(archive, WebAccess(proxy=Proxy((ip_network(network),), "X-User"))) as client:
            assert status == client.get("/studies", headers={"X-User": "ada"}).status_code


def test_other_hosts_and_sites_are_refused(archive: Archive):
    """A page that resolved its name to our address sees nothing, and a page of another site changes nothing."""
    with asking(archive) as client:
        assert 421 == client.get("/studies", headers={"host": "evil.example"}).status_code
        assert 403 == client.post("/studies", headers={"origin": "http://evil.example"}).status_code
        assert 403 == client.post("/studies", headers={"sec-fetch-site": "cross-site"}).status_code


@pytest.mark.parametrize(
    ("origin", "is_listed"), [("https://viewer.example.org", True), ("https://evil.example", False)]
)
def test_pages_of_listed_sites_may_ask(archive: Archive, users: PasscodeFile, origin: str, is_listed: bool):  # noqa: FBT001  # a parameter
    """A browser's preflight is answered without a user, and refusals say why to the page, for listed origins alone."""
    access = WebAccess(users=users, origins=("https://viewer.example.org",))
    asked = {
        "origin": origin,
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization, accept",
    }
    with asking(archive, access) as client:
        preflight = client.options("/studies", headers=asked)
        refused = client.get("/studies", headers={"origin": origin})
        answer = client.get("/studies", headers={"origin": origin} | basic("ada", "secret"))
    allowed = origin if is_listed else None
    assert (200 if is_listed else 400) == preflight.status_code
    assert [allowed] * 3 == [each.headers.get("access-control-allow-origin") for each in (preflight, refused, answer)]
    assert [401, 200] == [refused.status_code, answer.status_code]
    assert not is_listed or "warning" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]


def test_answers_are_for_whom_they_are_sent_to(archive: Archive):
    """Nobody on the way keeps patients' data."""
    with asking(archive) as client:
        for path in ("/studies", "/nothing"):
            assert "private, no-cache" == client.get(path).headers["cache-control"]


def test_error_of_our_own_tells_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch):
    """500 without a word of what was asked."""

    def fail(_: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(archive.query, "ask", fail)
    with asking(archive) as client:
        answer = client.get("/studies?PatientName=x")
    assert (500, "an error of the archive's own\n") == (answer.status_code, answer.text)
