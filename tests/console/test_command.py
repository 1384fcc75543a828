"""`dicomflow console` as a process: what it refuses to serve, and that it serves and ends; `dicomflow local` has it."""

import json
import re
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hospital import Hospital
from waiting import WAIT_SECONDS, wait_for

from dicomflow import cli, samples
from dicomflow.passcodes import hash_passcode
from dicomflow.send.association import SendAssociation
from dicomflow.send.files import read_stored_file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bind", "0.0.0.0"], "give --users-file or --trusted-proxy"),
        (["--bind", "0.0.0.0", "--users-file", "USERS"], "give --certificate and --key, or --plain-http"),
        (["--certificate", "x.pem"], "--certificate and --key go together"),
        (["--bind", "::", "--trusted-proxy", "10.0.0.0/33"], "10.0.0.0/33"),
        (["--edge-metrics", "edge=file:///etc/passwd"], "is not NAME=http://HOST:PORT/metrics"),
        (["--users-file", "nowhere"], "--users-file nowhere cannot be read"),
        (["--users-file", "MALFORMED"], "names nobody: no line of it is name:salt:hash"),
    ],
)
@pytest.mark.usefixtures("restore_logging")
def test_console_refuses_what_would_show_patients_to_strangers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
):
    """Other machines need a login and encryption; each mistake is told in a line."""
    (tmp_path / "users").write_text(hash_passcode("ines", "x") + "\n")
    (tmp_path / "malformed").write_text("ines:secret\n")
    places = {"USERS": str(tmp_path / "users"), "MALFORMED": str(tmp_path / "malformed")}
    code = cli.run(["console", "--data", str(tmp_path), *(places.get(each, each) for each in arguments)])
    error = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert code in {1, 2}
    assert told in error


def test_console_serves_until_it_is_told_to_end(new_hospital: Callable[..., Hospital]):
    """It prints its address, answers on it, and ends with 0 on SIGTERM."""
    folder = Path(str(new_hospital().engine.url.database)).parent
    command = [sys.executable, "-m", "dicomflow", "console", "--data", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{url}edges.json", timeout=WAIT_SECONDS) as answer:
                assert ["harbour", "hill", "lake"] == [each["name"] for each in json.load(answer)["edges"]]
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(WAIT_SECONDS)
        finally:
            process.kill()


def test_local_shows_in_its_console_what_was_sent(local_daemon: Any, tmp_path: Path):
    """What a modality sends to `dicomflow local` is in the pages of its HTTP port, image and all."""
    paths = samples.write(samples.ct_study(3, series=1, slices=2), tmp_path / "files")
    files = [read_stored_file(path) for path in paths]
    pairs = list({(each.meta.sop_class_uid, each.meta.transfer_syntax_uid) for each in files})
    with SendAssociation(
        "127.0.0.1",
        local_daemon.port,
        pairs,
        calling_ae_title="CT_EAST",
        called_ae_title="ANY",
        timeout_seconds=WAIT_SECONDS,
    ) as association:
        assert {0} == {association.store(each).status for each in files}
    local_daemon.wait_until_mapped(each.meta.sop_instance_uid for each in files)
    with httpx.Client(base_url=_console_of(local_daemon), timeout=WAIT_SECONDS) as client:
        (study,) = client.get("/studies.json", params={"name": "demo"}).json()["studies"]
        assert 2 == study["instance_count"]
        frame = client.get(f"/instances/{files[0].meta.sop_instance_uid}/frames/0.png")
        assert (200, "image/png") == (frame.status_code, frame.headers["content-type"])
        (local,) = client.get("/associations.json").json()["counters"]
        assert {"CT_EAST": 2} == local["instances"]
        edges = wait_for(lambda: client.get("/edges.json").json()["edges"], explain=lambda: "no heartbeat")
        assert [("local", False)] == [(each["name"], each["is_silent"]) for each in edges]


def _console_of(daemon: Any) -> str:
    found = re.search(r"console (http://\S+)", daemon.log.read_text())
    assert found is not None
    return found[1]


def test_console_serves_over_tls(new_hospital: Callable[..., Hospital], tls_files: tuple[Path, Path], tmp_path: Path):
    """With a certificate it speaks TLS, and asks who it is."""
    certificate, key = tls_files
    users = tmp_path / "users"
    users.write_text(hash_passcode("ines", "four plain words here") + "\n")
    folder = Path(str(new_hospital().engine.url.database)).parent
    command = [
        sys.executable,
        "-m",
        "dicomflow",
        "console",
        "--data",
        str(folder),
        "--port",
        "0",
        "--bind",
        "127.0.0.1",
    ]
    command += ["--certificate", str(certificate), "--key", str(key), "--users-file", str(users)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            assert url.startswith("https://")
            trusted = ssl.create_default_context(cafile=str(certificate))
            with httpx.Client(base_url=url, verify=trusted, timeout=WAIT_SECONDS) as client:
                answer = client.get("/studies")
                assert (303, "/login?next=%2Fstudies") == (answer.status_code, answer.headers["location"])
                assert "secure" in client.get("/login").headers["set-cookie"].lower()
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)
