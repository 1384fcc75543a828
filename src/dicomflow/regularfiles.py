"""Files that are opened for their names: regular ones only, and of those that are read whole no more than a bound.

A name in a folder may lead to anything. To open a FIFO waits until somebody writes, to read a device may never end, and
a huge file takes the host's memory. Here each of them is an `OSError`, at once, like a file that cannot be read.
"""

import errno
import hashlib
import itertools
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Final

__all__ = [
    "MOST_BYTES",
    "NotRegularError",
    "create_regular",
    "free_name",
    "has_digest",
    "is_special",
    "open_descriptor",
    "open_regular",
    "read_regular",
    "read_rest",
    "write_all",
]

# The longest that we write, a manifest of 5,000 instances, takes 3 MB.
MOST_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 64 << 10
_BINARY: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# Neither waits for who is at the other end, nor becomes the process's terminal.
_AT_ONCE: Final = _BINARY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
# What open(2) says of a link that is not followed, of a FIFO that nobody reads, and of a socket.
_NOT_REGULAR: Final = frozenset({errno.ELOOP, errno.ENXIO, getattr(errno, "EOPNOTSUPP", errno.ENXIO)})
_MODE: Final = 0o640


class NotRegularError(OSError):
    """What a name leads to is no regular file, nor a folder, and will not become one by waiting."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, "it is no regular file", str(path))


def open_descriptor(path: str | Path, flags: int, mode: int = _MODE, *, follow: bool = False) -> int:
    """Open a regular file and return its descriptor; never waits for anybody.

    Args:
        path: the file.
        flags: as of open(2).
        mode: of a file that is made.
        follow: whether it may be a link, as a file that an operator names may.

    Raises:
        NotRegularError: it is a link, FIFO, socket or device.
        OSError: it is a folder, or it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _AT_ONCE | (0 if follow else _NO_LINK), mode)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise NotRegularError(path) from error
        raise
    try:
        _check(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | Path, *, follow: bool = False) -> FileIO:
    """Open a regular file to be read, without a buffer; raises as `open_descriptor` does."""
    return FileIO(path, "rb", opener=lambda name, flags: open_descriptor(name, flags, follow=follow))


def create_regular(path: str | Path) -> FileIO:
    """Make a file, or empty a regular one, to be written without a buffer; raises as `open_descriptor` does."""
    return FileIO(path, "wb", opener=open_descriptor)


def free_name(path: Path) -> Path:
    """Return a name that nothing has: the path, or with a number behind it."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(each for each in itertools.chain([path], numbered) if not os.path.lexists(each))


def write_all(file: FileIO, content: bytes) -> None:
    """Write to an open file without a buffer, which may take less at once. Raises `OSError`."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]


def read_regular(path: str | Path, most_bytes: int = MOST_BYTES, *, follow: bool = False) -> bytes:
    """Return the content of a small regular file.

    Raises:
        OSError: it has more bytes than `most_bytes`, or as `open_descriptor` does.
    """
    with open_regular(path, follow=follow) as file:
        return read_rest(file, most_bytes)


def read_rest(file: FileIO, most_bytes: int = MOST_BYTES) -> bytes:
    """Return what an open file has behind where it is read; raises `OSError` where that is more than `most_bytes`."""
    content = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, most_bytes + 1 - len(content))):
        content += chunk
        if len(content) > most_bytes:
            found = max(len(content), os.fstat(file.fileno()).st_size)
            raise OSError(errno.EFBIG, f"it has {found:,} bytes, and at most {most_bytes:,} are read")
    return bytes(content)


def is_special(path: Path) -> bool:
    """Tell whether a name, which somebody else will open, leads to a FIFO, socket or device, by links too."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # who opens it is told
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _check(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotRegularError(path)


def has_digest(path: Path, sha256: str) -> bool:
    """Tell whether a file can be read and its bytes are those of a digest."""
    try:
        with open_regular(path) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == sha256
    except OSError:
        return False
