"""Folders of deliveries as no edge leaves them: nothing ends the deliverer's taking up, nothing acknowledged is lost.

`DICOMFLOW_TEST_SPOOL_ROUNDS` sets how many are tried, `DICOMFLOW_FUZZ_SEED` makes a run different.
"""

import contextlib
import hashlib
import logging
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from data_sets import identifying
from spoiling import spoil_bytes
from spool_files import receive

from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.edge.deliver.leftovers import Leftovers
from dicomflow.edge.deliver.missing import Missing
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import MANIFEST_FILE, stem_of

ROUNDS: Final = int(os.environ.get("DICOMFLOW_TEST_SPOOL_ROUNDS", "80"))
SEED: Final = int(os.environ.get("DICOMFLOW_FUZZ_SEED", "1"))
GOOD, OTHER = str(UUID(int=1)), str(UUID(int=2))
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
NOW: Final = datetime(2026, 1, 31, tzinfo=UTC)
ODD_NAMES: Final = (
    "x", "manifest.json", os.fsdecode(b"\xff\xfe"), "\n", "n" * 255, ".hidden", "a.stored", f"{OTHER}.stored",
    "a_1_b_" + "0" * 64 + ".dcm", "a_\u0661_b_" + "0" * 64 + ".dcm", "_0__" + "z" * 64 + ".dcm", "x.dcm",
)  # fmt: skip

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no links, FIFOs and odd names to make")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Leave out the log of thousands of faults."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _deliver(spool: Spool, delivery: str, number: int, *, is_closed: bool) -> list[str]:
    """Spool two instances of a delivery, as the deliverer leaves them; return their digests."""
    instances = []
    for part in range(2):
        uid = f"1.2.{number}.{part}"
        data_set = identifying(sop_instance=uid.encode(), study=b"1.2.%d" % number)
        meta = encode_file_meta("1.2.840.10008.5.1.4.1.1.2", uid, EXPLICIT_VR_LITTLE_ENDIAN, "CT1", "D")
        assigned = spool.assign(receive(spool, meta + data_set, "a" * 32, 2 * number + part), delivery)
        key = f"site-1/{delivery}/1.2.{number}/1/{uid}.dcm"
        instances.append(Instance(uid, "1.2", "1.2.840", key, 9, assigned.sha256, NOW.isoformat(), "a" * 32))
    if is_closed:
        study = Study(f"1.2.{number}", (Series("1", tuple(instances)),))
        manifest = Manifest("site-1", delivery, NOW, NOW, (Association("a", "C", "D", "p", "released"),), (study,))
        spool.write_note(spool.delivering / delivery / MANIFEST_FILE, manifest.to_json())
    return [each.sha256 for each in instances]


def _put(path: Path, chance: random.Random) -> None:
    """Put something that is no instance in a place: a file, a folder, a link to nothing or itself, a FIFO."""
    if os.path.lexists(path):
        return
    with contextlib.suppress(FileNotFoundError):  # the folder is none
        match chance.randrange(7):
            case 0:
                path.write_bytes(chance.randbytes(chance.choice((0, 10, 3000))))
            case 1:
                path.mkdir()
            case 2:
                path.mkdir()
                (path / "inside").write_bytes(b"x")
            case 3:
                path.symlink_to("nowhere")
            case 4:
                path.symlink_to(path.name)
            case 5:
                os.mkfifo(path)
            case 6:
                path.write_bytes(b"x")
                os.chmod(path, 0)  # noqa: PTH101  # by a name that may be odd
                with contextlib.suppress(PermissionError):
                    os.chown(path, 12345, 12345)


def _spoil(spool: Spool, chance: random.Random) -> None:
    """Do one thing to the second delivery's folder, or beside it."""
    folder = spool.delivering / OTHER
    note = folder / MANIFEST_FILE
    files = sorted(folder.glob("a*.dcm")) if folder.is_dir() else []
    match chance.randrange(8):
        case 0:
            _put(spool.delivering / chance.choice(ODD_NAMES), chance)
        case 1:
            _put(folder / chance.choice(ODD_NAMES), chance)
        case 2:
            with contextlib.suppress(OSError):
                note.unlink()
            _put(note, chance)
            if chance.random() < 0.5:
                _put(folder / f"{MANIFEST_FILE}.{chance.choice(('damaged', 'tmp'))}", chance)
        case 3 if note.is_file() and not note.is_symlink() and stat.S_ISREG(note.stat().st_mode):
            note.write_bytes(spoil_bytes(note.read_bytes(), chance))
        case 4 if files:  # the bytes of one that is lost are not looked for
            path = chance.choice(files)
            if path.is_file() and not path.is_symlink():
                path.write_bytes(spoil_bytes(path.read_bytes(), chance))
        case 5:
            _put(folder / f"{stem_of('a' * 32, 77, '10.0.0.1', '0' * 64)}.dcm", chance)
        case 6 if files:
            with contextlib.suppress(OSError):
                chance.choice(files).rename(spool.delivering / chance.choice(ODD_NAMES))
        case 7 if files:
            with contextlib.suppress(OSError):
                os.link(chance.choice(files), spool.delivering / GOOD / chance.choice(files).name)


def _take_up(spool: Spool, fails: Callable[[Path, Exception], None]) -> dict[str, set[str]]:
    """Take up all that can be, as a deliverer's start does, and remove it as stored; return the digests by delivery."""
    with contextlib.closing(Ledger(spool.root / LEDGER_FILE)) as ledger:
        leftovers = Leftovers("site-1", spool, Missing("site-1", spool, ledger), fails)
        spool.discard_stored()
        leftovers.look()
        stored: dict[str, set[str]] = {}
        for left in leftovers.take():
            if not left.is_closed:
                spool.write_note(spool.delivering / left.delivery_id / MANIFEST_FILE, b"{}")
            stored[left.delivery_id] = {each.file.sha256 for each in left.instances if each not in left.missing}
            with contextlib.suppress(OSError):  # noted, and tried again
                spool.remove_delivery(left.delivery_id, {each.file.path.name for each in left.instances})
    return stored


def _contents(root: Path) -> set[str]:
    """Return the digests of all files, whatever they are called."""
    files = (path for path in root.rglob("*") if not path.is_symlink() and path.is_file())
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_odd_delivery_folders_stop_nothing_and_lose_nothing(tmp_path: Path, quiet: None):
    """The delivery beside it is taken up; what was acknowledged is taken up or lies in the spool still."""
    for number in range(ROUNDS):
        chance = random.Random(f"{SEED} {number}")  # a test's
        root = tmp_path / "spool"
        spool = Spool(root, fsync=False)
        good = set(_deliver(spool, GOOD, 1, is_closed=chance.random() < 0.5))
        acknowledged = good.union(_deliver(spool, OTHER, 2, is_closed=chance.random() < 0.7))
        for _ in range(chance.randint(1, 4)):
            _spoil(spool, chance)
        before = acknowledged & _contents(root)
        whole = acknowledged & _contents(spool.delivering / OTHER)
        stored: dict[str, set[str]] = {}
        for _ in range(2):
            stored = _take_up(spool, lambda _path, _error: None) | stored
        where = f"seed {SEED} round {number}"
        assert good <= stored[GOOD], where
        assert whole <= set().union(*stored.values()), where
        assert not before - set().union(*stored.values()) - _contents(root), where
        with contextlib.suppress(PermissionError):
            shutil.rmtree(root)
