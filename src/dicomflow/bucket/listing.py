"""Lists the bucket, a folder or S3, so that one odd name does not hide the others.

obstore ends a listing at the first name that is no path of its own: bytes that are no UTF-8, a control character, an
empty segment, a link to a folder above. A folder is walked here, and what S3 has of such keys is asked of boto3.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import obstore
from obstore.exceptions import InvalidPathError
from obstore.store import LocalStore, ObjectStore, S3Store

from dicomflow.errors import TransientError

__all__ = ["ListedObject", "TellOdd", "list_objects"]

TellOdd = Callable[[str, str], None]
"""Is told the name of what cannot be read, percent-encoded, and why."""

PAGE: Final = 1000
_NOT_IN_A_KEY: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNDER_WAY: Final = re.compile(r"#\d+$")  # obstore's name of a file that is being written


_Folder = tuple[Path, str, frozenset[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object and what a listing says of it."""

    key: str
    bytes: int
    modified_at: datetime


class _OddError(Exception):
    """Why there is no object."""


def list_objects(
    store: ObjectStore, prefix: str = "", tell_odd: TellOdd = lambda _name, _reason: None
) -> Iterator[ListedObject]:
    """Yield the objects under a prefix, which ends in a slash, in no order; what no key can name is told instead.

    Raises:
        obstore.exceptions.BaseError: the store did not answer.
        OSError: the folder, or one below it, cannot be read; all others have been listed then.
        TransientError: S3 did not answer.
    """
    if isinstance(store, LocalStore) and store.prefix is not None:
        return _walk(Path(store.prefix), prefix, tell_odd)
    return _list(store, prefix, tell_odd)


def _list(store: ObjectStore, prefix: str, tell_odd: TellOdd) -> Iterator[ListedObject]:
    last = ""
    try:
        for page in obstore.list(store, prefix.rstrip("/") or None, chunk_size=PAGE):
            for meta in page:
                last = meta["path"]
                yield ListedObject(last, meta["size"], meta["last_modified"])
    except InvalidPathError:
        if not isinstance(store, S3Store):
            raise
        yield from _list_with_odd(store, prefix, last, tell_odd)


def _list_with_odd(store: S3Store, prefix: str, last: str, tell_odd: TellOdd) -> Iterator[ListedObject]:
    """Go on behind a key, in S3's order, past keys that obstore takes for none."""
    import boto3  # noqa: PLC0415  # an edge has it not, and lists nothing
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    config: Any = store.config
    own = f"{store.prefix}/" if store.prefix else ""
    start = {"Prefix": own + prefix, "StartAfter": own + last if last else ""}
    try:
        client: Any = boto3.client("s3", endpoint_url=config.get("endpoint"), region_name=config.get("region"))
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=config["bucket"], **start)
        for item in (item for page in pages for item in page.get("Contents", ())):
            key = item["Key"].removeprefix(own)
            segments = key.removesuffix("/").split("/")
            if _NOT_IN_A_KEY.search(key) or not {"", ".", ".."}.isdisjoint(segments):
                tell_odd(_quoted(key), "no object can be read by this key: copy it to another")
            else:
                yield ListedObject("/".join(segments), item["Size"], item["LastModified"])
    except (BotoCoreError, ClientError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}") from error


def _walk(root: Path, prefix: str, tell_odd: TellOdd) -> Iterator[ListedObject]:
    """Walk a folder as obstore does, links followed."""
    failed: list[OSError] = []
    waiting: list[_Folder] = [(root / prefix.rstrip("/"), prefix, frozenset())]
    while waiting:
        path, start, above = waiting.pop()
        try:
            found = path.stat()
            here = above | {(found.st_dev, found.st_ino)}
            entries = list(os.scandir(path))
        except FileNotFoundError:  # nothing has that prefix, or it has just gone
            if path == root:
                raise
            continue
        except PermissionError as error:
            if not above:
                raise
            tell_odd(_quoted(start), f"the folder cannot be read: {error.strerror}")
            continue
        except OSError as error:
            failed.append(error)
            continue
        for entry in entries:
            key = start + entry.name
            try:
                status = _status_of(entry, here)
            except _OddError as odd:
                tell_odd(_quoted(key), str(odd))
                continue
            if status is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append((Path(entry.path), f"{key}/", here))
            else:
                yield ListedObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
    if failed:
        raise failed[0]


def _status_of(entry: os.DirEntry[str], above: frozenset[tuple[int, int]]) -> os.stat_result | None:
    """Return the status of a file or folder, or None of what is not there yet or any more.

    Raises:
        _OddError: it cannot be read as an object or be walked into.
    """
    try:
        status = Path(entry.path).stat() if entry.is_dir() else entry.stat()  # on Windows an entry knows no inode
    except FileNotFoundError:
        if entry.is_symlink():
            raise _OddError("a link to nothing") from None
        return None
    except OSError as error:
        raise _OddError(f"it cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise _OddError("neither a file nor a folder")
    if _NOT_IN_A_KEY.search(entry.name):
        raise _OddError("no object can have this name in its key: rename it")
    if not stat.S_ISDIR(status.st_mode):
        return None if _UNDER_WAY.search(entry.name) else status
    if (status.st_dev, status.st_ino) in above:
        raise _OddError("a link to a folder that it is in")
    return status


def _quoted(key: str) -> str:
    return quote(os.fsencode(key))
