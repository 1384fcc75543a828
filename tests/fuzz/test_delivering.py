"""Fuzz target of `delivering/`: whatever lies there at a start, the deliverer goes on and loses nothing.

DICOMFLOW_FUZZ_EXAMPLES is the number of spools, DICOMFLOW_FUZZ_SEED makes a run different.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from data_sets import CLASS, EXPLICIT, INSTANCE, SERIES, STUDY, element
from obstore.store import LocalStore
from waiting import WAIT_SECONDS

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.edge.deliver import deliverer as deliverer_module
from dicomflow.edge.deliver.deliverer import Deliverer
from dicomflow.edge.deliver.delivery import Delivery
from dicomflow.edge.deliver.instances import MANIFEST_FILE, read_instance
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import ReceivedFile

EXAMPLES: Final = int(os.environ.get("DICOMFLOW_FUZZ_EXAMPLES", "20"))
SEED: Final = int(os.environ.get("DICOMFLOW_FUZZ_SEED", "1"))
EDGE: Final = "site-1"
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.2"
NOBODY: Final = 65534
ODD_NAMES: Final = (
    "copy of it", " ", "-rf", ".hidden", "%2e%2e", "..%2f", "a\nb", "\u00e4\u4e2d", "e\u0301", "\udcff\udcfe",
    "x" * 255, "\u00fc" * 99, "lost+found", "manifests", "con", "a\\b", "'$(x)'", "\x01\x7f", "it.stored",
)  # fmt: skip


@pytest.fixture
def quiet() -> Iterator[None]:
    """Leave out the log of many faults."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _part10(sop: str, study: str) -> bytes:
    uids = ((CLASS, SOP_CLASS), (INSTANCE, sop), (STUDY, study), (SERIES, f"{study}.9"))
    data_set = b"".join(element(tag, "UI", f"{uid}\0".encode()[: len(uid) + len(uid) % 2]) for tag, uid in uids)
    return encode_file_meta(SOP_CLASS, sop, EXPLICIT, "CT1", "DICOMFLOW") + data_set


class _Spool:
    """A spool as an earlier run left it, with what was acknowledged, and the deliveries that are to be spoiled."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.chance = chance
        self.spool = Spool(root / "spool", fsync=False)
        self.acknowledged: set[str] = set()
        self._number = 0
        self.folders = [self._delivery(study) for study in range(1, 6)]
        # Known by its study, since what is in its way may have it received again.
        self.good = self.folders.pop()

    def _delivery(self, study: int) -> Path:
        """Leave a delivery, open or closed, of one to three instances."""
        folder = self.spool.delivering / str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        folder.mkdir()
        delivery = Delivery(folder.name, f"1.2.{study}", 0.0, 0.0)
        for number in range(self.chance.randint(1, 3)):
            delivery.add(read_instance(self.instance(folder, f"1.2.{study}.{number}", f"1.2.{study}")), 0.0)
        if self.chance.random() < 0.5:
            content = delivery.manifest(EDGE, NOW, lambda _: "released").to_json()
            (folder / MANIFEST_FILE).write_bytes(content)
        return folder

    def instance(self, folder: Path, sop: str, study: str) -> ReceivedFile:
        """Put an acknowledged instance into a folder."""
        content = _part10(sop, study)
        digest = hashlib.sha256(content).hexdigest()
        self._number += 1
        path = folder / f"a1_{self._number:08}_10.0.0.1_{digest}.dcm"
        path.write_bytes(content)
        self.acknowledged.add(digest)
        file = ReceivedFile.of(path)
        assert file is not None
        return file

    def lost(self, objects: Path) -> set[str]:
        """Return what is neither in the store nor anywhere in the spool."""
        found = set()
        # Twice: a put that was cut off may still be replacing its object by itself, and a listing miss it.
        for top in (objects, self.spool.root) * 2:
            for folder, _, names in os.walk(top):
                for path in (Path(folder, name) for name in names):
                    if path.is_file():
                        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
        return self.acknowledged - found


def _any_file(left: _Spool, folder: Path) -> Path:
    """Choose a file of an instance: not a link that an earlier way made, which may lead to a device without an end."""
    files = [path for path in folder.iterdir() if path.suffix == ".dcm" and path.is_file() and not path.is_symlink()]
    return left.chance.choice(files or [folder / "none.dcm"])


def _odd_name(left: _Spool) -> str:
    return left.chance.choice(ODD_NAMES)


def _rename(left: _Spool, folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rename(folder.with_name(_odd_name(left)))


def _copy(left: _Spool, folder: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.copytree(folder, folder.with_name(_odd_name(left)), symlinks=True)


def _nest(left: _Spool, folder: Path) -> None:
    """Have a folder in the folder, as an archive's unpacking leaves it."""
    name = left.chance.choice([*ODD_NAMES, _any_file(left, folder).name, f"b{_any_file(left, folder).name}"])
    with contextlib.suppress(OSError):
        (folder / name).mkdir()
        left.instance(folder / name, "1.2.77.1", "1.2.77")


def _link(left: _Spool, folder: Path) -> None:
    """Have links: to nothing, to themselves, to a folder, to a device, to another's file."""
    name = left.chance.choice([_odd_name(left), f"a2_00000001_10.0.0.1_{'0' * 64}.dcm", MANIFEST_FILE])
    place = left.chance.choice([folder, left.spool.delivering])
    target = left.chance.choice(["/nowhere", name, ".", "/dev/zero", _any_file(left, left.good)])
    with contextlib.suppress(OSError):
        (place / name).symlink_to(target)


def _no_file(left: _Spool, folder: Path) -> None:
    """Have what is no file: a folder, a pipe, a socket."""
    name = left.chance.choice([f"a2_00000002_10.0.0.1_{'1' * 64}.dcm", MANIFEST_FILE, f"{MANIFEST_FILE}.tmp"])
    path = left.chance.choice([folder, left.spool.delivering]) / name
    with contextlib.suppress(OSError):
        if path.name == MANIFEST_FILE:
            path.unlink(missing_ok=True)
        match left.chance.randrange(3):
            case 0:
                path.mkdir()
            case 1:
                os.mkfifo(path)
            case _:
                with socket.socket(socket.AF_UNIX) as opened:
                    opened.bind(str(path))


def _note(left: _Spool, folder: Path) -> None:
    """Have a note half written, of another delivery, of damaged bytes, or beside a damaged one."""
    path = folder / left.chance.choice(
        [MANIFEST_FILE, MANIFEST_FILE, f"{MANIFEST_FILE}.tmp", f"{MANIFEST_FILE}.damaged"]
    )
    manifests = [each for each in left.spool.delivering.glob(f"*/{MANIFEST_FILE}") if each.is_file()]
    whole = next((each.read_bytes() for each in manifests if each.stat().st_size), b"{")
    content = left.chance.choice(
        [whole, whole[: left.chance.randrange(len(whole))], b"", b"\0" * 4096, b"[" * 5000, b"null"]
    )
    with contextlib.suppress(OSError):
        path.write_bytes(content)


def _name_of_file(left: _Spool, folder: Path) -> None:
    """Have a file whose name is none of ours, or nearly, or of other bytes."""
    path = _any_file(left, folder)
    fields = path.name.split("_")
    at = left.chance.randrange(len(fields))
    fields[at] = left.chance.choice(["", "\u0664", "9" * 30, "\udcff", "a\nb", "z" * 64, "-", "x" * 150])
    name = left.chance.choice([_odd_name(left), f"{path.name}.bak", path.name.upper(), *["_".join(fields)] * 3])
    with contextlib.suppress(OSError):
        path.rename(path.with_name(name))


def _content_of_file(left: _Spool, folder: Path) -> None:
    """Have a file that is not what its name says; what was acknowledged of it is gone, and cannot be found."""
    path = _any_file(left, folder)
    if path.exists():
        left.acknowledged.discard(path.stem.split("_")[-1])
        path.write_bytes(left.chance.choice([b"", b"\0" * 200, path.read_bytes()[:-30], left.chance.randbytes(3000)]))


def _other_study(left: _Spool, folder: Path) -> None:
    """Have an instance of another study, or the same one under another association, in the folder."""
    if left.chance.random() < 0.5:
        left.instance(folder, "1.2.88.1", "1.2.88")
        return
    path = _any_file(left, folder)
    if path.exists():
        shutil.copy(path, path.with_name(f"a9{path.name}"))


def _other_owner(left: _Spool, folder: Path) -> None:
    path = left.chance.choice([folder, _any_file(left, folder)])
    with contextlib.suppress(OSError):
        if hasattr(os, "chown"):
            os.chown(path, NOBODY, NOBODY)
        path.chmod(left.chance.choice([0o000, 0o500, 0o777]))


def _file_for_folder(left: _Spool, folder: Path) -> None:
    """Have files and folders of the deliveries' folder that are no deliveries."""
    name = left.chance.choice([*ODD_NAMES, str(uuid.UUID(int=7, version=4)), f"{folder.name}.stored"])
    path = left.spool.delivering / name
    with contextlib.suppress(OSError):
        if left.chance.random() < 0.5:
            path.write_bytes(b"x")
        else:
            path.mkdir()


SPOIL: Final[tuple[Callable[[_Spool, Path], None], ...]] = (
    _rename, _copy, _nest, _link, _no_file, _note, _name_of_file, _content_of_file, _other_study, _other_owner,
    _file_for_folder,
)  # fmt: skip


async def _run_until(deliverer: Deliverer, until: Callable[[], bool]) -> None:
    running = asyncio.create_task(deliverer.run())
    async with asyncio.timeout(WAIT_SECONDS):
        while not until() and not running.done():  # noqa: ASYNC110  # what is waited for is in the file system
            await asyncio.sleep(0.002)
    assert not running.done(), running.exception()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _is_stored(objects: Path, study: str) -> bool:
    """Tell whether a manifest names a study."""
    return any(f'"{study}"'.encode() in path.read_bytes() for path in objects.glob("manifests/*/*.json"))


def _deliver(left: _Spool, objects: Path, study: str) -> None:
    """Deliver until a study is stored, which comes last."""
    settings = EdgeSettings(
        name=EDGE,
        spool=SpoolSettings(dir=left.spool.root, fsync=False),
        delivery=DeliverySettings(store_url="file:///unused", quiet_seconds=0),
    )
    spool = Spool(left.spool.root, fsync=False)
    uploader = Uploader(lambda: LocalStore(objects, mkdir=True), objects)
    asyncio.run(_run_until(Deliverer(settings, spool, uploader, None), lambda: _is_stored(objects, study)))


@pytest.mark.parametrize("first", range(2))
def test_spoiled_delivery_folders_stop_nothing_and_lose_nothing(
    tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch, first: int
):
    """A good delivery beside them is stored, what comes next is too, and every acknowledged instance is somewhere."""
    monkeypatch.setattr(deliverer_module, "_POLL_SECONDS", 0.002)
    for number in range(first, EXAMPLES, 2):
        chance = random.Random(f"{SEED} {number}")  # a test's
        root = tmp_path / str(number)
        left = _Spool(root, chance)
        ways = [chance.choice(SPOIL) for _ in range(chance.randint(1, 4))]
        for way in ways:
            folder = chance.choice(left.folders)
            if folder.is_dir():
                way(left, folder)
        told = (SEED, number, [way.__name__ for way in ways])
        good = left.good.name
        objects = root / "objects"
        try:
            _deliver(left, objects, "1.2.5")
            left.instance(left.spool.unpacked, "1.2.66.1", "1.2.66")
            _deliver(left, objects, "1.2.66")
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(told) from error
        assert (objects / "manifests" / EDGE / f"{good}.json").exists(), told
        assert set() == left.lost(objects), told
        shutil.rmtree(root)
