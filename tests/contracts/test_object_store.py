"""What edge and pipeline rely on in any object store, held over each kind that is there."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from object_stores import make_bucket, make_s3_client
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store

KEY = "site-1/0b8f0f6e-0d5c-4c1e-9d43-2f4f3f5a6b7c/1.2.3/1.2.3.1/1.2.3.1.7.dcm"


# What the server on disk does not serve: ranges as obstore asks for them, and conditions on a put. The pipeline reads
# ranges, and nothing is put with a condition.
RANGES_AND_CONDITIONS = pytest.mark.parametrize("open_store", ["folder", "s3"], indirect=True)


@pytest.fixture(params=["folder", "s3", "s3 on disk"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ObjectStore]:
    """Open an empty store of each kind as the edge does; each call opens the same one anew, as another process does."""
    if request.param == "folder":
        settings = DeliverySettings(store_url=(tmp_path / "objects").as_uri())
    else:
        request.getfixturevalue("aws_environment")
        endpoint = request.getfixturevalue("disk_s3_endpoint" if "disk" in request.param else "s3_endpoint")
        bucket = make_bucket(make_s3_client(endpoint))
        settings = DeliverySettings(store_url=f"s3://{bucket}", endpoint=endpoint)
    return lambda: build_store(settings)


@pytest.fixture
def store(open_store: Callable[[], ObjectStore]) -> ObjectStore:
    """Give an empty store of each kind."""
    return open_store()


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_object_put_is_read_back_whole(store: ObjectStore, size: int):
    """What was put is what is read, byte for byte, and its size is known."""
    content = os.urandom(size)
    obstore.put(store, KEY, content, use_multipart=False)
    assert content == bytes(obstore.get(store, KEY).bytes())
    assert size == obstore.head(store, KEY)["size"]


def test_object_put_is_visible_to_another_client(open_store: Callable[[], ObjectStore]):
    """An object is there for everybody once its put has returned."""
    obstore.put(open_store(), KEY, b"content")
    assert b"content" == bytes(obstore.get(open_store(), KEY).bytes())


def test_object_put_again_is_replaced_whole(store: ObjectStore):
    """A repeated put under one key leaves one object, the last one."""
    obstore.put(store, KEY, b"a longer first content")
    obstore.put(store, KEY, b"second")
    assert b"second" == bytes(obstore.get(store, KEY).bytes())
    assert [KEY] == _keys(store, "")


def test_missing_object_raises_file_not_found(store: ObjectStore):
    """Reading what is not there is told apart from every other failure."""
    for read in (obstore.get, obstore.head):
        with pytest.raises(FileNotFoundError):
            read(store, KEY)


@RANGES_AND_CONDITIONS
def test_range_of_an_object_is_read_alone(store: ObjectStore):
    """The head of an object is read without the rest; a range beyond the end gives what there is."""
    obstore.put(store, KEY, bytes(range(200)))
    assert bytes(range(16)) == bytes(obstore.get_range(store, KEY, start=0, end=16))
    assert bytes(range(190, 200)) == bytes(obstore.get_range(store, KEY, start=190, end=1000))
    assert bytes(range(200)) == bytes(obstore.get(store, KEY, options={"range": (0, 16_384)}).bytes())


@RANGES_AND_CONDITIONS
def test_ranges_of_many_objects_are_read_at_once(store: ObjectStore):
    """Many heads are read in parallel on one event loop."""
    keys = [f"site-1/d/1/2/{number}.dcm" for number in range(50)]
    for number, key in enumerate(keys):
        obstore.put(store, key, bytes([number]) * 100)

    async def _heads() -> list[bytes]:
        found = await asyncio.gather(*(obstore.get_range_async(store, key, start=0, end=4) for key in keys))
        return [bytes(each) for each in found]

    assert [bytes([number]) * 4 for number in range(50)] == asyncio.run(_heads())


def test_listing_of_a_prefix_gives_all_and_only_its_objects(store: ObjectStore):
    """A delivery's objects are listed without those of another whose name begins alike."""
    wanted = [f"site-1/d1/1.2/1.2.{series}/{number}.dcm" for series in (1, 2) for number in range(30)]
    for key in [*wanted, "site-1/d10/1.2/1.2.1/0.dcm", "site-10/d1/1.2/1.2.1/0.dcm", "manifests/site-1/d1.json"]:
        obstore.put(store, key, b"x")
    assert sorted(wanted) == _keys(store, "site-1/d1/")
    assert ["manifests/site-1/d1.json"] == _keys(store, "manifests/")
    assert [] == _keys(store, "nothing/")


@pytest.mark.parametrize("name", ["with space", "plus+sign", "p%20cent", "ä-ümlaut", "a=b&c", "(1)", "it's"])
def test_key_with_special_characters_stays_as_it_is(store: ObjectStore, name: str):
    """A key is a name, not a URL: what was put is found under the same text."""
    obstore.put(store, f"site-1/{name}/x.dcm", b"content")
    assert b"content" == bytes(obstore.get(store, f"site-1/{name}/x.dcm").bytes())
    assert [f"site-1/{name}/x.dcm"] == _keys(store, "site-1/")


def test_large_file_put_in_parts_is_one_object(store: ObjectStore, tmp_path: Path):
    """A file streamed in parts arrives whole under one key."""
    content = os.urandom((12 << 20) + 17)
    path = tmp_path / "large"
    path.write_bytes(content)

    async def _put() -> None:
        await obstore.put_async(store, KEY, path, use_multipart=True, chunk_size=5 << 20, max_concurrency=3)

    asyncio.run(_put())
    assert content == bytes(obstore.get(store, KEY).bytes())
    assert [KEY] == _keys(store, "")


@RANGES_AND_CONDITIONS
def test_conditional_put_of_an_existing_key_is_refused(store: ObjectStore):
    """`create` never replaces an object."""
    obstore.put(store, KEY, b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, KEY, b"second", mode="create")
    assert b"first" == bytes(obstore.get(store, KEY).bytes())


def test_deleted_object_is_gone(store: ObjectStore):
    """A deleted object is neither read nor listed."""
    obstore.put(store, KEY, b"x")
    obstore.delete(store, KEY)
    assert [] == _keys(store, "")


def _keys(store: ObjectStore, prefix: str) -> list[str]:
    return sorted(meta["path"] for batch in obstore.list(store, prefix or None) for meta in batch)
