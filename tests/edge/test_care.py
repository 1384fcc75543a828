"""The supervisor's care for children that are alive and do not get on, and for what they leave behind."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomflow.dimse.events import AssociationAccepted
from dicomflow.edge import children, supervisor
from dicomflow.edge.children import slots_of
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SettingsFile, SpoolSettings, load_settings
from dicomflow.edge.spool.associations import AssociationLog
from dicomflow.edge.supervisor import Supervisor
from dicomflow.logs import LogSettings
from dicomflow.network.arrivals import open_inboxes, pass_on
from dicomflow.network.settings import DimseSettings


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Supervisor]]:
    """Start an edge whose supervisor is in this process, and is impatient."""
    monkeypatch.setattr(children, "_FROZEN_SECONDS", 2.0)
    for module in (children, supervisor):
        monkeypatch.setattr(module, "SILENT_SECONDS", 1.0)
    started: list[Supervisor] = []

    def _supervise() -> Supervisor:
        settings = EdgeSettings(
            name="site-1",
            dimse=DimseSettings(port=0, bind="127.0.0.1"),
            spool=SpoolSettings(dir=tmp_path / "spool", workers=2, slow_below_bytes=0, refuse_below_bytes=0),
            delivery=DeliverySettings(store_url=(tmp_path / "objects").as_uri(), quiet_seconds=0.2),
        )
        started.append(Supervisor(settings, LogSettings("INFO", as_json=False)))
        started[-1].start()
        return started[-1]

    yield _supervise
    for each in started:
        each.stop()


def test_stopped_processes_are_noticed_and_replaced(
    supervise: Any, until: Any, scu_with: Any, data_set: Any, caplog: pytest.LogCaptureFixture
):
    """SIGSTOP leaves a process alive: the edge says that it is not ready and which one, kills it, and goes on.

    And a stop needs no signal, which Windows has not: what was under way is answered, and every child ends by itself.
    """
    edge = supervise()
    until(lambda: all(count for count in (edge._beats[slots_of(index)[0]] for index in range(3))))
    for victim in (edge._children[0], edge._children[2]):
        pid = victim.process.pid
        os.kill(pid, signal.SIGSTOP)
        until(lambda name=victim.name: any(name in problem for problem in edge.problems))
        assert not edge.is_ready
        until(lambda before=pid, each=victim: each.process.pid != before and edge.is_ready)
        assert f"child_frozen name={victim.name} pid={pid}" in caplog.text
    scu = scu_with(edge.dimse_port)
    assert isinstance(scu.associate(), AssociationAccepted)
    assert 0 == scu.store(data_set()).status
    exits = [child.process for child in edge._children]
    edge.stop()
    assert [0, 0, 0] == [process.exitcode for process in exits]
    assert "child_killed" not in caplog.text
    edge.stop = lambda: None


def test_connections_that_wait_for_a_dead_worker_are_given_to_another():
    """In order, with what they had sent; what does not fit is closed, so that the peer comes again."""
    (_, dead), (giver, taker) = (inboxes := open_inboxes(2))
    sent = []
    for number in range(3):
        ours, theirs = socket.socketpair()
        theirs.sendall(b"%d" % number)
        socket.send_fds(inboxes[0][0], [b"p"], [ours.fileno()])
        ours.close()
        sent.append(theirs)
    assert 3 == pass_on(dead, giver)
    assert 0 == pass_on(dead, giver)
    for number in range(3):
        kind, (descriptor,), _, _ = socket.recv_fds(taker, 1, 1)
        with socket.socket(fileno=descriptor) as connection:
            assert (b"p", b"%d" % number) == (kind, connection.recv(1))
    ours, theirs = socket.socketpair()
    socket.send_fds(inboxes[0][0], [b"p"], [ours.fileno()])
    ours.close()
    taker.close()
    assert 0 == pass_on(dead, giver)
    assert b"" == theirs.recv(1)
    for each in (theirs, *sent, giver, dead, inboxes[0][0]):
        each.close()


CONFIG = """
name = "site-1"
[spool]
dir = "{folder}/spool"
[delivery]
store_url = "file://{folder}/objects"
max_bytes_per_second = {limit}
"""


def test_limit_changed_at_run_time_outlives_the_deliverer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that is started again has what is in force: the file's, and while that is broken what it had before."""
    path = tmp_path / "edge.toml"

    def write(limit: object) -> None:
        path.write_text(CONFIG.format(folder=tmp_path, limit=limit))

    def limit_of_next() -> int:
        """Return the limit that a deliverer would begin with, as it reads its file itself."""
        begun: list[Any] = []
        monkeypatch.setattr(edge, "_spawn", lambda _target, start: begun.append(start))
        edge._spawn_deliverer(slots_of(2))
        limit = begun[0].settings.delivery.max_bytes_per_second
        assert isinstance(limit, int)
        return limit

    write(200_000)
    edge = Supervisor(load_settings(path), LogSettings("INFO", as_json=False), config=path)
    assert 200_000 == limit_of_next()
    write(1_000_000)
    assert 1_000_000 == limit_of_next()
    write("nonsense")
    assert 1_000_000 == limit_of_next()
    assert {"users_file": 0, "tls": 0, "settings": 1} == edge.flawed_settings
    path.unlink()
    assert 1_000_000 == limit_of_next()
    write(5)
    assert 5 == limit_of_next()
    assert 0 == edge.flawed_settings["settings"]


def test_change_that_waits_for_a_restart_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """What is new in the file and not in force is named and counted; a limit beside it is in force at once."""
    path = tmp_path / "edge.toml"
    path.write_text(CONFIG.format(folder=tmp_path, limit=1))
    file = SettingsFile(path, load_settings(path))
    assert (1, False) == (file.read().max_bytes_per_second, file.is_flawed)
    changed = CONFIG.format(folder=tmp_path, limit=2) + "concurrency = 2\n[dimse]\nmax_associations = 3\n"
    path.write_text(changed)
    assert (2, True) == (file.read().max_bytes_per_second, file.is_flawed)
    assert "settings_wait_for_restart" in caplog.text
    assert "names=delivery.concurrency,dimse.max_associations" in caplog.text
    path.write_text(CONFIG.format(folder=tmp_path, limit=20))
    assert (20, False) == (file.read().max_bytes_per_second, file.is_flawed)


def test_worker_of_an_earlier_run_may_begin_a_log_after_a_new_supervisor_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its associations are noted as lost when it is gone, and not before: none of them is open for ever."""
    settings = EdgeSettings(
        name="site-1", spool=SpoolSettings(dir=tmp_path), delivery=DeliverySettings(store_url="file:///unused")
    )
    edge = Supervisor(settings, LogSettings("INFO", as_json=False))
    edge.spool.make()
    monkeypatch.setattr("dicomflow.edge.spool.associations._MOST_LINES", 1)
    orphan = AssociationLog(tmp_path / "associations")
    orphan.note_open("a1")
    edge._unnoted = edge._associations.process_ids()
    edge._note_lost()
    assert {os.getpid()} == edge._unnoted
    orphan.note_open("a2")  # in a log that it begins now
    assert {"a1": "open", "a2": "open"} == edge._associations.read_states()
    os.close(orphan._descriptor)  # as its end does
    edge._note_lost()
    assert set() == edge._unnoted
    assert {"a1": "lost", "a2": "lost"} == edge._associations.read_states()
