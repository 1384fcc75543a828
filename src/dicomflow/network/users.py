"""User names and passcodes of association requestors (PS3.7 D.3.3.7), checked against a file of scrypt hashes."""

from pathlib import Path
from typing import Final

from dicomflow.dimse.items import UserIdentity
from dicomflow.passcodes import KnownUsers, PasscodeFile, hash_passcode

__all__ = ["KnownUsers", "Users", "hash_passcode"]

_USERNAME_AND_PASSCODE: Final = 2


class Users:
    """The users of one file, read again when it changes. Any thread.

    `in_force` are those that stand where the file cannot be read on creation.

    Raises:
        PermanentError: on creation, when the file cannot be read and none are in force.
    """

    def __init__(self, path: Path, in_force: KnownUsers | None = None) -> None:
        self._file = PasscodeFile(path, "dimse.users_file", in_force)

    @property
    def in_force(self) -> KnownUsers:
        """The users as they were read last."""
        return self._file.in_force

    def look(self) -> int:
        """Return how much of the file is not in force; see `PasscodeFile`."""
        return self._file.look()

    def accepts(self, identity: UserIdentity | None) -> bool:
        """Tell whether an identity is of type 2, known, and its passcode right."""
        if identity is None or identity.identity_type != _USERNAME_AND_PASSCODE:
            return False
        return self._file.accepts(identity.primary, identity.secondary)
