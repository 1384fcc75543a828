"""Credentials: found in each source, valid whenever they are given, renewed before their true end."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import obstore
import pytest
from fault_proxy import FaultProxy

from dicomflow.edge.credentials import CredentialProvider, Credentials, load_credentials
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store
from dicomflow.errors import TransientError

TOKEN = "the-token-of-this-component"
START = datetime(2026, 1, 1, tzinfo=UTC)


class TokenExchange:
    """A stand-in of the token exchange service and of instance metadata; each answer has a key of its own."""

    def __init__(self) -> None:
        self.asked = 0
        self.lifetime = timedelta(hours=1)
        self.status = 200
        self.is_late = threading.Event()
        exchange = self

        class _Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer(b"metadata-token")

            def do_GET(self) -> None:
                if self.path == "/latest/meta-data/iam/security-credentials/":
                    self._answer(b"role")
                    return
                exchange.asked += 1
                if exchange.is_late.is_set():
                    exchange.is_late.clear()
                    self.connection.recv(1)  # until the client gives up
                    return
                is_metadata = self.path.startswith("/latest/")
                if exchange.status != 200:
                    self.send_error(exchange.status)
                elif not is_metadata and self.headers.get("Authorization") != TOKEN:
                    self.send_error(403)
                else:
                    self._answer(json.dumps(exchange.document()).encode())

            def _answer(self, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.server.server_address[1])

    def document(self) -> dict[str, str]:
        """Return what it hands out now."""
        ends = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": f"KEY{self.asked}", "SecretAccessKey": "secret", "Token": "session"}
        return keys | {"Expiration": ends, "Code": "Success"}


@pytest.fixture
def no_keys(aws_environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take every source of credentials away."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws_environment.delenv(name)
    return aws_environment


@pytest.fixture
def metadata() -> Iterator[TokenExchange]:
    """Give the server, which nobody knows of yet."""
    exchange = TokenExchange()
    yield exchange
    exchange.server.shutdown()
    exchange.server.server_close()


@pytest.fixture
def exchange(no_keys: pytest.MonkeyPatch, metadata: TokenExchange) -> TokenExchange:
    """Tell of it as Greengrass tells a component."""
    uri = f"http://localhost:{metadata.port}/2016-11-01/credentialprovider/"
    no_keys.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)
    no_keys.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN)
    return metadata


def _load() -> Credentials:
    return load_credentials(botocore.session.Session())


def test_keys_of_the_environment_are_found(aws_environment: pytest.MonkeyPatch):
    """Static keys come first, and have no expiry."""
    assert Credentials("AKIDTEST", "secret", None, None) == _load()


def test_keys_of_a_profile_are_found(no_keys: pytest.MonkeyPatch, tmp_path: Path):
    """A named profile is read from its file."""
    path = tmp_path / "credentials"
    path.write_text("[edge]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = hidden\n")
    no_keys.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    no_keys.setenv("AWS_PROFILE", "edge")
    assert Credentials("AKIDPROFILE", "hidden", None, None) == _load()


def test_command_of_a_profile_is_asked(no_keys: pytest.MonkeyPatch, tmp_path: Path):
    """`credential_process`, as for IAM Roles Anywhere: its credentials end when it says."""
    ends = (datetime.now(UTC) + timedelta(minutes=47)).replace(microsecond=0)
    keys = {"AccessKeyId": "AKIDPROCESS", "SecretAccessKey": "hidden", "SessionToken": "session"}
    (tmp_path / "answer").write_text(json.dumps({"Version": 1, **keys, "Expiration": ends.isoformat()}))
    (tmp_path / "config").write_text(f"[profile edge]\ncredential_process = cat '{tmp_path / 'answer'}'\n")
    no_keys.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    no_keys.setenv("AWS_PROFILE", "edge")
    assert Credentials("AKIDPROCESS", "hidden", "session", ends) == _load()


def test_web_identity_is_exchanged(no_keys: pytest.MonkeyPatch, tmp_path: Path, s3_endpoint: str):
    """A token file and a role give credentials that end."""
    (tmp_path / "token").write_text("a-web-identity-token")
    no_keys.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    no_keys.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/edge")
    no_keys.setenv("AWS_ENDPOINT_URL_STS", s3_endpoint)
    found = _load()
    assert found.token
    assert found.expires_at is not None
    assert timedelta(minutes=10) < found.expires_at - datetime.now(UTC) <= timedelta(hours=1)


def test_instance_metadata_is_asked_last(no_keys: pytest.MonkeyPatch, metadata: TokenExchange):
    """Without anything else, the machine's role counts."""
    no_keys.setenv("AWS_EC2_METADATA_DISABLED", "false")
    no_keys.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{metadata.port}")
    found = _load()
    assert found.access_key_id.startswith("KEY")
    assert found.expires_at is not None


def test_token_exchange_gives_the_true_expiry(exchange: TokenExchange):
    """What the service says is what the store is told, to the second."""
    exchange.lifetime = timedelta(minutes=47)
    found = _load()
    assert found.expires_at is not None
    left = found.expires_at - datetime.now(UTC)
    assert timedelta(minutes=46, seconds=50) < left <= timedelta(minutes=47)


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_refusal_of_the_token_exchange_is_transient(exchange: TokenExchange, status: int):
    """The service keeps a failure for minutes: it is asked again, and no secret is in the text."""
    exchange.status = status
    with pytest.raises(TransientError, match="cannot be had") as caught:
        _load()
    assert TOKEN not in str(caught.value)
    exchange.status = 200
    assert _load().access_key_id.startswith("KEY")


def test_wrong_token_is_transient(exchange: TokenExchange, no_keys: pytest.MonkeyPatch):
    """A token that is refused ends nothing: the service may know it after its restart."""
    no_keys.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "another")
    with pytest.raises(TransientError):
        _load()


def test_late_answer_of_the_token_exchange_is_waited_for_once_more(exchange: TokenExchange):
    """An answer that does not come is asked for again."""
    exchange.is_late.set()
    assert "KEY2" == _load().access_key_id[:4]


def test_unreachable_token_exchange_is_transient(exchange: TokenExchange):
    """So is a service that is not there."""
    exchange.server.shutdown()
    exchange.server.server_close()
    with pytest.raises(TransientError, match="cannot be had"):
        _load()


def test_no_source_at_all_is_told(no_keys: pytest.MonkeyPatch):
    """The text names what was looked for."""
    with pytest.raises(TransientError, match="neither keys, profile"):
        _load()


def test_credentials_show_no_secret():
    """Neither in a log nor in a traceback."""
    assert "hidden" not in repr(Credentials("AKID", "hidden", "hidden", None))


class Source:
    """Hands out credentials that last `lifetime`, or fails."""

    def __init__(self) -> None:
        self.now = START
        self.lifetime: timedelta | None = timedelta(hours=1)
        self.is_down = False
        self.asked = 0
        self.provider = CredentialProvider(self.load, lambda: self.now)

    def load(self) -> Credentials:
        """Hand out the next."""
        self.asked += 1
        if self.is_down:
            raise TransientError("down")
        expires_at = self.now + self.lifetime if self.lifetime else None
        return Credentials(f"KEY{self.asked}", "secret", "token", expires_at)

    def key_after(self, **passed: float) -> str:
        """Let time pass, and ask."""
        self.now += timedelta(**passed)
        return str(self.provider()["access_key_id"])


@pytest.fixture
def source() -> Source:
    """Give a source and the provider before it."""
    return Source()


def test_credentials_are_kept_while_they_are_good(source: Source):
    """Nobody is asked for what is known."""
    assert ["KEY1"] * 4 == [source.key_after(minutes=minutes) for minutes in (0, 1, 20, 28)]
    assert 1 == source.asked
    assert START + timedelta(hours=1) == source.provider()["expires_at"]


def test_credentials_are_renewed_before_they_end(source: Source):
    """Less than ten minutes before the end, newer ones are asked for."""
    source.key_after(minutes=0)
    assert ["KEY1", "KEY2"] == [source.key_after(minutes=49), source.key_after(minutes=2)]


def test_credentials_with_five_minutes_left_are_not_asked_for_on_every_use(source: Source):
    """What the service keeps itself is used for half a minute before it is asked again."""
    source.lifetime = timedelta(minutes=5)
    keys = [source.key_after(seconds=1) for _ in range(29)]
    assert (["KEY1"] * 29, 1) == (keys, source.asked)
    assert "KEY2" == source.key_after(seconds=2)


def test_credentials_outlive_their_source_until_they_end(source: Source, caplog: pytest.LogCaptureFixture):
    """While the source is down, those that are valid go on, with a warning; then every use fails as transient."""
    source.key_after(minutes=0)
    source.is_down = True
    with caplog.at_level(logging.WARNING):
        assert "KEY1" == source.key_after(minutes=59)
    assert "credentials_not_renewed reason=down" in caplog.text
    with pytest.raises(TransientError, match="down"):
        source.key_after(minutes=1)
    source.is_down = False
    assert "KEY4" == source.key_after(seconds=3)


def test_source_that_is_down_is_not_hammered(source: Source):
    """A hundred uses within two seconds are one question."""
    source.is_down = True
    for _ in range(100):
        with pytest.raises(TransientError, match="down"):
            source.key_after(seconds=0.01)
    assert 1 == source.asked


def test_credentials_that_are_over_from_the_start_are_not_given(source: Source):
    """Expired credentials never reach the store."""
    source.lifetime = timedelta(seconds=-1)
    with pytest.raises(TransientError, match="over"):
        source.key_after(seconds=0)


def test_keys_without_expiry_are_looked_at_again(source: Source):
    """Keys in a file may be exchanged: they are read again after some minutes."""
    source.lifetime = None
    assert ["KEY1", "KEY1", "KEY2"] == [source.key_after(minutes=minutes) for minutes in (0, 4, 2)]


def test_clock_that_was_set_back_does_not_stop_renewal(source: Source):
    """A question that lies in the future counts for nothing."""
    source.lifetime = timedelta(minutes=5)
    source.key_after(minutes=0)
    assert "KEY2" == source.key_after(seconds=-10)


def test_expired_credentials_are_transient_and_refreshed(
    exchange: TokenExchange, fault_proxy: FaultProxy, bucket: str, until: Callable[..., Any]
):
    """An upload after the end of the credentials is signed with the next ones."""
    settings = DeliverySettings(store_url=f"s3://{bucket}", endpoint=fault_proxy.url)
    exchange.lifetime = timedelta(hours=1)
    store = build_store(settings)
    for number in range(10):
        obstore.put(store, f"first-{number}", b"x")
    assert 1 == exchange.asked
    fault_proxy.requests.clear()
    exchange.lifetime = timedelta(seconds=4)
    store = build_store(settings)
    obstore.put(store, "first", b"x")
    exchange.lifetime = timedelta(hours=1)

    def _second() -> str:
        obstore.put(store, "second", b"x")
        return fault_proxy.requests[-1].headers["authorization"].split("Credential=")[1].split("/")[0]

    first = fault_proxy.requests[0].headers["authorization"].split("Credential=")[1].split("/")[0]
    until(lambda: _second() != first)
    assert fault_proxy.requests[-1].headers["x-amz-security-token"] == "session"
