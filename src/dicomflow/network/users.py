"""User names and passcodes of association requestors (PS3.7 D.3.3.7), checked against a file of scrypt hashes."""

from pathlib import Path
from typing import Final

from dicomflow.dimse.items import UserIdentity
from dicomflow.passcodes import PasscodeFile, hash_passcode

__all__ = ["Users", "hash_passcode"]

_USERNAME_AND_PASSCODE: Final = 2


class Users:
    """The users of one file, read again when it changes. Any thread.

    Raises:
        PermanentError: on creation, when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = PasscodeFile(path, "dimse.users_file")

    def look(self) -> int:
        """Return how many lines of the file are no users; see `PasscodeFile`."""
        return self._file.look()

    def accepts(self, identity: UserIdentity | None) -> bool:
        """Tell whether an identity is of type 2, known, and its passcode right."""
        if identity is None or identity.identity_type != _USERNAME_AND_PASSCODE:
            return False
        return self._file.accepts(identity.primary, identity.secondary)
