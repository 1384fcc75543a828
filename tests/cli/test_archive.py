"""`dicomflow archive`, as a process: what it serves, to whom, and what it refuses to begin."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from archived import a_study, fill
from dicomweb_client import DICOMwebClient
from dimse_archive import find
from obstore.store import LocalStore
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyRootMove
from typer.testing import CliRunner
from waiting import WAIT_SECONDS

from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.cli import run
from dicomflow.network.settings import ArchiveSettings
from dicomflow.passcodes import hash_passcode

EDGE = """
[archive.peers.READER]
query = true
retrieve = true

[destinations.NODE]
host = "127.0.0.1"
port = 1
ae_title = "NODE"

[archive.users.eve]
retrieve = true
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give a data folder with one study."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "edge.toml").write_text(EDGE)
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    fill(engine, LocalStore(folder / "objects", mkdir=True), a_study(1, ("CT", 2)))
    engine.dispose()
    return folder


def started(data: Path, *options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start it on free ports; return the process and its addresses."""
    command = [sys.executable, "-m", "dicomflow", "archive", "--data", str(data), "--port", "0", "--http-port", "0"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready: "), line
    return process, json.loads(line[line.index("{") :])


def test_archive_answers_a_researcher_and_a_workstation(data: Path):
    """dicomweb-client and C-FIND see the study, each query is in the trail, and SIGTERM ends it well."""
    process, addresses = started(data)
    try:
        client = DICOMwebClient(f"http://127.0.0.1:{addresses['http_port']}/dicomweb")
        (study,) = client.search_for_studies(search_filters={"PatientID": "P1"}, fuzzymatching=True)
        uid = study["0020000D"]["Value"][0]
        assert 1 == len(client.search_for_series(uid))
        assert 2 == len(client.search_for_instances(uid, fields=["Rows"]))
        answers, statuses, _ = find(addresses["dimse_port"], {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
        assert ([uid], [0xFF00, 0]) == ([each.StudyInstanceUID for each in answers], statuses)
        # A node of the settings is known, though away; any other is not.
        assert [0xA702, 0xA801] == [_move(addresses["dimse_port"], uid, each) for each in ("NODE", "OTHER")]
    finally:
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(WAIT_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
    engine = create_engine_for(f"sqlite:///{data / 'catalog.db'}")
    with engine.connect() as connection:
        actors = [
            row[0] for row in connection.exec_driver_sql("SELECT actor FROM audit_event WHERE action = 'archive_query'")
        ]
    engine.dispose()
    assert ["dimse:READER", "web:local", "web:local", "web:local"] == sorted(actors)


def test_archive_for_others_asks_who_they_are(data: Path, tmp_path: Path):
    """With a file of users a stranger is asked, and a user has the rights that the settings give."""
    users = tmp_path / "users"
    users.write_text(hash_passcode("eve", "secret") + "\n" + hash_passcode("ada", "secret") + "\n")
    process, addresses = started(data, "--bind", "0.0.0.0", "--users-file", str(users), "--plain-http")
    try:
        url = f"http://127.0.0.1:{addresses['http_port']}/dicomweb/studies"
        answers = [
            httpx.get(url, auth=auth).status_code for auth in (None, ("eve", "x"), ("eve", "secret"), ("ada", "secret"))
        ]
        assert [401, 401, 403, 403] == answers
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bind", "0.0.0.0"], "reached from other machines"),
        (["--bind", "0.0.0.0", "--users-file", "x"], "--certificate and --key"),
        (["--certificate", "x"], "go together"),
    ],
)
def test_archive_shows_nothing_to_other_machines_unasked(data: Path, options: list[str], said: str):
    """Without a login, or without TLS, it does not begin."""
    result = CliRunner().invoke(_command(), ["--data", str(data), *options])
    assert 2 == result.exit_code
    assert said in result.output


@pytest.mark.parametrize(
    "text", ["[archiv]\n", "[archive.peers.A]\nquerry = true\n", "[archive.tokens]\nissuer = 'x'\n"]
)
def test_settings_that_say_nothing_are_refused(data: Path, text: str, capsys: pytest.CaptureFixture[str]):
    """A section or a key that nobody knows is a mistake to be told at once."""
    (data / "edge.toml").write_text(text)
    assert 1 == run(["archive", "--data", str(data), "--port", "0", "--http-port", "0"])
    assert "edge.toml" in capsys.readouterr().err


def test_peers_may_nothing_by_default():
    """What is not said is not allowed."""
    peer = ArchiveSettings(peers={"A": {}}).peers["A"]
    assert (False, False) == (peer.query, peer.retrieve)


def _move(port: int, study_instance_uid: str, destination: str) -> int:
    """Return the final status of a C-MOVE."""
    ae = AE("READER")
    ae.add_requested_context(StudyRootMove)
    association = ae.associate("127.0.0.1", port, ae_title="ARCHIVE")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_instance_uid
    status = [status.Status for status, _ in association.send_c_move(query, destination, StudyRootMove)][-1]
    association.release()
    return int(status)


def _command() -> Any:
    import typer

    from dicomflow.cli.archive import archive

    single = typer.Typer()
    single.command()(archive)
    return single
