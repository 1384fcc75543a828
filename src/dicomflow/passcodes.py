"""Files of users and their passcodes, checked against scrypt hashes: the edge's requestors, the console's operators.

A line of the file is `name:salt:hash`, salt and hash in hex; empty lines and those that begin with # are skipped.
`hash_passcode` makes a line. Knows neither associations nor HTTP.
"""

import hashlib
import hmac
import os
import threading
from pathlib import Path
from typing import Final

from dicomflow.errors import PermanentError

__all__ = ["PasscodeFile", "hash_passcode"]

# About 50 ms and 16 MiB a check (RFC 7914); an answer is remembered, for senders that associate per object.
_COST: Final = {"n": 1 << 14, "r": 8, "p": 1}
_SALT_BYTES: Final = 16
_MAX_REMEMBERED: Final = 1000


class PasscodeFile:
    """The users of one file, read again when it changes. Any thread.

    `setting` is what the file is called where it was named, for the messages.

    Raises:
        PermanentError: on creation, when the file cannot be read or a line is malformed.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self._path = path
        self._setting = setting
        self._lock = threading.Lock()
        self._key = os.urandom(32)  # so that what is remembered is of no use elsewhere
        self._seen = path.stat().st_mtime_ns if path.exists() else 0
        self._hashes = self._read()
        self._remembered: dict[bytes, bool] = {}

    def accepts(self, name: bytes, passcode: bytes) -> bool:
        """Tell whether a name, in UTF-8, is known and its passcode right."""
        with self._lock:
            self._read_again()
            message = len(name).to_bytes(4, "big") + name + passcode
            asked = hmac.digest(self._key, message, "sha256")
            if asked not in self._remembered:
                if len(self._remembered) >= _MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[asked] = self._check(name, passcode)
            return self._remembered[asked]

    def _check(self, name: bytes, passcode: bytes) -> bool:
        # An unknown name costs as much as a known one.
        salt, expected = self._hashes.get(name.decode("utf-8", "replace"), (bytes(_SALT_BYTES), b""))
        return hmac.compare_digest(_derive(passcode, salt), expected)

    def _read_again(self) -> None:
        try:
            seen = self._path.stat().st_mtime_ns
        except OSError:
            return
        if seen != self._seen:
            self._hashes = self._read()
            self._seen = seen
            self._remembered.clear()

    def _read(self) -> dict[str, tuple[bytes, bytes]]:
        where = f"{self._setting} {self._path}"
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise PermanentError(f"{where} cannot be read: {error.strerror}") from error
        users: dict[str, tuple[bytes, bytes]] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                name, salt, digest = line.strip().rsplit(":", 2)
                users[name] = bytes.fromhex(salt), bytes.fromhex(digest)
            except ValueError as error:
                raise PermanentError(f"{where} line {number} is not name:salt:hash") from error
        return users


def hash_passcode(name: str, passcode: str) -> str:
    """Return the file's line for a user."""
    salt = os.urandom(_SALT_BYTES)
    return f"{name}:{salt.hex()}:{_derive(passcode.encode(), salt).hex()}"


def _derive(passcode: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(passcode, salt=salt, dklen=32, maxmem=64 << 20, **_COST)
