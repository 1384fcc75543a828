"""A store's folder on a share: what is received waits for the share, and nothing is hidden under its mount point."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from volumes import mount_tmpfs, mounted

from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.mount import MOUNT_FILE, StoreMount
from dicomflow.edge.settings import DeliverySettings
from dicomflow.errors import TransientError


def test_folder_whose_mount_is_away_is_refused_until_it_is_back(tmp_path: Path):
    """What it lay on is remembered, over a restart too; a folder on another mount is another matter."""
    share, spool = tmp_path / "share", tmp_path / "spool"
    spool.mkdir()
    mounts = {Path("/"), share}
    mount = StoreMount(share / "objects", spool, mounts.__contains__)
    mount.remember()
    mounts.discard(share)
    for each in (mount, StoreMount(share / "objects", spool, mounts.__contains__)):
        with pytest.raises(TransientError, match=f"{share} is not mounted"):
            each.check()
    StoreMount(tmp_path / "other", spool, mounts.__contains__).remember()
    with pytest.raises(TransientError, match="does not say what it has"):
        StoreWitness(_settings(share / "objects"), _noted(tmp_path / "gone", share / "objects", share)).ask([])
    mounts.add(share)
    mount.check()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 9000, b'{"folder": 1, "mount": 2}'])
def test_odd_note_of_a_mount_is_none(tmp_path: Path, content: bytes):
    """A note that says nothing stops no delivery."""
    (tmp_path / MOUNT_FILE).write_bytes(content)
    StoreMount(tmp_path / "objects", tmp_path, {Path("/")}.__contains__).remember()


def test_folder_on_no_mount_of_its_own_is_not_noted(tmp_path: Path):
    """A store that an operator empties or removes is not taken for one that is away; S3 lies on nothing."""
    StoreMount(tmp_path / "objects", tmp_path, {Path("/")}.__contains__).remember()
    StoreMount(None, tmp_path).remember()
    assert [] == list(tmp_path.iterdir())


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system."""
    with mounted(tmp_path / "share", "8m") as point:
        yield point


def test_nothing_is_delivered_under_a_mount_point(
    share: Path, edge_with: Any, scu_with: Any, data_set: Any, until: Any
):
    """An edge whose share goes, while it runs and before it starts, waits, says so, and delivers when it is back."""
    edge = edge_with(spool={"workers": 1}, delivery={"store_url": (share / "objects").as_uri()})
    edge.start()

    def _send(uid: str) -> None:
        scu = scu_with(edge.port)
        scu.associate()
        assert 0 == scu.store(data_set(uid), affected_sop_instance_uid=uid.encode()).status
        scu.socket.close()

    def _stored() -> set[str]:
        return {path.stem for path in share.glob("objects/site-1/*/*/*/*.dcm")}

    _send("1.2.1")
    until(lambda: _stored() == {"1.2.1"} and not list(edge.spool.delivering.iterdir()), explain=edge.tail)
    subprocess.run(["umount", "--lazy", share], check=True)
    _send("1.2.2")
    until(lambda: "is not mounted" in edge.log.read_text(), explain=edge.tail)
    edge.process.terminate()
    edge.process.wait(60)
    edge.start()
    until(lambda: "store_not_opened" in edge.log.read_text(), explain=edge.tail)
    assert [] == list(share.iterdir())
    assert mount_tmpfs(share, "8m")
    until(lambda: _stored() == {"1.2.2"}, explain=edge.tail)


def _settings(folder: Path) -> DeliverySettings:
    return DeliverySettings(store_url=folder.as_uri())


def _noted(spool: Path, folder: Path, mount: Path) -> Path:
    spool.mkdir()
    StoreMount(folder, spool, {mount}.__contains__).remember()
    return spool
