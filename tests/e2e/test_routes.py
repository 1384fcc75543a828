"""Two stores and DCMTK's storescp, one more destination dead for the whole run, and kills in between."""

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_daemon import EdgeDaemon
from pydicom import dcmread
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import cli
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.edge.spool.handedover import HandedOver
from dicomflow.samples import demo_studies, write

_ROUTES = """
[destinations.research]
kind = "store"
url = "{research}"
[destinations.storescp]
host = "127.0.0.1"
port = {port}
ae_title = "STORESCP"
[destinations.dead]
host = "127.0.0.1"
port = {dead}
ae_title = "DEAD"
[[routes]]
when = {{modality = "CT"}}
to = ["research", "storescp", "dead"]
[[routes]]
when = {{modality = "MR"}}
to = ["store", "storescp"]
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[EdgeDaemon]:
    """Give an edge with two routes, and the storescp that they name."""
    storescp = shutil.which("storescp")
    if storescp is None:
        pytest.skip("DCMTK's storescp is not installed (package dcmtk)")
    (tmp_path / "received").mkdir()
    port, dead = free_ports(2)
    node = subprocess.Popen(
        [storescp, "+xa", "-pm", "+uf", "-od", tmp_path / "received", str(port)], stdin=subprocess.DEVNULL
    )
    edge = EdgeDaemon(tmp_path)
    with edge.config.open("a") as file:
        file.write(_ROUTES.format(research=(tmp_path / "research").as_uri(), port=port, dead=dead))
    yield edge
    edge.close()
    node.kill()
    node.wait(WAIT_SECONDS)


@pytest.mark.slow
def test_each_destination_gets_what_its_rule_says_though_one_is_dead_and_the_edge_is_killed(daemon: EdgeDaemon):
    """By digest, of data sets where a node writes files of its own; what the dead one is to get is all there."""
    paths = write(demo_studies(seed=77), daemon.folder / "sent")
    by_modality: dict[str, list[Path]] = {}
    for path in paths:
        by_modality.setdefault(str(dcmread(path, stop_before_pixels=True).Modality), []).append(path)
    handed = HandedOver(daemon.spool.root)
    daemon.start()
    assert 0 == cli.run(["send", "127.0.0.1", str(daemon.port), *map(str, paths)])
    for is_begun in (
        lambda: any(daemon.spool.delivering.glob("*/manifest.json.routes")) or handed.names(),
        lambda: any((daemon.folder / "research").rglob("*.dcm")),
        lambda: any((daemon.folder / "received").iterdir()),
    ):
        wait_for(is_begun, explain=daemon.tail)
        os.killpg(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait(WAIT_SECONDS)
        daemon.start()
    wait_for(lambda: _is_level(daemon, handed), explain=daemon.tail)
    of_ct, of_mr = _data_sets(by_modality["CT"]), _data_sets(by_modality["MR"])
    others = _data_sets([path for path in paths if path not in (*by_modality["CT"], *by_modality["MR"])])
    assert of_ct == _data_sets(list((daemon.folder / "research").rglob("*.dcm")))
    assert of_mr | others == _data_sets(list(daemon.objects.rglob("*.dcm")))
    assert of_ct | of_mr == _data_sets(list((daemon.folder / "received").iterdir()))
    waiting = [each.whole_file(number) for each in handed.of("dead") for number in range(len(each.instances))]
    assert of_ct == _data_sets(waiting)
    assert len(of_ct) == len(waiting)
    metrics = daemon.get("/metrics")[1]
    assert f'dicomflow_destination_waiting{{destination="dead"}} {len(of_ct)}.0' in metrics
    assert [] == list(daemon.spool.quarantined.iterdir())


def _is_level(daemon: EdgeDaemon, handed: HandedOver) -> bool:
    return not any(daemon.spool.delivering.iterdir()) and not any(handed.of(name) for name in ("research", "storescp"))


def _data_sets(paths: list[Path]) -> dict[str, str]:
    """Return the digests of the data sets by SOP Instance UID."""
    found = {}
    for path in paths:
        content = path.read_bytes()
        meta = decode_file_meta(content)
        found[meta.sop_instance_uid] = hashlib.sha256(content[meta.data_set_offset :]).hexdigest()
    return found
