"""Credentials for a device's certificate: asked over TLS that demands it, renewed in time, refused in words."""

import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
from certificates import Authority
from fault_proxy import FaultProxy

from dicomflow.edge.credentials import CredentialProvider
from dicomflow.edge.devicecredentials import load_device_credentials
from dicomflow.edge.settings import DeliverySettings, DeviceCredentials
from dicomflow.edge.stores import build_store
from dicomflow.errors import PermanentError, TransientError


class CredentialsEndpoint:
    """A stand-in of AWS IoT's: it speaks to nobody without a certificate of its authority."""

    def __init__(self, folder: Path) -> None:
        (folder / "of-aws").mkdir(parents=True)
        (folder / "of-devices").mkdir()
        self.authority, self.devices = Authority(folder / "of-aws"), Authority(folder / "of-devices")
        self.asked: list[tuple[str, str | None]] = []
        self.status, self.body = 200, b""
        self.lifetime = timedelta(hours=1)
        endpoint = self

        class _Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked.append((self.path, self.headers["x-amzn-iot-thingname"]))
                content = endpoint.body or json.dumps(endpoint.document()).encode()
                self.send_response(endpoint.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        identity = self.authority.issue("localhost")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.devices.certificate)
        context.load_cert_chain(identity.certificate, identity.key)
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = serve(_Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def document(self) -> dict[str, dict[str, str]]:
        """Return what it gives; each answer has a key of its own."""
        ends = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"accessKeyId": f"KEY{len(self.asked)}", "secretAccessKey": "hidden", "sessionToken": "session"}
        return {"credentials": keys | {"expiration": ends}}

    def settings(self, **changes: Any) -> DeviceCredentials:
        """Return the settings of a device that it knows."""
        identity = self.devices.issue("device")
        given = {
            "endpoint": f"localhost:{self.server.server_address[1]}",
            "role_alias": "iep-edge-1-GG-Role-Alias",
            "thing": "iep-edge-1",
            "certificate": identity.certificate,
            "key": identity.key,
            "ca_certificate": self.authority.certificate,
        }
        return DeviceCredentials(**given | changes)


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """Serve on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CredentialsEndpoint]:
    """Give the endpoint, and no proxy of this machine's."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    found = CredentialsEndpoint(tmp_path / "endpoint")
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def tunnels() -> Iterator[tuple[str, list[str]]]:
    """Give a proxy that lets TLS through as it is, and the hosts it was asked for."""
    asked: list[str] = []

    class _Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as other:
                self.send_response(200)
                self.end_headers()
                ends = {self.connection: other, other: self.connection}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        content = end.recv(1 << 16)
                        if not content:
                            return
                        ends[end].sendall(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = serve(_Proxy)
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_certificate_gives_credentials_with_their_true_expiry(endpoint: CredentialsEndpoint):
    """The role alias is asked for in the thing's name, as AWS IoT wants it."""
    endpoint.lifetime = timedelta(minutes=47)
    found = load_device_credentials(endpoint.settings(), None, None)
    assert ("KEY1", "hidden", "session") == (found.access_key_id, found.secret_access_key, found.token)
    assert found.expires_at is not None
    assert timedelta(minutes=46) < found.expires_at - datetime.now(UTC) <= timedelta(minutes=47)
    assert [("/role-aliases/iep-edge-1-GG-Role-Alias/credentials", "iep-edge-1")] == endpoint.asked


def test_credentials_are_renewed_before_they_end(endpoint: CredentialsEndpoint):
    """An hour's credentials are used for fifty minutes, and then others are asked for."""
    now = datetime.now(UTC)
    provider = CredentialProvider(partial(load_device_credentials, endpoint.settings(), None, None), lambda: now)
    keys = []
    for minutes in (0, 45, 55):
        now = datetime.now(UTC) + timedelta(minutes=minutes)
        keys.append(provider()["access_key_id"])
    assert ["KEY1", "KEY1", "KEY2"] == keys


def test_certificate_of_another_account_is_refused(endpoint: CredentialsEndpoint, tmp_path: Path):
    """TLS itself refuses a stranger, and the text says what to look at."""
    stranger = Authority(tmp_path).issue("stranger")
    settings = endpoint.settings(certificate=stranger.certificate, key=stranger.key)
    with pytest.raises(TransientError, match="no AWS credentials from localhost"):
        load_device_credentials(settings, None, None)
    assert [] == endpoint.asked


def test_proxy_that_opens_tls_is_told(endpoint: CredentialsEndpoint, tmp_path: Path):
    """A certificate that is not AWS's is not trusted."""
    other = Authority(tmp_path).certificate
    with pytest.raises(TransientError, match=r"is not trusted .* does a proxy open TLS on the way"):
        load_device_credentials(endpoint.settings(ca_certificate=other), None, None)


@pytest.mark.parametrize(
    ("status", "advice"),
    [(403, "iot:AssumeRoleWithCertificate"), (404, "no such role alias"), (500, "HTTP 500; it is asked again")],
)
def test_refusal_says_what_to_look_at(endpoint: CredentialsEndpoint, status: int, advice: str):
    """Thing and alias are named, and a refusal may be over later."""
    endpoint.status = status
    with pytest.raises(TransientError, match=advice) as caught:
        load_device_credentials(endpoint.settings(), None, None)
    assert "the thing iep-edge-1 with the role alias iep-edge-1-GG-Role-Alias" in str(caught.value)


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"credentials": 5}', b'{"credentials": {"expiration": "x"}}'])
def test_answer_that_holds_no_credentials_is_refused(endpoint: CredentialsEndpoint, body: bytes):
    """Another service answers there, or a proxy in its place."""
    endpoint.body = body
    with pytest.raises(TransientError, match="gave no credentials"):
        load_device_credentials(endpoint.settings(), None, None)


def test_endpoint_that_is_away_is_transient(endpoint: CredentialsEndpoint):
    """So is one that does not answer."""
    settings = endpoint.settings(endpoint="localhost:1")
    with pytest.raises(TransientError, match=r"no AWS credentials from localhost:1: .*refused"):
        load_device_credentials(settings, None, None)


def test_proxy_is_asked_for_the_endpoint(
    endpoint: CredentialsEndpoint, tunnels: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
):
    """The delivery's proxy is used, or the environment's, but not for a host that is excluded."""
    settings, (proxy, asked) = endpoint.settings(), tunnels
    load_device_credentials(settings, proxy, None)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    load_device_credentials(settings, None, None)
    assert [settings.endpoint] * 2 == asked
    load_device_credentials(settings, proxy, "example.org,localhost")
    monkeypatch.setenv("NO_PROXY", "localhost")
    load_device_credentials(settings, None, None)
    assert (2, 4) == (len(asked), len(endpoint.asked))


@pytest.mark.parametrize("name", ["certificate", "key", "ca_certificate"])
def test_file_that_is_not_there_stops_the_start(endpoint: CredentialsEndpoint, tmp_path: Path, name: str):
    """The setting is named; while the edge runs, it is a failure that may be over later."""
    settings = endpoint.settings(**{name: tmp_path / "none.pem"})
    with pytest.raises(PermanentError, match=rf"cannot read delivery\.credentials\.{name} "):
        build_store(DeliverySettings(store_url="s3://bucket", credentials=settings))
    with pytest.raises(TransientError, match=rf"cannot read delivery\.credentials\.{name} "):
        load_device_credentials(settings, None, None)


def test_key_of_another_certificate_stops_the_start(endpoint: CredentialsEndpoint, tmp_path: Path):
    """Before anybody is asked."""
    settings = endpoint.settings(key=Authority(tmp_path).issue("other").key)
    with pytest.raises(PermanentError, match="do not belong together"):
        build_store(DeliverySettings(store_url="s3://bucket", credentials=settings))


def test_delivery_is_signed_with_what_the_certificate_gave(
    endpoint: CredentialsEndpoint, aws_environment: pytest.MonkeyPatch, fault_proxy: FaultProxy, bucket: str
):
    """No key of the machine's is used beside."""
    settings = DeliverySettings(store_url=f"s3://{bucket}", endpoint=fault_proxy.url, credentials=endpoint.settings())
    obstore.put(build_store(settings), "k", b"x")
    headers = fault_proxy.requests[-1].headers
    assert "Credential=KEY1/" in headers["authorization"]
    assert "session" == headers["x-amz-security-token"]
