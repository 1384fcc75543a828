"""`dicomflow simulator`: a client needs nothing but its address."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start simulators on one state; give a client of each."""
    running: list[subprocess.Popen[str]] = []

    def _start(*options: str) -> Any:
        command = [sys.executable, "-m", "dicomflow", "simulator", "--data", str(tmp_path / "state"), "--port", "0"]
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env={**os.environ})
        running.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        return boto3.client(
            "medical-imaging",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(inject_host_prefix=False),
        )

    yield _start
    for process in running:
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(120)
        assert process.stdout is not None
        process.stdout.close()


def test_simulator_serves_a_client_and_keeps_its_state(start: Callable[..., Any], tmp_path: Path):
    """A data store made by one run is there in the next."""
    created = start("--bucket", f"images={tmp_path}").create_datastore(datastoreName="store", clientToken="token")
    found = start("--set", "submit_seconds=0.5").list_datastores()["datastoreSummaries"]
    assert [created["datastoreId"]] == [item["datastoreId"] for item in found]


@pytest.mark.parametrize("value", ["no_such=1", "submit_seconds=soon", "list_order=oldest", "submit_seconds"])
def test_switch_that_does_not_exist_is_a_wrong_call(run: Run, tmp_path: Path, value: str):
    """A misspelt switch, a value that is none, and half a switch are refused before anything starts."""
    code, _, errors = run("simulator", "--data", tmp_path, "--set", value)
    assert 2 == code
    assert "--set" in errors
