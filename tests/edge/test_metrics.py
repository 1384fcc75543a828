"""The workers' counters: bounded labels, cheap, wiped at start. Each test counts in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dicomflow.edge.metrics import register_files, wipe

MOST_INCREMENTS = 10


def _count(spool: Path, statement: str) -> str:
    code = f"from pathlib import Path; from dicomflow.edge.metrics import Metrics; m = Metrics(Path({str(spool)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{statement}"], check=True, capture_output=True, text=True, timeout=120
    )
    return result.stdout


def _samples(spool: Path) -> dict[tuple[str, tuple[str, ...]], float]:
    registry = CollectorRegistry()
    register_files(registry, spool)
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.values()))): sample.value for sample in samples}


def test_labels_that_peers_choose_are_bounded(tmp_path: Path):
    """However many AE titles call, there are at most 501 series; nothing goes uncounted."""
    _count(tmp_path, "for n in range(2000): m.stored('1.2', f'AE{n}', 10, 0.1)")
    counts = {labels: value for (name, labels), value in _samples(tmp_path).items() if name.endswith("instances_total")}
    assert 501 == len(counts)
    assert 2000 == sum(counts.values())


def test_counting_an_instance_costs_less_than_ten_increments(tmp_path: Path):
    """Of a counter without labels; both the best of many batches in processor time, on the same machine just then."""
    statement = (
        "import time, timeit\n"
        "from prometheus_client import CollectorRegistry, Counter\n"
        "plain = Counter('plain', 'Nothing.', registry=CollectorRegistry())\n"
        "acts = [plain.inc, lambda: m.stored('1.2', 'CT1', 10, 0.004)]\n"
        "cost = lambda act: timeit.timeit(act, number=200, timer=time.thread_time)\n"
        "batches = [[cost(act) for act in acts] for _ in range(25)]\n"
        "print(*map(min, zip(*batches)))"
    )
    increment, count = map(float, _count(tmp_path, statement).split())
    assert count < MOST_INCREMENTS * increment


def test_wipe_begins_at_zero(tmp_path: Path):
    """What an earlier run counted is gone."""
    _count(tmp_path, "m.ended('released', 'CT1')")
    assert 1 == _samples(tmp_path)["dicomflow_associations_total", ("CT1", "released")]
    wipe(tmp_path)
    assert {} == _samples(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
def test_what_is_no_file_among_the_files_is_passed_by(tmp_path: Path):
    """The counts of the others are there, and nobody waits."""
    _count(tmp_path, "m.ended('released', 'CT1')")
    os.mkfifo(tmp_path / "metrics" / "counter_1.db")
    (tmp_path / "metrics" / "counter_2.db").symlink_to("/dev/zero")
    assert 1 == _samples(tmp_path)["dicomflow_associations_total", ("CT1", "released")]


def test_files_have_their_blocks_at_once(tmp_path: Path):
    """A full volume later does not end the process: the mapped files are allocated whole."""
    _count(tmp_path, "m.refused(0xA700)")
    files = [path.stat() for path in (tmp_path / "metrics").glob("*.db")]
    assert len(files) >= 2
    assert all(each.st_blocks * 512 >= each.st_size for each in files)
