"""`dicomflow doctor` on set-ups that are healthy and on others that are broken, each in its own way."""

import contextlib
import errno
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import boto3
import pytest
from obstore.store import S3Store

from dicomflow.doctor import machine
from dicomflow.doctor.findings import Check, Problem, State, run_checks
from dicomflow.healthimaging.client import build_client, create_datastore
from dicomflow.healthimaging.simulator import SimulatorSettings, create_app, serve
from dicomflow.pipeline.handlers import QUEUES

WRONG = {"failed", "warning"}


def _states(findings: dict[str, Any], *wanted: str) -> dict[str, str]:
    return {name: each["state"] for name, each in findings.items() if not wanted or each["state"] in wanted}


def test_edge_that_is_healthy_exits_0(doctor: Any, edge_toml: Any, certificate: Any, tmp_path: Path):
    """Every part of an edge with TLS is looked at, everything is well, and nothing is left behind."""
    paths = certificate(365)
    tls = f'[dimse.tls]\nport = 0\ncertificate = "{paths[0]}"\nkey = "{paths[1]}"'
    code, findings = doctor("--config", edge_toml(tls))
    assert {} == _states(findings, "failed"), findings
    assert 0 == code
    assert {
        "spool folder",
        "spool owner",
        "spool space",
        "spool journal",
        "spool sync",
        "DIMSE port",
        "HTTP port",
        "TLS port",
        "TLS certificate",
        "store",
        "DIMSE self-test",
    } == findings.keys()
    assert "C-ECHO and C-STORE are answered 0000" in findings["DIMSE self-test"]["text"]
    assert [] == [path for path in tmp_path.rglob("*") if "doctor" in path.name or "probe" in path.name]
    assert [] == [path for path in tmp_path.rglob("*") if path.is_dir() and path.name in {"spool", "objects"}]


def test_local_that_is_not_there_yet_stays_so(doctor: Any, tmp_path: Path):
    """Folders would be made in the name of whoever asks, who may be another user than the program's."""
    code, findings = doctor("--quick", "--data", tmp_path / "new" / "data", "--port", 0, "--http-port", 0)
    assert (0, {}) == (code, _states(findings, "failed")), findings
    assert "for its owner alone" in findings["data folder"]["text"]
    assert not (tmp_path / "new").exists()


def test_local_that_others_can_read_is_warned_of(doctor: Any, tmp_path: Path):
    """What lies open is named, and how it is closed."""
    for name in ("", "objects", "spool"):
        (tmp_path / "data" / name).mkdir(mode=0o755)
    found = doctor("--quick", "--data", tmp_path / "data", "--port", 0, "--http-port", 0)[1]["data folder"]
    assert "warning" == found["state"]
    assert str(tmp_path / "data" / "objects") in found["text"]
    assert f"chmod -R go= {tmp_path / 'data'}" in found["advice"]


def test_local_that_runs_is_recognised_by_its_ports(doctor: Any, local_daemon: Any):
    """Ports that are taken by what is looked at are no problem."""
    ports = ("--port", local_daemon.port, "--http-port", _http_port(local_daemon))
    code, findings = doctor("--quick", "--data", local_daemon.data, *ports)
    assert (0, {}) == (code, _states(findings, "failed")), findings
    assert "in use by dicomflow: C-ECHO is answered 0000" in findings["DIMSE port"]["text"]
    assert "in use by dicomflow: it is healthy" in findings["HTTP port"]["text"]
    assert "schema" in findings["catalog"]["text"]


def _http_port(local_daemon: Any) -> int:
    line = next(line for line in local_daemon.log.read_text().splitlines() if line.startswith("ready: "))
    port: int = json.loads(line[line.index("{") :])["http_port"]
    return port


def test_port_that_another_program_has_fails(doctor: Any, edge_toml: Any):
    """What has the port is no DICOM receiver, and the advice says how to find it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, findings = doctor("--quick", "--config", edge_toml(dimse=f'bind = "127.0.0.1"\nport = {port}'))
    assert (1, {"DIMSE port": "failed"}) == (code, _states(findings, "failed"))
    assert f"ss -ltnp | grep :{port}" in findings["DIMSE port"]["advice"]


def test_edge_that_turns_this_machine_away_is_a_warning(doctor: Any, edge_toml: Any, certificate: Any):
    """Outside `networks` nobody is answered, so that it cannot be told whose port it is."""
    paths = certificate(365)
    with socket.create_server(("127.0.0.1", 0)) as plain, socket.create_server(("127.0.0.1", 0)) as secured:
        for listener in (plain, secured):
            threading.Thread(target=_close_each, args=(listener,), daemon=True).start()
        tls = f'port = {secured.getsockname()[1]}\ncertificate = "{paths[0]}"\nkey = "{paths[1]}"'
        dimse = f'bind = "127.0.0.1"\nport = {plain.getsockname()[1]}\nnetworks = ["192.0.2.0/24"]'
        code, findings = doctor("--quick", "--config", edge_toml(f"[dimse.tls]\n{tls}", dimse=dimse))
        for listener in (plain, secured):
            listener.shutdown(socket.SHUT_RDWR)
    assert (0, {"DIMSE port": "warning", "TLS port": "warning"}) == (code, _states(findings, *WRONG)), findings
    assert "closes connections from 127.0.0.1" in findings["DIMSE port"]["text"]


def _close_each(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_line_that_is_no_user_is_a_warning(doctor: Any, edge_toml: Any, tmp_path: Path):
    """The edge leaves it out and goes on, and its device is rejected."""
    users = tmp_path / "users"
    users.write_text("mr1 forgotten-colon\n")
    found = doctor("--quick", "--config", edge_toml(dimse=f'port = 0\nusers_file = "{users}"'))[1]["users"]
    assert ("warning", True) == (found["state"], "1 lines are not name:salt:hash" in found["text"])


def test_spool_that_cannot_be_made_fails_once(doctor: Any, edge_toml: Any, tmp_path: Path):
    """One finding says it; what needs the folder is passed over."""
    (tmp_path / "file").write_text("")
    code, findings = doctor("--config", edge_toml(spool=f'dir = "{tmp_path / "file" / "spool"}"'))
    assert (1, {"spool folder": "failed"}) == (code, _states(findings, "failed"))
    assert {"spool owner", "spool space", "spool journal", "spool sync", "DIMSE self-test"} == _states(
        findings, "skipped"
    ).keys()


def test_store_folder_that_is_away_is_told_with_what_to_do(doctor: Any, edge_toml: Any, tmp_path: Path):
    """A file in the folder's place: it is not S3's rights that are missing."""
    (tmp_path / "away").write_text("in the folder's place")
    code, findings = doctor("--config", edge_toml(delivery=f'store_url = "{(tmp_path / "away").as_uri()}"'), "--quick")
    assert (1, True) == (code, findings["store"]["advice"].startswith("mount what the folder lies on"))


def test_full_volume_is_told_as_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever finds no room, the advice is not about rights."""

    def _full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", _full)
    checks = [Check("folder", lambda: machine.check_folder(tmp_path), "rights"), Check("other", _full, "rights")]
    assert ["free space on the volume"] * 2 == [each.advice for each in run_checks(checks)]


def test_store_that_nobody_answers_for_is_told_as_the_line():
    """A store that cannot be reached says nothing of rights."""
    store = S3Store("bucket", endpoint="http://127.0.0.1:1", region="x", access_key_id="x", secret_access_key="y",
                    client_options={"allow_http": True}, retry_config={"max_retries": 0})  # fmt: skip
    with pytest.raises(Problem) as caught:
        machine.check_store(store, "k", "rights")
    assert caught.value.advice.startswith("nobody answers there")


def test_small_sizes_are_told_in_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Watermarks of a small volume are no 0.0 GB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    with pytest.raises(Problem, match=r"4 MB free, below refuse_below_bytes \(8 MB\)"):
        machine.check_space(tmp_path, 20_000_000, 8_000_000)


def test_volume_that_is_nearly_full_fails_the_self_test_too(doctor: Any, edge_toml: Any, tmp_path: Path):
    """Below the watermark an edge with these settings refuses images, and both findings say so."""
    huge = f"slow_below_bytes = {1 << 60}\nrefuse_below_bytes = {1 << 60}"
    code, findings = doctor("--config", edge_toml(spool=f'dir = "{tmp_path / "spool"}"\n{huge}'))
    assert (1, {"spool space", "DIMSE self-test"}) == (code, _states(findings, "failed").keys())
    assert "images are refused" in findings["spool space"]["text"]


@pytest.mark.parametrize(("days", "state"), [(-1, "failed"), (5, "warning")])
def test_certificate_that_ends_is_told(doctor: Any, edge_toml: Any, certificate: Any, days: float, state: str):
    """One that is over fails, one that is nearly over is a warning."""
    paths = certificate(days)
    tls = f'[dimse.tls]\nport = 0\ncertificate = "{paths[0]}"\nkey = "{paths[1]}"'
    code, findings = doctor("--quick", "--config", edge_toml(tls))
    assert (int(state == "failed"), state) == (code, findings["TLS certificate"]["state"])


def test_key_of_another_certificate_fails(doctor: Any, edge_toml: Any, certificate: Any, tmp_path: Path):
    """Files that do not belong together are found before a device finds out."""
    paths = certificate(365)
    (tmp_path / "old.pem").write_bytes(paths[0].read_bytes())
    certificate(365)
    tls = f'[dimse.tls]\nport = 0\ncertificate = "{tmp_path / "old.pem"}"\nkey = "{paths[1]}"'
    code, findings = doctor("--quick", "--config", edge_toml(tls))
    assert (1, "failed") == (code, findings["TLS certificate"]["state"])


def test_bucket_is_tried_with_the_key(
    doctor: Any, edge_toml: Any, s3_endpoint: str, bucket: str, aws_environment: Any, s3_client: Any
):
    """A bucket that is there takes an object, with the KMS key too, and keeps none."""
    delivery = f'store_url = "s3://{bucket}"\nendpoint = "{s3_endpoint}"\nkms_key_id = "alias/images"'
    code, findings = doctor("--quick", "--config", edge_toml(delivery=delivery))
    assert (0, {}) == (code, _states(findings, "failed")), findings
    assert {"store", "KMS key", "clock"} < findings.keys()
    assert "got it back, deleted it" in findings["store"]["text"]
    assert 0 == s3_client.list_objects_v2(Bucket=bucket)["KeyCount"]


def test_bucket_that_is_missing_fails(doctor: Any, edge_toml: Any, s3_endpoint: str, aws_environment: Any):
    """S3's answer is shown with what to do."""
    delivery = f'store_url = "s3://no-such-bucket-{uuid4().hex}"\nendpoint = "{s3_endpoint}"'
    code, findings = doctor("--quick", "--config", edge_toml(delivery=delivery))
    assert (1, {"store": "failed"}) == (code, _states(findings, "failed"))
    assert "NoSuchBucket" in findings["store"]["text"]
    assert "skipped" == findings["clock"]["state"]


@pytest.fixture
def worker_environment(
    s3_endpoint: str, bucket: str, aws_environment: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[pytest.MonkeyPatch]:
    """Set the environment of a worker: a catalog, a bucket, queues with dead letters, and HealthImaging."""
    from dicomflow import cli

    build_client.cache_clear()
    aws_environment.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    sqs = boto3.client("sqs")
    dead = sqs.create_queue(QueueName=f"dead-{uuid4().hex}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "5"})
    for name in QUEUES:
        url = sqs.create_queue(QueueName=f"{name}-{uuid4().hex}", Attributes={"RedrivePolicy": policy})["QueueUrl"]
        aws_environment.setenv(f"DICOMFLOW_QUEUES__{name.upper()}", url)
    server = serve(create_app(SimulatorSettings(state_path=tmp_path / "simulator.db"), {}, lambda _event: None))
    aws_environment.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", server.url)
    datastore = create_datastore(build_client(), "images", "images")
    aws_environment.setenv("DICOMFLOW_DATABASE_URL", f"sqlite:///{tmp_path / 'catalog.db'}")
    aws_environment.setenv("DICOMFLOW_STORE_URL", f"s3://{bucket}")
    aws_environment.setenv("DICOMFLOW_IMPORTS__DATASTORE_ID", datastore.datastore_id)
    aws_environment.setenv("DICOMFLOW_IMPORTS__DATA_ACCESS_ROLE_ARN", "arn:aws:iam::123456789012:role/import")
    assert 0 == cli.run(["migrate"])
    yield aws_environment
    server.close()


def test_worker_that_is_healthy_exits_0(doctor: Any, worker_environment: Any, capsys: pytest.CaptureFixture[str]):
    """Database, bucket, clock, queues and HealthImaging are looked at; a quota that cannot be asked is no failure."""
    capsys.readouterr()
    code, findings = doctor("--worker")
    assert (0, {}) == (code, _states(findings, "failed")), findings
    assert {
        "database",
        "store",
        "clock",
        "HealthImaging",
        "HealthImaging jobs",
        "HealthImaging quota",
    } < findings.keys()
    assert {"ok"} == {findings[f"queue {name}"]["state"] for name in QUEUES}
    assert "is ACTIVE" in findings["HealthImaging"]["text"]


def test_worker_that_is_broken_says_each_cause(
    doctor: Any, worker_environment: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """A database without a schema, a missing queue, a missing bucket and an unknown data store are four findings."""
    capsys.readouterr()
    worker_environment.setenv("DICOMFLOW_DATABASE_URL", f"sqlite:///{tmp_path / 'other.db'}")
    worker_environment.setenv("DICOMFLOW_QUEUES__INDEX", "http://127.0.0.1:9/none")
    worker_environment.delenv("DICOMFLOW_QUEUES__PLAN")
    worker_environment.setenv("DICOMFLOW_STORE_URL", "s3://no-such-bucket")
    worker_environment.setenv("DICOMFLOW_IMPORTS__DATASTORE_ID", "0" * 32)
    code, findings = doctor("--worker")
    assert 1 == code
    assert {"database", "store", "queue index", "HealthImaging", "HealthImaging jobs"} == _states(
        findings, "failed"
    ).keys()
    assert "skipped" == findings["queue plan"]["state"]
    assert "dicomflow migrate" in findings["database"]["text"]


def test_database_that_is_away_is_told_with_what_to_do(doctor: Any, worker_environment: Any, capsys: Any):
    """Where nothing listens the finding names the host, and no password."""
    capsys.readouterr()
    worker_environment.setenv("DICOMFLOW_DATABASE_URL", "postgresql://me:secret@127.0.0.1:9/images")
    code, findings = doctor("--worker")
    assert (1, "failed") == (code, findings["database"]["state"])
    assert findings["database"]["text"].startswith("127.0.0.1 cannot be used: ")
    assert "secret" not in json.dumps(findings)


@pytest.mark.parametrize(
    ("seconds", "advice"), [(0.1, "put the spool on an SSD"), (0.000001, "this is memory"), (0.002, "")]
)
def test_check_sync_judges_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, advice: str
):
    """A slow disk and one that cannot be true are warnings."""
    ticks = iter(range(1000))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks) * seconds)
    (finding,) = run_checks([Check("sync", lambda: machine.check_sync(tmp_path), "look")])
    assert bool(advice) == (finding.state is State.WARNING)
    assert advice in finding.advice + finding.text
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("is_missing", [True, False])
def test_check_journal_warns_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_missing: bool):
    """A spool is still good for what needs no power loss survived, so it is no failure."""
    monkeypatch.setattr(machine, "lacks_journal", lambda _: is_missing)
    (finding,) = run_checks([Check("journal", lambda: machine.check_journal(tmp_path), "look")])
    assert is_missing == (finding.state is State.WARNING)
    assert is_missing == ("tune2fs" in finding.advice)


def test_check_that_breaks_stops_no_other():
    """Whatever a check raises is a finding, and the next one runs."""

    def broken() -> str:
        raise ZeroDivisionError("by nothing")

    def refused() -> str:
        raise Problem("no", "do this")

    found = list(run_checks([Check("a", broken, "see"), Check("b", refused, "see"), Check("c", lambda: "well", "see")]))
    assert [State.FAILED, State.FAILED, State.OK] == [each.state for each in found]
    assert ["see", "do this", ""] == [each.advice for each in found]


def test_doctor_of_two_set_ups_is_called_wrongly(capsys: pytest.CaptureFixture[str]):
    """One of the three set-ups is named at most."""
    from dicomflow import cli

    assert 2 == cli.run(["doctor", "--worker", "--data", "x"])


def test_output_for_people_says_what_to_do(edge_toml: Callable[..., Path], capsys: pytest.CaptureFixture[str]):
    """Each line has its state, and what is wrong is followed by what to do."""
    from dicomflow import cli

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert 1 == cli.run(
            ["doctor", "--quick", "--config", str(edge_toml(dimse=f'bind = "127.0.0.1"\nport = {port}'))]
        )
    lines = capsys.readouterr().out.splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith("failed "))
    assert "DIMSE port" in lines[number]
    assert lines[number + 1].strip().startswith("do: find what has it")
    assert " 1 failed" in lines[-1]
