"""A command line to call, and a catalog with one study in it."""

import logging
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import Engine

from dicomflow import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in ("DICOMFLOW_DATABASE_URL", "DICOMFLOW_STORE_URL", "DICOMFLOW_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], restore_logging: None) -> Iterator[Run]:
    """Call the command line in this process; give its exit code, output and error output.

    Some commands change the process's umask, which is for this test alone.
    """
    before = os.umask(0)
    os.umask(before)

    def _run(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield _run
    os.umask(before)


@pytest.fixture
def data(tmp_path: Path, _sqlite_template: Engine) -> Path:
    """Give a data folder with an empty catalog, as `dicomflow migrate` makes it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copy(str(_sqlite_template.url.database), folder / "catalog.db")
    (folder / "catalog.db").chmod(0o600)
    return folder


@pytest.fixture
def served_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve AWS as it is before anything is made there, and be somebody."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", b"", timeout=10):  # all servers share a memory
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    yield
    server.stop()


@pytest.fixture
def iot(served_aws: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve STS and IoT with what the stack `hospital` makes for its edge ct."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    client = boto3.client("iot", region_name="eu-west-1")
    client.create_policy(policyName="hospital-ct-GG-Thing", policyDocument="{}")
    client.create_thing_group(thingGroupName="hospital-IEP-devices")
    return client
