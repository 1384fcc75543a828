"""What a name leads to is opened if it is a regular file, and anything else is an error, at once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomflow.regularfiles import (
    NotRegularError,
    create_regular,
    is_special,
    open_descriptor,
    open_regular,
    read_regular,
    write_all,
)


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "FIFO": os.mkfifo,
    "socket": _listen,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
}
OPEN: dict[str, Callable[[Path], Any]] = {
    "read": read_regular,
    "open": open_regular,
    "create": create_regular,
    "append": lambda path: open_descriptor(path, os.O_WRONLY | os.O_APPEND),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
@pytest.mark.parametrize("use", OPEN)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_an_error_at_once(tmp_path: Path, kind: str, use: str, monkeypatch: Any):
    """Nobody waits for the other end of a FIFO, and nobody reads a device."""
    monkeypatch.chdir(tmp_path)  # a socket's name may not be long
    path = Path("x")
    SPECIAL[kind](path)
    with pytest.raises(NotRegularError, match="it is no regular file"):
        OPEN[use](path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
def test_file_that_an_operator_names_may_be_a_link_but_to_no_device(tmp_path: Path):
    """Configuration is often mounted as links."""
    (tmp_path / "file").write_bytes(b"here")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    assert b"here" == read_regular(tmp_path / "link", follow=True)
    assert not is_special(tmp_path / "link")
    assert is_special(tmp_path / "zeros")
    with pytest.raises(NotRegularError):
        read_regular(tmp_path / "zeros", follow=True)
    with pytest.raises(NotRegularError):
        read_regular(tmp_path / "link")


def test_huge_file_is_not_read(tmp_path: Path):
    """One byte more than the bound is an error that names both numbers, whatever the file says its size is."""
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    assert bytes(100) == read_regular(path, 100)
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes, and at most 100 are read"):
        read_regular(path, 100)


def test_file_is_emptied_and_written_whole(tmp_path: Path):
    """A file that was longer keeps nothing."""
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    with create_regular(path) as file:
        write_all(file, b"short")
    assert b"short" == path.read_bytes()


def test_folder_is_told_from_what_is_no_file(tmp_path: Path):
    """It is another error: a folder may become a file's, and can be opened."""
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    assert not is_special(tmp_path)
    assert not is_special(tmp_path / "nothing")
