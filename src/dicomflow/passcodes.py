"""Files of users and their passcodes, checked against scrypt hashes: the edge's requestors, the console's operators.

A line of the file is `name:salt:hash`, salt and hash in hex; empty lines and those that begin with # are skipped.
`hash_passcode` makes a line. Knows neither associations nor HTTP.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from dicomflow.errors import PermanentError
from dicomflow.regularfiles import read_regular

__all__ = ["KnownUsers", "PasscodeFile", "hash_passcode"]

KnownUsers: TypeAlias = Mapping[str, tuple[bytes, bytes]]  # salt and hash by name

# About 50 ms and 16 MiB a check (RFC 7914); an answer is remembered, for senders that associate per object.
_COST: Final = {"n": 1 << 14, "r": 8, "p": 1}
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_MAX_REMEMBERED: Final = 1000
_CHECKS_AT_ONCE: Final = {True: 2, False: 1}
_BOM: Final = b"\xef\xbb\xbf"

_logger = logging.getLogger(__name__)


class PasscodeFile:
    """The users of one file, read again when it changes. Any thread; `_lock` guards what was read and is remembered.

    A line that is no user costs itself only, at the start too: it is logged by its number and counted in `bad_lines`.
    A file that cannot be read any more leaves what was read last in force.

    `setting` is what the file is called where it was named, for the messages; `in_force` are the users that stand where
    it cannot be read on creation, of a process that takes the place of another.

    Raises:
        PermanentError: on creation, when the file cannot be read and none are in force.
    """

    def __init__(self, path: Path, setting: str, in_force: KnownUsers | None = None) -> None:
        self.bad_lines = 0
        self._is_away = False
        self._path = path
        self._setting = setting
        self._lock = threading.Lock()
        # By whether the name is known: guesses at others do not make those wait whose passcode must be checked.
        self._checking = {is_known: threading.BoundedSemaphore(count) for is_known, count in _CHECKS_AT_ONCE.items()}
        self._key = os.urandom(32)  # so that what is remembered is of no use elsewhere
        self._seen: object = None
        self._hashes: KnownUsers = in_force or {}
        self._right: set[bytes] = set()  # no more than there are users
        self._wrong: set[bytes] = set()
        if in_force is not None:
            self._read_again()
            return
        try:
            self._read()
        except OSError as error:
            raise PermanentError(f"{setting} {path} cannot be read: {error.strerror}") from error

    def accepts(self, name: bytes, passcode: bytes) -> bool:
        """Tell whether a name, in UTF-8, is known and its passcode right."""
        asked = self._digest_of(name, passcode)
        with self._lock:
            self._read_again()
            if asked in self._right or asked in self._wrong:
                return asked in self._right
            hashes = self._hashes
        known = hashes.get(name.decode("utf-8", "replace"))
        with self._checking[known is not None]:
            if asked in self._right:  # a device opens several associations at once
                return True
            # An unknown name costs as much as a known one.
            salt, expected = known or (bytes(_SALT_BYTES), b"")
            is_right = hmac.compare_digest(_derive(passcode, salt), expected) and known is not None
        with self._lock:
            if hashes is self._hashes:  # else the file was read again meanwhile
                self._remember(asked, is_right=is_right)
        return is_right

    def remembers(self, name: bytes, passcode: bytes) -> bool:
        """Tell whether a passcode was found right before, and the file has not changed since; it costs no check."""
        asked = self._digest_of(name, passcode)
        with self._lock:
            self._read_again()
            return asked in self._right

    def _digest_of(self, name: bytes, passcode: bytes) -> bytes:
        return hmac.digest(self._key, len(name).to_bytes(4, "big") + name + passcode, "sha256")

    @property
    def has_users(self) -> bool:
        """Whether the file, as it was read last, names anybody."""
        return bool(self._hashes)

    @property
    def in_force(self) -> KnownUsers:
        """The users as they were read last."""
        return self._hashes

    def look(self) -> int:
        """Read the file again if it changed; return how many of its lines are no users, or 1 if it cannot be read."""
        with self._lock:
            self._read_again()
            return 1 if self._is_away else self.bad_lines

    def _remember(self, asked: bytes, *, is_right: bool) -> None:
        if is_right:
            self._right.add(asked)
            return
        if len(self._wrong) >= _MAX_REMEMBERED:
            self._wrong.clear()
        self._wrong.add(asked)

    def _read_again(self) -> None:
        try:
            if self._is_away or _state(self._path) != self._seen:
                self._read()
            self._is_away = False
        except OSError as error:
            if not self._is_away:  # each association asks
                _logger.warning("users_not_reloaded file=%s errno=%s", self._path, error.errno)
            self._is_away = True

    def _read(self) -> None:
        """Take the users that the file has now; raises `OSError`."""
        self._seen = _state(self._path)
        users: dict[str, tuple[bytes, bytes]] = {}
        bad_lines = 0
        for number, line in enumerate(read_regular(self._path, follow=True).removeprefix(_BOM).splitlines(), 1):
            if not line.strip() or line.strip().startswith(b"#"):
                continue
            user = _user_of(line.strip())
            if user is None:
                bad_lines += 1
                _logger.warning("user_line_ignored file=%s line=%d reason=not name:salt:hash", self._path, number)
            else:
                users[user[0]] = user[1:]
        self._hashes, self.bad_lines = users, bad_lines
        self._right.clear()
        self._wrong.clear()


def _state(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _user_of(line: bytes) -> tuple[str, bytes, bytes] | None:
    """Return name, salt and hash of a line; None for one that has no such."""
    with contextlib.suppress(ValueError):
        name, salt, digest = line.decode("utf-8").rsplit(":", 2)
        user = name, bytes.fromhex(salt), bytes.fromhex(digest)
        if name and user[1] and len(user[2]) == _HASH_BYTES:
            return user
    return None


def hash_passcode(name: str, passcode: str) -> str:
    """Return the file's line for a user."""
    salt = os.urandom(_SALT_BYTES)
    return f"{name}:{salt.hex()}:{_derive(passcode.encode(), salt).hex()}"


def _derive(passcode: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(passcode, salt=salt, dklen=_HASH_BYTES, maxmem=64 << 20, **_COST)
