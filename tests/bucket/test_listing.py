"""Listings: all that obstore lists is listed, and one odd name hides nothing of it."""

import errno
import os
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

from dicomflow.bucket import listing
from dicomflow.bucket.listing import list_objects

GOOD = ("edge/d1/1.2/1.2.1/1.dcm", "edge/d1/1.2/1.2.1/2.dcm", "manifests/edge/d1.json", "z/a b#1.dcm", "z/é%41\u202e")
ODD_NAMES = [b"a\nb.dcm", b"\xff.dcm", b"\xe9\x00"[:1], b"\x01", b"a\x7f", b"\xed\xa0\x80", b"tab\t.json"]


def listed(store: ObjectStore, prefix: str = "") -> tuple[list[str], dict[str, str]]:
    """Return the keys under a prefix, and what is told as odd."""
    odd: dict[str, str] = {}
    return sorted(each.key for each in list_objects(store, prefix, odd.__setitem__)), odd


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a bucket's folder with what is good in it."""
    for key in GOOD:
        path = tmp_path / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return tmp_path / "objects"


@pytest.mark.parametrize("prefix", ["", "edge/", "edge/d1/1.2/", "manifests/", "nothing/", "edg/"])
def test_listing_of_a_folder_is_that_of_obstore(root: Path, prefix: str):
    """Keys, sizes and times are the same, links are followed, and a file that is being written is not listed."""
    (root / "edge/under-way#1").touch()
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere/3.dcm").touch()
    (root / "edge/link").symlink_to(root.parent / "elsewhere")
    (root / "edge/file.dcm").symlink_to(root.parent / "elsewhere/3.dcm")
    store = LocalStore(root)
    theirs = [meta for page in obstore.list(store, prefix.rstrip("/") or None) for meta in page]
    ours = list(list_objects(store, prefix))
    assert {(each["path"], each["size"]) for each in theirs} == {(each.key, each.bytes) for each in ours}
    times = {each.key: each.modified_at for each in ours}
    assert all(abs((each["last_modified"] - times[each["path"]]).total_seconds()) < 0.001 for each in theirs)


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_name_that_is_no_key_is_told_and_hides_nothing(root: Path, name: bytes, kind: str):
    """It is told where it lies, in characters that any terminal takes."""
    path = root / "edge" / os.fsdecode(name)
    path.touch() if kind == "file" else path.mkdir()
    if kind == "folder":
        (path / "x.dcm").touch()
    store = LocalStore(root)
    keys, odd = listed(store)
    assert sorted(GOOD) == keys
    (told,) = odd
    assert told.isascii()
    assert told.isprintable()
    assert ([*GOOD[2:3]], {}) == listed(store, "manifests/")


def test_every_byte_in_a_name_is_listed_or_told(tmp_path: Path):
    """A name that is listed can be read, and one that cannot is told: obstore's rule, for each byte that a name has."""
    bytes_of_names = [value for value in range(256) if value not in {0, ord("/")}]
    for byte in bytes_of_names:
        (tmp_path / os.fsdecode(b"x" + bytes([byte]) + b"x")).write_bytes(b"content")
    store = LocalStore(tmp_path)
    keys, odd = listed(store)
    assert len(bytes_of_names) == len(keys) + len(odd)
    assert 127 - 32 - 1 == len(keys)  # ASCII without control characters and the slash
    for key in keys:
        assert b"content" == bytes(store.get(key).bytes())


def test_links_to_nowhere_and_in_a_circle_are_told(root: Path):
    """Each is told once; what lies beside is listed."""
    for name, target in {"loop": "..", "self": "self", "none": "/no/such", "zero": "/dev/zero"}.items():
        (root / "edge" / name).symlink_to(target)
    os.mkfifo(root / "edge/pipe.dcm")
    keys, odd = listed(LocalStore(root))
    assert sorted(GOOD) == keys
    assert {f"edge/{name}" for name in ("loop", "self", "none", "zero", "pipe.dcm")} == odd.keys()


def test_folder_that_may_not_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Such as lost+found, where the bucket is a file system of its own; root, which runs tests too, may read it."""
    (root / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    keys, odd = listed(LocalStore(root))
    assert (sorted(GOOD), ["lost%2Bfound/"]) == (keys, list(odd))


def test_bucket_that_is_gone_is_no_empty_one(root: Path):
    """A failure is not an empty answer."""
    store = LocalStore(root)
    root.rename(root.parent / "moved")
    with pytest.raises(FileNotFoundError):
        listed(store)


def test_key_that_is_no_path_in_s3_is_told_and_hides_nothing(
    aws_environment: pytest.MonkeyPatch, s3_endpoint: str, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    """S3 takes any text: the page with such a key, and all behind it, are asked of boto3."""
    monkeypatch.setattr(listing, "PAGE", 2)
    odd_keys = {"edge//x.dcm": "edge//x.dcm", "edge/../y": "edge/../y", "f/\x7f": "f/%7F"}
    for key in (*GOOD, *odd_keys):
        s3_client.put_object(Bucket=bucket, Key=key, Body=b"content")
    store = S3Store(bucket, endpoint=s3_endpoint, client_options={"allow_http": True})
    keys, odd = listed(store)
    assert (sorted(GOOD), sorted(odd_keys.values())) == (keys, sorted(odd))
    assert ([GOOD[2]], {}) == listed(store, "manifests/")
    below = S3Store(bucket, prefix="edge", endpoint=s3_endpoint, client_options={"allow_http": True})
    assert [key.removeprefix("edge/") for key in GOOD[:2]] == listed(below)[0]


def test_listing_of_another_store_is_its_own():
    """Whatever obstore opens is listed."""
    store = MemoryStore()
    store.put("a/b", b"1")
    assert (["a/b"], {}) == listed(store, "a/")
