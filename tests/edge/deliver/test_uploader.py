"""Puts: the bytes that were acknowledged, or none."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore
from spool_files import receive

from dicomflow.edge.deliver import uploader as uploader_module
from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.deliver.uploader import DamagedFileError, Uploader, backoff_seconds
from dicomflow.edge.spool.folders import Spool

KEY = "site/d1/1.2/1.2.1/1.2.3.dcm"


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Give the folder of an empty store."""
    return tmp_path / "objects"


@pytest.fixture
def uploader(objects: Path) -> Uploader:
    """Give an uploader to that folder."""
    return Uploader(lambda: LocalStore(objects, mkdir=True), objects)


@pytest.fixture
def instance_of(spool: Spool) -> Callable[[bytes], ReceivedInstance]:
    """Spool bytes as an instance."""

    def _instance_of(content: bytes) -> ReceivedInstance:
        received = receive(spool, content)
        now = datetime.now(UTC)
        return ReceivedInstance(
            received, "1.2.3", "1.2", "1.2.840.10008.1.2", "1.2", "1.2.1", len(content), now, "A", "B"
        )

    return _instance_of


def test_put_instance_stores_the_acknowledged_bytes(uploader: Uploader, objects: Path, instance_of: Any):
    """On return the object holds the file's bytes, and the file is still in the spool."""
    instance = instance_of(b"content")
    asyncio.run(uploader.put_instance(instance, KEY))
    assert b"content" == (objects / KEY).read_bytes()
    assert instance.file.path.exists()


def test_retry_gives_the_same_key(uploader: Uploader, objects: Path, instance_of: Any):
    """A put that is repeated replaces the object by the same bytes."""
    instance = instance_of(b"content")
    for _ in range(2):
        asyncio.run(uploader.put_instance(instance, KEY))
    assert [objects / KEY] == [path for path in objects.rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", [b"conten", b"contenT", b"", b"content "])
@pytest.mark.parametrize("limits", [(), ("_BUFFER_BYTES",), ("_BUFFER_BYTES", "_MULTIPART_ABOVE_BYTES")])
def test_truncated_local_file_is_never_uploaded(
    uploader: Uploader, objects: Path, instance_of: Any, monkeypatch: pytest.MonkeyPatch, damage: bytes, limits: Any
):
    """A spooled file whose bytes are not those of its digest is not stored, small, larger or large."""
    for limit in limits:
        monkeypatch.setattr(uploader_module, limit, 0)
    instance = instance_of(b"content")
    instance.file.path.write_bytes(damage)
    with pytest.raises(DamagedFileError, match="SHA-256"):
        asyncio.run(uploader.put_instance(instance, KEY))
    assert not (objects / KEY).exists()


def test_large_object_is_streamed_and_stored_whole(
    uploader: Uploader, objects: Path, instance_of: Any, monkeypatch: pytest.MonkeyPatch
):
    """Above the threshold an object goes in parts and arrives whole."""
    monkeypatch.setattr(uploader_module, "_MULTIPART_ABOVE_BYTES", 2 << 20)
    content = os.urandom(20 << 20)
    asyncio.run(uploader.put_instance(instance_of(content), KEY))
    assert content == (objects / KEY).read_bytes()


def test_buffer_that_the_store_still_reads_is_not_used_again(instance_of: Any):
    """A store that keeps what it was given, as one in memory does, keeps it unchanged."""
    store = MemoryStore()
    uploader = Uploader(lambda: store, None)
    contents = [bytes([each]) * 5000 for each in range(5)]
    for number, content in enumerate(contents):
        asyncio.run(uploader.put_instance(instance_of(content), str(number)))
    assert contents == [bytes(obstore.get(store, str(number)).bytes()) for number in range(5)]


def test_buffers_are_as_many_as_puts_at_once(uploader: Uploader, objects: Path, instance_of: Any):
    """One after the other, puts share one buffer, those that failed included."""
    damaged = instance_of(b"content")
    damaged.file.path.write_bytes(b"other")
    with pytest.raises(DamagedFileError):
        asyncio.run(uploader.put_instance(damaged, KEY))
    for _ in range(5):
        content = os.urandom(5000)
        asyncio.run(uploader.put_instance(instance_of(content), KEY))
        assert content == (objects / KEY).read_bytes()
    assert 1 == len(uploader._buffers)


def test_manifest_is_stored_and_put_again_the_same(uploader: Uploader, objects: Path, instance_of: Any):
    """A manifest may be put again after a crash."""
    asyncio.run(uploader.put_instance(instance_of(b"content"), KEY))
    for _ in range(2):
        asyncio.run(uploader.put_manifest("manifests/site/d1.json", b"{}", {KEY: len(b"content")}))
    assert b"{}" == (objects / "manifests/site/d1.json").read_bytes()


def test_pauses_grow_with_jitter_up_to_a_minute():
    """Pauses double from half a second, never the same for all, never above a minute."""
    for attempt, longest in [(1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (10**6, 60)]:
        pauses = [backoff_seconds(attempt) for _ in range(100)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
