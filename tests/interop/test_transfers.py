"""Images that go back: DCMTK, Orthanc and pynetdicom as the nodes at a site, through a whole `dicomflow local`."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from orthanc import Orthanc
from pydicom import dcmread
from transfer_site import Pacs
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import cli, samples

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("back")]  # one system for all


class Site:
    """A `dicomflow local` that knows three nodes, and its command line."""

    def __init__(self, daemon: Any, received: Path, orthanc: Orthanc, pacs: Pacs, capsys_of: list[Any]) -> None:
        self.daemon, self.received, self.orthanc, self.pacs = daemon, received, orthanc, pacs
        self._capsys_of = capsys_of

    def run(self, *arguments: str) -> Any:
        """Run a command of `dicomflow transfers`, and return the JSON that it prints."""
        capsys = self._capsys_of[-1]
        capsys.readouterr()
        code = cli.run(["transfers", arguments[0], *arguments[1:], "--data", str(self.daemon.data), "--json"])
        told = capsys.readouterr()
        assert 0 == code, told.err
        return json.loads(told.out)

    def send(self, uid: str, destination: str) -> str:
        """Send, and return the transfer's name."""
        return str(self.run("send", uid, "--to", destination)["transfer"])

    def wait(self, name: str, state: str) -> Any:
        """Wait until a transfer is in a state, and return all of it."""
        wait_for(
            lambda: self.run("show", name)["state"] == state,
            explain=lambda: json.dumps(self.run("show", name)) + self.daemon.log_tail(),
        )
        return self.run("show", name)


@pytest.fixture(scope="module")
def capsys_of() -> list[Any]:
    """Hold the capture of the test that runs."""
    return []


@pytest.fixture(autouse=True)
def _captured(capsys: pytest.CaptureFixture[str], capsys_of: list[Any]) -> None:
    capsys_of.append(capsys)


@pytest.fixture(scope="module")
def site(
    local_daemon_factory: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory, capsys_of: list[Any]
) -> Iterator[Site]:
    """Start the nodes, and a system whose settings name them."""
    storescp = shutil.which("storescp")
    if storescp is None:
        pytest.skip("DCMTK's storescp is not installed (package dcmtk)")
    folder = tmp_path_factory.mktemp("back")
    received = folder / "received"
    received.mkdir()
    (port,) = free_ports(1)
    orthanc = Orthanc(folder / "orthanc", {"AET": "LOCAL", "Port": 1})
    pacs = Pacs()
    process = subprocess.Popen([storescp, "+xa", "-pm", "+uf", "-od", received, str(port)], stdin=subprocess.DEVNULL)
    daemon = local_daemon_factory(folder)
    daemon.data.mkdir()
    nodes = {"dcmtk": (port, "STORESCP"), "orthanc": (orthanc.dicom_port, "ORTHANC"), "pacs": (pacs.port, "PACS")}
    lines = [
        f'[destinations.{name}]\nhost = "127.0.0.1"\nport = {at}\nae_title = "{title}"'
        for name, (at, title) in nodes.items()
    ]
    lines[list(nodes).index("orthanc")] += "\ncommitment = true"
    (daemon.data / "edge.toml").write_text("\n".join(lines) + "\n")
    try:
        daemon.start()
        # What it is asked to commit to it reports to this edge, on an association of its own.
        modality = {"AET": "DICOMFLOW", "Host": "127.0.0.1", "Port": daemon.port, "AllowStorageCommitment": True}
        orthanc.put("/modalities/dicomflow", modality)
        yield Site(daemon, received, orthanc, pacs, capsys_of)
    finally:
        daemon.close()
        process.kill()
        process.wait(WAIT_SECONDS)
        orthanc.close()
        pacs.close()


@pytest.fixture(scope="module")
def sent(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Have the system receive CT, MR, JPEG and a secondary capture; give their files."""
    paths = samples.write(samples.demo_studies(seed=501), tmp_path_factory.mktemp("sent"))
    assert 0 == cli.run(["send", "127.0.0.1", str(site.daemon.port), *map(str, paths)])
    site.daemon.wait_until_mapped(path.stem for path in paths)
    return list(paths)


@pytest.fixture(scope="module")
def chest(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """Have the system receive a CT study of twelve images; give its UID and files."""
    paths = samples.write(samples.ct_study(602, series=1, slices=12), tmp_path_factory.mktemp("chest"))
    assert 0 == cli.run(["send", "127.0.0.1", str(site.daemon.port), *map(str, paths)])
    site.daemon.wait_until_mapped(path.stem for path in paths)
    return next(iter(by_study(list(paths)))), list(paths)


def by_study(paths: list[Path]) -> dict[str, list[Path]]:
    """Return the files of each study."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(str(dcmread(path, stop_before_pixels=True).StudyInstanceUID), []).append(path)
    return found


def test_studies_go_back_to_dcmtk_as_they_came(site: Site, sent: list[Path]):
    """Every class and transfer syntax, JPEG too: storescp has the same data sets."""
    studies = by_study(sent)
    names = [site.send(uid, "dcmtk") for uid in studies]
    for name, paths in zip(names, studies.values(), strict=True):
        shown = site.wait(name, "done")
        assert {("done", "0000")} == {(each["state"], each["status"]) for each in shown["of_instances"]}
        assert len(paths) == shown["done"]
    received = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in site.received.iterdir()}
    assert {path.stem for path in sent} == received.keys()
    for path in sent:
        ours, theirs = dcmread(path), dcmread(received[path.stem])
        assert ours == theirs
        assert ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID


def test_study_goes_back_to_orthanc(site: Site, chest: tuple[str, list[Path]]):
    """Orthanc has each instance, under the UIDs that it came with, and has committed to it."""
    uid, paths = chest
    shown = site.wait(site.send(uid, "orthanc"), "done")
    assert {("done", "0000", "committed")} == {
        (each["state"], each["status"], each["reason"]) for each in shown["of_instances"]
    }
    names = site.orthanc.get("/instances")
    found = {site.orthanc.get(f"/instances/{name}/tags?simplify")["SOPInstanceUID"] for name in names}
    assert {path.stem for path in paths} == found


def test_killed_system_goes_on_with_what_had_no_answer(site: Site, chest: tuple[str, list[Path]]):
    """SIGKILL of all processes while a study goes out: it ends by itself, and nothing that was answered comes again."""
    uid, paths = chest
    for path in paths[:5]:
        site.pacs.script[path.stem] = [0xA700]  # so that it does not end before the kill
    name = site.send(uid, "pacs")
    wait_for(lambda: sum(site.pacs.taken.values()) >= len(paths) // 2, explain=site.daemon.log_tail)
    site.daemon.kill()
    site.daemon.start()
    shown = site.wait(name, "done")
    assert len(paths) == shown["done"]
    assert {path.stem for path in paths} == site.pacs.taken.keys()
    # Two associations: at most so many were without an answer.
    assert sum(site.pacs.taken.values()) <= len(paths) + 2


def test_destination_that_nobody_knows_is_told(site: Site, sent: list[Path]):
    """The edge is the judge of names: what it does not know fails, with its reason."""
    name = site.run("send", sent[0].stem, "--to", "elsewhere", "--edge", "local")["transfer"]
    shown = site.wait(name, "failed")
    assert "the edge local knows no destination 'elsewhere'" == shown["reason"]
