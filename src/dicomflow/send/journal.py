"""A journal of what a receiver has accepted, so that a send that was interrupted goes on where it was.

A text file: the first line names the receiver, every other one a file that was accepted, as JSON. It is a memory, not a
promise: a file whose line was lost is sent again, which changes nothing.
"""

import json
from collections.abc import Mapping
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
        self._accepted: set[tuple[str, int, int]] = set()
        header = {"journal": _FORMAT, "receiver": receiver}
        is_new = not path.exists() or not path.stat().st_size
        if not is_new:
            self._read(path, header)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        if is_new:
            self._write(header)

    def has(self, candidate: Candidate) -> bool:
        """Tell whether a file was accepted as it is now: the same name, size and time of its last change."""
        return _key(candidate) in self._accepted

    def add(self, candidate: Candidate, sop_instance_uid: str) -> None:
        """Note a file that was accepted; after a kill the line is there, after a power cut perhaps not."""
        name, size, modified_ns = _key(candidate)
        self._write({"file": name, "bytes": size, "modified_ns": modified_ns, "sop_instance_uid": sop_instance_uid})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, document: Mapping[str, object]) -> None:
        self._file.write(json.dumps(document) + "\n")
        self._file.flush()

    def _read(self, path: Path, header: dict[str, str]) -> None:
        with path.open(encoding="utf-8") as file:
            first, *lines = file.read().splitlines()
        try:
            found = json.loads(first)
            if found["journal"] != _FORMAT:
                raise PermanentError(f"{path} is no journal of `dicomflow send`")
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(f"{path} is no journal of `dicomflow send`") from error
        if found != header:
            raise PermanentError(f"{path} is the journal of {found['receiver']}, not of {header['receiver']}")
        for line in lines:
            try:
                entry = json.loads(line)
                self._accepted.add((entry["file"], entry["bytes"], entry["modified_ns"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off: its file is sent again


def _key(candidate: Candidate) -> tuple[str, int, int]:
    name = str(candidate.path.absolute())
    if candidate.member is not None:
        name += f"!{candidate.member}"
    return name, candidate.bytes, candidate.modified_ns
