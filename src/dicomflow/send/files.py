"""What is to be sent: files, folders, zip archives and the files that a DICOMDIR names, found and read one by one.

A file's head is read once; a small file is kept from that, a large one is mapped when it is sent, and a member of an
archive is unpacked then.
"""

import contextlib
import lzma
import mmap
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from dicomflow.dicom.encoding import EXPLICIT, IMPLICIT, UNDEFINED, judge_encoding
from dicomflow.dicom.part10 import FileMeta, decode_file_meta
from dicomflow.dicom.scan import HEAD_BYTES, Identity, identify
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, is_usable, strip_padding
from dicomflow.dicom.walk import open_data_set
from dicomflow.errors import PeerError, PermanentError

__all__ = ["Candidate", "Skipped", "StoredFile", "find_candidates", "read_stored_file"]

_MAPPED_FROM_BYTES: Final = 1 << 20
# PS3.10 8: the directory of a medium; it is no instance, and no receiver takes it.
_MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_OPEN_ARCHIVES: Final = 8
_PIXEL_DATA: Final = 0x7FE00010

_Content = bytes | None  # the fields of a file have a name like this


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why something is not sent; `is_failure` when an image may be missing by it, or the caller had named it."""

    reason: str
    is_failure: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may be sent: a file, or the member of a zip archive; `is_named` when the caller named it.

    `skipped` says why it cannot be sent, where that is known without reading it.
    """

    path: Path
    bytes: int
    modified_ns: int
    member: str | None = None
    is_named: bool = False
    skipped: Skipped | None = None

    @property
    def name(self) -> str:
        """How it is shown; bytes of a name that are no text of this system are replaced."""
        name = str(self.path) if self.member is None else f"{self.path}!{self.member}"
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A Part 10 file that can be sent; `content` is the whole of a small one."""

    path: Path
    meta: FileMeta
    bytes: int
    member: str | None = None
    content: _Content = field(default=None, repr=False)

    @contextlib.contextmanager
    def data_set(self) -> Iterator[memoryview]:
        """Give the encoded data set; raises `OSError` or `PermanentError` when it cannot be read."""
        if self.content is not None:
            yield memoryview(self.content)[self.meta.data_set_offset :]
        elif self.member is None and self.bytes < _MAPPED_FROM_BYTES:
            yield memoryview(self.path.read_bytes())[self.meta.data_set_offset :]
        else:
            with (
                self._opened() as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as whole,
                whole[self.meta.data_set_offset :] as data_set,
            ):
                yield data_set

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        # Unpacked beside nothing: the file has no name, and goes with its last user.
        with tempfile.TemporaryFile() as unpacked:
            with _reading(self.path, self.member) as packed:
                shutil.copyfileobj(packed, unpacked, _MAPPED_FROM_BYTES)
            unpacked.flush()
            yield unpacked


def find_candidates(paths: Sequence[Path]) -> Iterator[Candidate]:
    """Yield what the paths lead to, in order: files themselves, what folders and archives hold, what a DICOMDIR names.

    What cannot be looked at is a candidate that says so, and ends nothing: the others are found all the same.
    """
    for path in paths:
        try:
            yield from _of_path(path)
        except (PermanentError, OSError) as error:
            yield _unreadable(path, error)


def read_stored_file(path: Path, member: str | None = None) -> StoredFile:
    """Read a file's meta information, and of its data set what the command must agree with.

    The SOP Class and SOP Instance UID of a C-STORE are those of the data set (PS3.7 9.3.1.1). Where the file meta
    information names others, as after a careless copy, the data set's are taken.

    Raises:
        PeerError: it is no Part 10 file, or names no SOP class and instance, or is a DICOMDIR.
        OSError: it cannot be read.
        PermanentError: it is in an archive that cannot be read.
    """
    with path.open("rb", buffering=0) if member is None else _reading(path, member) as file:
        head = file.read(HEAD_BYTES)
        size = os.fstat(file.fileno()).st_size if member is None else _info(path, member).file_size
        meta, found = _identified(file, head)
    sop_class_uid = strip_padding(found.sop_class_uid or b"")
    sop_instance_uid = strip_padding(found.sop_instance_uid or b"")
    meta = replace(
        meta,
        sop_class_uid=sop_class_uid if is_usable(sop_class_uid) else meta.sop_class_uid,
        sop_instance_uid=sop_instance_uid if is_usable(sop_instance_uid) else meta.sop_instance_uid,
    )
    if meta.sop_class_uid == _MEDIA_STORAGE_DIRECTORY:
        raise PeerError("a DICOMDIR is no instance; name it to send the files that it lists")
    if not is_usable(meta.sop_class_uid) or not is_usable(meta.sop_instance_uid):
        raise PeerError("file meta information names no SOP Class UID and SOP Instance UID")
    return StoredFile(path, meta, size, member, head if len(head) == size else None)


def _identified(file: BinaryIO, head: bytes) -> tuple[FileMeta, Identity]:
    try:
        meta = decode_file_meta(head)
    except PeerError:
        found = _without_preamble(file, head)
        if found is None:
            raise
        return found
    try:
        return meta, identify(file, head, meta)
    except PeerError:
        return meta, Identity(None, None, None, None)  # the receiver is to judge it


def _without_preamble(file: BinaryIO, head: bytes) -> tuple[FileMeta, Identity] | None:
    """Read a data set that stands in a file by itself, as older archives keep them, or None where it is none.

    Its encoding is what its first elements say; of encapsulated pixel data nobody could say the transfer syntax.
    """
    encoding = judge_encoding(head, IMPLICIT_VR_LITTLE_ENDIAN)
    syntax = {IMPLICIT: IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT: EXPLICIT_VR_LITTLE_ENDIAN}.get(encoding)
    if syntax is None or not head.startswith(b"\x08\x00"):
        return None
    meta = FileMeta("", "", syntax, "", "", 0)
    try:
        found = identify(file, head, meta)
        if not (is_usable(strip_padding(found.sop_class_uid or b"")) and found.sop_instance_uid):
            return None
        file.seek(0)
        with open_data_set(file, syntax) as data_set:
            if any(each.tag == _PIXEL_DATA and each.length == UNDEFINED for each in data_set.elements()):
                return None
    except (PeerError, OSError, ValueError):
        return None
    return meta, found


def _of_path(path: Path) -> Iterator[Candidate]:
    if path.is_dir():
        yield from _of_folder(path)
    elif path.suffix.lower() == ".zip":
        yield from _of_archive(path)
    elif path.name.upper() == "DICOMDIR":
        yield from _of_directory(path)
    else:
        yield _of_file(path, is_named=True)


def _of_file(path: Path, *, is_named: bool) -> Candidate:
    """Look at a file, without opening what is none: to open a FIFO waits for its writer."""
    try:
        found = path.stat()
    except OSError as error:  # a link that leads nowhere, or round and round
        return _unreadable(path, error)
    if not stat.S_ISREG(found.st_mode):
        return Candidate(
            path, 0, 0, is_named=is_named, skipped=Skipped("it is no file, but a device or the like", is_named)
        )
    return Candidate(path, found.st_size, found.st_mtime_ns, is_named=is_named)


def _unreadable(path: Path, error: Exception) -> Candidate:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return Candidate(path, 0, 0, is_named=True, skipped=Skipped(reason, is_failure=True))


def _of_folder(folder: Path) -> Iterator[Candidate]:
    errors: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders.sort()
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink():  # it may lead anywhere, as back to here
                yield Candidate(
                    path, 0, 0, skipped=Skipped("it is a link to a folder; name it to send what is in it", False)
                )
        for name in sorted(names):
            yield _of_file(Path(parent, name), is_named=False)
        while errors:
            error = errors.pop()
            yield _unreadable(Path(error.filename or folder), error)
    for error in errors:
        yield _unreadable(Path(error.filename or folder), error)


def _of_archive(path: Path) -> Iterator[Candidate]:
    modified_ns = path.stat().st_mtime_ns
    for info in _open_archive(path).infolist():
        if not info.is_dir():
            yield Candidate(path, info.file_size, modified_ns, info.filename)


def _of_directory(path: Path) -> Iterator[Candidate]:
    """Yield the files that a DICOMDIR's records reference (PS3.3 F.3), each as if it were named."""
    from pydicom import dcmread  # noqa: PLC0415  # dear, and seldom needed

    try:
        records = list(dcmread(path, specific_tags=["DirectoryRecordSequence"]).get("DirectoryRecordSequence") or [])
    except OSError:
        raise
    except Exception as error:  # pydicom raises anything on a broken file
        raise PermanentError(f"{path} is no DICOMDIR") from error
    listed: dict[Path, list[str]] = {}
    for number, record in enumerate(records, 1):
        try:
            name = record.get("ReferencedFileID")
            parts = [name] if isinstance(name, str) else [str(part) for part in name or ()]
            if any(parts):
                yield _of_file(_on_medium(path.parent, parts, listed), is_named=True)
        except PermanentError as error:
            yield _unreadable(path, error)
        except Exception as error:  # noqa: BLE001  # as above, around one record of many
            yield _unreadable(path, PermanentError(f"record {number} cannot be read: {type(error).__name__}"))


def _on_medium(root: Path, parts: Sequence[str], listed: dict[Path, list[str]] | None = None) -> Path:
    """Return a file of a medium, as its names are spelt there; one that is missing where it should be.

    Copies of media have names in lower or mixed case, with an extension, or with ISO 9660's version (`;1`), which a
    File ID has not (PS3.10 8.2). A File ID names nothing outside (PS3.10 8.5), and neither may what lies there.

    Args:
        root: the folder of the DICOMDIR.
        parts: the File ID's components.
        listed: folders that were listed, kept by the caller.

    Raises:
        PermanentError: it is a link that leaves the medium.
    """
    names = [
        part.replace("/", "_").replace("\\", "_").replace("\0", "_") for part in parts if part not in {".", "..", ""}
    ]
    path = root
    for number, name in enumerate(names, 1):
        path /= _spelt(path, name, {} if listed is None else listed, is_file=number == len(names))
    if path.exists() and not path.resolve().is_relative_to(root.resolve()):
        raise PermanentError(f"{path} leads out of the medium")
    return path


def _spelt(folder: Path, name: str, listed: dict[Path, list[str]], *, is_file: bool) -> str:
    """Return a component as a folder has it, the same one if it has none like it."""
    if folder not in listed:
        try:
            listed[folder] = sorted(path.name for path in folder.iterdir())
        except OSError:
            listed[folder] = []
    wanted = name.casefold()

    def likeness(found: str) -> int | None:
        bare = found.casefold().partition(";")[0].rstrip(".")
        if found == name:
            return 0
        if found.casefold() == wanted:
            return 1
        if bare == wanted:
            return 2
        if is_file and bare.rpartition(".")[0] == wanted:
            return 3 if bare.endswith(".dcm") else 4
        return None

    like = [(rank, found) for found in listed[folder] if (rank := likeness(found)) is not None]
    return min(like)[1] if like else name


@contextlib.contextmanager
def _reading(path: Path, member: str) -> Iterator[BinaryIO]:
    try:
        with _open_archive(path).open(member) as file:
            yield file  # type: ignore[misc]  # an IO[bytes], which has what we use of a BinaryIO
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError, EOFError) as error:
        raise PermanentError(f"{path} does not give {member}: {error}") from error


def _info(path: Path, member: str) -> zipfile.ZipInfo:
    return _open_archive(path).getinfo(member)


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive once; a ZipFile may be read by several threads."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise PermanentError(f"{path} is no zip archive") from error
