"""What lies in the spool, changed by a bad disk: nothing acknowledged goes without a trace, nothing ends the process.

A seed a test; `DICOMFLOW_TEST_SPOOL_ROUNDS` sets how many changes are tried.
"""

import hashlib
import logging
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.edge.deliver.instances import read_manifest
from dicomflow.edge.spool import segments
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.names import ReceivedFile, stem_of
from dicomflow.edge.spool.rotation import segments_of
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.edge.spool.unpacker import Unpacker

ROUNDS = int(os.environ.get("DICOMFLOW_TEST_SPOOL_ROUNDS", "300"))
PAGE = 4096


@pytest.fixture
def quiet() -> Iterator[None]:
    """Leave out the log of thousands of faults."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _changed(random_: random.Random, content: bytes, unit: int) -> bytes:
    """Return bytes flipped, cut, zeroed, moved or written over in places, in units and at any byte."""
    changed = bytearray(content)
    for _ in range(random_.randint(1, 3)):
        start = random_.randrange(max(1, len(changed))) if random_.random() < 0.5 else _page(random_, changed, unit)
        length = random_.choice((1, 8, 40, unit, 2 * unit, len(changed)))
        match random_.randrange(5):
            case 0:
                for at in range(start, min(start + random_.randint(1, 4), len(changed))):
                    changed[at] ^= 1 << random_.randrange(8)
            case 1:
                del changed[start:]
            case 2:
                changed[start : start + length] = bytes(len(changed[start : start + length]))
            case 3:
                other = _page(random_, changed, unit)
                first, second = changed[start : start + unit], changed[other : other + unit]
                if len(first) == len(second):
                    changed[start : start + unit], changed[other : other + unit] = second, first
            case 4:
                changed[start : start + length] = random_.randbytes(len(changed[start : start + length]))
    return bytes(changed)


def _page(random_: random.Random, content: bytearray, unit: int) -> int:
    return random_.randrange(max(1, len(content) // unit)) * unit


@pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")
@pytest.mark.parametrize("seed", [1])
def test_changed_segment_loses_nothing_without_a_trace(tmp_path: Path, quiet: None, seed: int):
    """Each instance is there whole, or something in quarantine tells that one is not."""
    random_ = random.Random(seed)
    lane = Lane(tmp_path / "spool", segment_bytes=16 * PAGE, fsync=False)
    names = set()
    for number, size in enumerate((10, 5000, 3900, 9000, 100, 4096, 7000)):
        content = random_.randbytes(size)
        lane.create("a" * 32, number).write([content]).commit("10.0.0.1")
        names.add(f"{stem_of('a' * 32, number, '10.0.0.1', hashlib.sha256(content).hexdigest())}.dcm")
    lane.segments = None
    (segment,) = segments_of(lane.folder)
    content, end = segment.read_bytes(), segment.with_suffix(".end").read_bytes()
    for round_number in range(ROUNDS):
        segment.write_bytes(_changed(random_, content, PAGE))
        segment.with_suffix(".end").write_bytes(end)
        traces: list[Path] = []
        lost: list[Path] = []
        unpacker = Unpacker(
            lane,
            fsync=False,
            quarantine=lambda file, _: (traces.append(file.path), file.path.unlink())[0],  # noqa: B023  # used at once
            quarantine_segment=lambda path, _: (lost.append(path), path.unlink())[0],  # noqa: B023  # as above
            aside=SetAside(),
        )
        while unpacker.unpack(random_.choice((1, 3, 100))):
            pass
        whole = set()
        for path in lane.unpacked.iterdir():
            file = ReceivedFile.of(path)
            assert file is not None
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256, (seed, round_number)
            whole.add(path.name)
            path.unlink()
        missing = names - whole - {path.name for path in traces}
        assert whole <= names
        assert not missing or lost, (seed, round_number, missing)
        assert [] == segments_of(lane.folder), (seed, round_number)
        for free in lane.folder.iterdir():
            free.unlink()


@pytest.mark.parametrize("seed", [2])
def test_changed_manifest_is_one_of_its_delivery_or_none(tmp_path: Path, quiet: None, seed: int):
    """Reading a note ends in a manifest of this delivery, or in its being put aside; never in another exception."""
    random_ = random.Random(seed)
    now = datetime(2026, 1, 31, tzinfo=UTC)
    instances = tuple(
        Instance(f"1.2.{n}", "1.2", "1.2.840", f"site-1/d1/1/2/1.2.{n}.dcm", n, "0" * 64, now.isoformat(), "a1")
        for n in range(5)
    )
    folder = tmp_path / "d1"
    folder.mkdir()
    manifest = Manifest(
        "site-1",
        "d1",
        now,
        now,
        (Association("a1", "CT1", "EDGE", "10.0.0.1", "released"),),
        (Study("1", (Series("2", instances),)),),
    )
    content = manifest.to_json()
    tokens = (b"null", b"[]", b"{}", b"-1", b"1e999", b'"x"', b"true", b"9" * 5000, b"[" * 3000, b"\\ud800", b"\xff")
    for round_number in range(ROUNDS):
        changed = _changed(random_, content, 16)
        if random_.random() < 0.5:
            pieces = content.split(b":")
            at = random_.randrange(1, len(pieces))
            rest = pieces[at][1:].partition(b",")
            pieces[at] = random_.choice(tokens) + rest[1] + rest[2]
            changed = b":".join(pieces)
        (folder / "manifest.json").write_bytes(changed)
        found = read_manifest(folder, "site-1")
        if found is None:
            (aside,) = folder.glob("manifest.json.damaged*")
            assert changed == aside.read_bytes(), (seed, round_number)
            aside.unlink()
        else:
            assert ("site-1", "d1") == (found.edge, found.delivery)
            Manifest.from_json(found.to_json())
