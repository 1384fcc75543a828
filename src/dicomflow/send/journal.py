"""A journal of what a receiver has accepted, so that a send that was interrupted goes on where it was.

A text file: the first line names the receiver, every other one a file that was accepted, as JSON. It is a memory, not a
promise: a file whose line was lost is sent again, which changes nothing.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

from dicomflow.errors import PermanentError
from dicomflow.send.files import Candidate

__all__ = ["Journal"]

_FORMAT: Final = "dicomflow send 1"


class Journal:
    """What one receiver has accepted. Thread: one owner.

    Raises:
        PermanentError: on creation, when the file is another receiver's or no journal.
        OSError: on creation and in `add`, when it cannot be read or written.
    """

    def __init__(self, path: Path, receiver: str) -> None:
        self._accepted: set[bytes] = set()  # digests: two million names would take a gigabyte
        header = {"journal": _FORMAT, "receiver": receiver}
        is_new = not path.exists() or not path.stat().st_size
        if not is_new:
            self._read(path, header)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        if is_new:
            self._write(header)

    def has(self, candidate: Candidate) -> bool:
        """Tell whether a file was accepted as it is now: the same place, size and time of its last change.

        A folder is the same however it is spelt: from another folder, or through a link.
        """
        rest = (candidate.bytes, candidate.modified_ns)
        return any(_digest(name, *rest) in self._accepted for name in (_place(candidate), _spelt(candidate)))

    def add(self, candidate: Candidate, sop_instance_uid: str) -> None:
        """Note a file that was accepted; after a kill the line is there, after a power cut perhaps not."""
        self._write(
            {
                "file": _place(candidate),
                "bytes": candidate.bytes,
                "modified_ns": candidate.modified_ns,
                "sop_instance_uid": sop_instance_uid,
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, document: Mapping[str, object]) -> None:
        self._file.write(json.dumps(document) + "\n")
        self._file.flush()

    def _read(self, path: Path, header: dict[str, str]) -> None:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
            try:
                found = json.loads(first)
                if found["journal"] != _FORMAT:
                    raise PermanentError(f"{path} is no journal of `dicomflow send`")
            except (ValueError, KeyError, TypeError) as error:
                raise PermanentError(f"{path} is no journal of `dicomflow send`") from error
            if found != header:
                raise PermanentError(f"{path} is the journal of {found['receiver']}, not of {header['receiver']}")
            for line in file:
                try:
                    entry = json.loads(line)
                    self._accepted.add(_digest(entry["file"], entry["bytes"], entry["modified_ns"]))
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue  # a line that was cut off: its file is sent again


def _digest(name: str, size: int, modified_ns: int) -> bytes:
    text = f"{size} {modified_ns} {name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def _place(candidate: Candidate) -> str:
    """Return where a file is, whatever links and dots led there; its own name may be a link's."""
    return _with_member(os.path.join(_real(str(candidate.path.parent)), candidate.path.name), candidate)  # noqa: PTH118  # often


def _spelt(candidate: Candidate) -> str:
    """Return how an earlier version noted it."""
    return _with_member(str(candidate.path.absolute()), candidate)


def _with_member(name: str, candidate: Candidate) -> str:
    return name if candidate.member is None else f"{name}!{candidate.member}"


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
