"""The main job on one machine: what real senders store is indexed and mapped, whatever happens on the way."""

import hashlib
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import WAIT_SECONDS

from dicomflow import cli, samples

SENDERS = 4
INSTANCES = int(os.environ.get("DICOMFLOW_TEST_STUDY_INSTANCES", "20"))
"""Of each study, in two series: what is interrupted."""
KILLS = int(os.environ.get("DICOMFLOW_TEST_KILLS", "2"))
SEED_QUERIES = ("Patient", "Study", "Series", "Instance", "Ahlijob", "Ahliimageset")

# A start takes seconds of the processor: the tests share one `dicomflow local` of each database, and leave it running.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("local")]


@pytest.fixture
def studies(request: pytest.FixtureRequest, tmp_path: Path) -> list[tuple[Path, ...]]:
    """Give four CT studies of two series that no other test has."""
    first = int.from_bytes(request.node.nodeid.encode()) % (1 << 60)
    seeds = range(first, first + SENDERS)
    return [samples.write(samples.ct_study(n, slices=INSTANCES // 2), tmp_path / str(n)) for n in seeds]


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory, local_daemon_factory: Any) -> Iterator[Any]:
    """Give one `dicomflow local` on SQLite."""
    daemon = local_daemon_factory(tmp_path_factory.mktemp("shared"))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def shared_daemon_on_postgres(
    tmp_path_factory: pytest.TempPathFactory, local_daemon_factory: Any, shared_postgres_url: str
) -> Iterator[Any]:
    """Give one on PostgreSQL."""
    daemon = local_daemon_factory(tmp_path_factory.mktemp("shared"), shared_postgres_url)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(params=["shared_daemon", "shared_daemon_on_postgres"], ids=["sqlite", "postgresql"])
def daemon(request: pytest.FixtureRequest) -> Any:
    """Give that of each kind."""
    return request.getfixturevalue(request.param)


def test_local_studies_from_4_senders_at_once_are_all_mapped(daemon: Any, send: Any, studies: list[tuple[Path, ...]]):
    """Every instance of four senders at once is indexed and mapped exactly once, on SQLite and on PostgreSQL."""
    before = _counts(daemon)
    with ThreadPoolExecutor(SENDERS) as threads:
        answers = list(threads.map(lambda study: send(daemon.port, study), studies))
    statuses = {uid: status for answer in answers for uid, status in answer.items()}
    assert {0} == set(statuses.values())
    assert SENDERS * INSTANCES == len(statuses)
    daemon.wait_until_mapped(statuses)
    assert {1} == set(daemon.mapped().values())
    expected = {"Patient": 4, "Study": 4, "Series": 8, "Instance": len(statuses), "Ahlijob": 8, "Ahliimageset": 8}
    assert expected == dict(_counts(daemon) - before)
    assert [(3,)] == daemon.query("SELECT DISTINCT status FROM Ahlijob")
    assert [] == daemon.query("SELECT problem FROM stored_object WHERE problem IS NOT NULL")


def test_local_stored_bytes_equal_sent_bytes(shared_daemon: Any, send: Any, tmp_path: Path):
    """The data set is stored as it was sent, and the catalog has the SHA-256 of the stored file."""
    sent = samples.write(samples.demo_studies(), tmp_path / "sent")
    assert {0} == set(send(shared_daemon.port, sent).values())
    shared_daemon.wait_until_mapped(path.stem for path in sent)
    objects = shared_daemon.objects()
    recorded = dict(shared_daemon.query("SELECT sop_instance_uid, sha256 FROM stored_object"))
    for path in sent:
        (stored,) = objects[path.stem]
        assert _data_set(path.read_bytes()) == _data_set(stored.read_bytes())
        assert recorded[path.stem] == hashlib.sha256(stored.read_bytes()).hexdigest()


def test_local_gives_back_over_the_web_what_was_stored_over_it(shared_daemon: Any, tmp_path: Path):
    """STOW-RS into the spool, the way of what modalities send, and WADO-RS from the store: the data set is the same."""
    web = f"http://127.0.0.1:{shared_daemon.http_port}/dicomweb/studies"
    (path, *_) = samples.write(samples.ct_study(601, slices=1), tmp_path / "posted")
    sent = path.read_bytes()
    posted = httpx.post(web, content=sent, headers={"content-type": "application/dicom"}, timeout=WAIT_SECONDS)
    assert 200 == posted.status_code, posted.text
    shared_daemon.wait_until_mapped([path.stem])
    address = posted.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    got = httpx.get(address, headers={"accept": "application/dicom; transfer-syntax=*"}, timeout=WAIT_SECONDS)
    assert (200, _data_set(sent)) == (got.status_code, _data_set(got.content))


def test_local_same_study_twice_changes_nothing_a_reader_sees(shared_daemon: Any, send: Any, tmp_path: Path):
    """A study that is sent again is acknowledged again, and the four index tables stay as they were."""
    study = samples.write(samples.ct_study(201, slices=5), tmp_path / "study")
    tables = SEED_QUERIES[:4]
    assert {0} == set(send(shared_daemon.port, study).values())
    shared_daemon.wait_until_mapped(path.stem for path in study)
    before = {name: _visible(shared_daemon, name) for name in tables}
    assert {0} == set(send(shared_daemon.port, study).values())
    shared_daemon.wait_until_idle()
    assert before == {name: _visible(shared_daemon, name) for name in tables}
    mapped = shared_daemon.mapped()
    assert {path.stem: 1 for path in study} == {path.stem: mapped[path.stem] for path in study}


def test_local_deleted_study_that_is_sent_again_is_back(shared_daemon: Any, send: Any, tmp_path: Path):
    """Whatever was deleted with it: the study is in catalog and imports again, and without a resend it stays away.

    The folder says where image sets are deleted, without AWS's variables.
    """
    deleted_with = ((), ("--objects",), ("--image-sets",), ("--objects", "--image-sets"))
    options, studies = {}, []
    for seed, chosen in enumerate(deleted_with, 301):
        options[str(next(samples.ct_study(seed)).StudyInstanceUID)] = chosen
        studies.append(samples.write(samples.ct_study(seed, series=1, slices=3), tmp_path / str(seed)))

    def resend_all() -> None:
        for study in studies:
            assert {0} == set(send(shared_daemon.port, study).values())
        shared_daemon.wait_until_mapped(path.stem for study in studies for path in study)
        shared_daemon.wait_until_idle()
        assert (set(options), {(uid, 3) for uid in options}) == shown()

    def shown() -> tuple[set[str], set[tuple[str, int]]]:
        """Return which of the studies are in the catalog, and the states of their imports."""
        found = {uid for (uid,) in shared_daemon.query("SELECT study_instance_uid FROM study")}
        states = shared_daemon.query("SELECT studyid, status FROM Ahlijob")
        return found & options.keys(), {(uid, status) for uid, status in states if uid in options}

    resend_all()
    for uid, chosen in options.items():
        command = ["catalog", "delete-study", uid, "--data", str(shared_daemon.data), "--yes", *chosen]
        assert 0 == cli.run(command)
    assert (set(), set()) == shown()
    resend_all()


def test_local_is_closed_to_others_and_to_a_second_one(shared_daemon: Any, send: Any, tmp_path: Path):
    """Whatever the umask nobody else reads images or catalog, no other site's page asks, a second one is refused."""
    sent = samples.write(samples.ct_study(401, series=1, slices=2), tmp_path / "sent")
    assert {0} == set(send(shared_daemon.port, sent).values())
    shared_daemon.wait_until_idle()
    readable = [path for path in (shared_daemon.data, *shared_daemon.data.rglob("*")) if path.stat().st_mode & 0o077]
    assert [] == readable
    url = f"http://127.0.0.1:{shared_daemon.http_port}"
    paths = ("/studies", "/healthz", "/metrics", "/healthimaging/datastore", "/healthimaging/_simulator/state")
    assert {421} == {httpx.get(url + path, headers={"host": "evil.example"}).status_code for path in paths}
    assert (
        403
        == httpx.post(
            f"{url}/healthimaging/_simulator/faults", headers={"origin": "http://evil.example"}, content="{}"
        ).status_code
    )
    command = [
        sys.executable,
        "-m",
        "dicomflow",
        "local",
        "--data",
        shared_daemon.data,
        "--port",
        "0",
        "--http-port",
        "0",
    ]
    second = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (1, True) == (second.returncode, "another `dicomflow local` runs on" in second.stderr)


def test_local_stopped_and_started_in_the_middle_loses_nothing(
    shared_daemon: Any, send: Any, studies: list[tuple[Path, ...]]
):
    """A stop while four senders send loses and doubles nothing that was acknowledged; the rest can be sent again."""
    answers = _interrupt(shared_daemon, send, studies, shared_daemon.stop)
    shared_daemon.start()
    _check(shared_daemon, send, studies, answers)


def test_local_whose_catalog_is_lost_takes_in_what_the_bucket_has(local_daemon: Any, send: Any, tmp_path: Path):
    """It is not ready while another file has the catalog's name; at its next start all is indexed and mapped again."""
    study = samples.write(samples.ct_study(7, series=1, slices=3), tmp_path / "study")
    assert {0} == set(send(local_daemon.port, study).values())
    local_daemon.wait_until_mapped(path.stem for path in study)
    local_daemon.forget_catalog()
    answer = httpx.get(f"http://127.0.0.1:{local_daemon.http_port}/healthz")
    assert (503, True) == (answer.status_code, "removed or replaced" in answer.json()["reason"])
    local_daemon.stop()
    local_daemon.start()
    local_daemon.wait_until_mapped(path.stem for path in study)
    assert [(3, 1)] == local_daemon.query("SELECT status, count(*) FROM Ahlijob GROUP BY status")


def test_local_killed_in_the_middle_keeps_every_acknowledged_instance(
    shared_daemon_on_postgres: Any, send: Any, studies: list[tuple[Path, ...]]
):
    """After SIGKILL of all its processes every image answered Success is in the catalog exactly once and mapped."""
    daemon = shared_daemon_on_postgres
    answers = _interrupt(daemon, send, studies, daemon.kill)
    daemon.start()
    _check(daemon, send, studies, answers)


def test_local_killed_again_and_again_keeps_every_acknowledged_instance(
    shared_daemon: Any, send: Any, studies: list[tuple[Path, ...]]
):
    """Kills at different moments, all but the first while it catches up, lose and double nothing.

    `DICOMFLOW_TEST_KILLS` is how many.
    """
    answers: dict[str, int | None] = {}
    for number in range(KILLS):
        study = studies[number % SENDERS]
        rest = tuple(path for path in study if answers.get(path.stem) != 0)
        if len(rest) > 1:
            after = max(1, min(len(rest) - 1, (1 + 3 * number) * INSTANCES // 10 % INSTANCES))
            answers |= _interrupt(shared_daemon, send, [rest], shared_daemon.kill, after=after)
        else:
            shared_daemon.kill()
        shared_daemon.start()
    _check(shared_daemon, send, studies, answers)


def _interrupt(
    daemon: Any, send: Any, studies: list[tuple[Path, ...]], interrupt: Callable[[], None], after: int = INSTANCES
) -> dict[str, int | None]:
    """Interrupt while the studies are being sent, once `after` instances are acknowledged; return all answers.

    The last instances are held back until then, however long the interruption takes to come.
    """
    count = 0
    last = sum(map(len, studies)) - len(studies)
    enough, is_interrupted = threading.Event(), threading.Event()
    lock = threading.Lock()

    def acknowledged(_uid: str) -> None:
        nonlocal count
        with lock:
            count += 1
            if count == after:
                enough.set()
            is_held = count >= last
        if is_held:
            is_interrupted.wait()

    with ThreadPoolExecutor(SENDERS) as threads:
        sending = [threads.submit(send, daemon.port, study, acknowledged) for study in studies]
        is_enough = enough.wait(WAIT_SECONDS)
        try:
            interrupt()
        finally:
            is_interrupted.set()
        answers = {uid: status for future in sending for uid, status in future.result().items()}
    assert is_enough
    assert None in answers.values(), "everything was sent before the interruption"
    return answers


def _check(daemon: Any, send: Any, studies: list[tuple[Path, ...]], answers: dict[str, int | None]) -> None:
    """Hold a started one to it: what was acknowledged is mapped without being sent again; then the rest, each once."""
    daemon.wait_until_mapped(uid for uid, status in answers.items() if status == 0)
    assert {1} == set(daemon.mapped().values())
    rest = [path for study in studies for path in study if answers.get(path.stem) != 0]
    assert {0} == set(send(daemon.port, rest).values())
    everything = [path.stem for study in studies for path in study]
    daemon.wait_until_mapped(everything)
    mapped = daemon.mapped()
    assert dict.fromkeys(everything, 1) == {uid: mapped[uid] for uid in everything}
    assert [] == daemon.query("SELECT problem FROM stored_object WHERE problem IS NOT NULL")


def _counts(daemon: Any) -> Counter[str]:
    """Count the rows of what the queries show."""
    return Counter({name: daemon.query(f"SELECT count(*) FROM {name}")[0][0] for name in SEED_QUERIES})


def _visible(daemon: Any, table: str) -> set[tuple[Any, ...]]:
    """Return the rows of an index table without what says which object spoke last."""
    hidden = {"as_of", "object_key"}
    return {
        tuple(value for name, value in zip(names, row, strict=True) if name not in hidden)
        for names, rows in [daemon.table(table)]
        for row in rows
    }


def _data_set(file: bytes) -> bytes:
    """Return what follows the file meta information of a Part 10 file (PS3.10 7.1)."""
    length = int.from_bytes(file[140:144], "little")
    return file[144 + length :]
