"""Who asks, what they may do, and who writes it down."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from dicomflow.archive.errors import NotAllowedError

__all__ = ["Audit", "Principal", "Right"]


class Right(StrEnum):
    """What may be done with an archive; each is given by itself."""

    QUERY = "query"
    RETRIEVE = "retrieve"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the audit trail names them: `web:ada`, `dimse:STATION1`."""

    name: str
    rights: frozenset[Right]

    def require(self, right: Right) -> None:
        """Let pass who has a right.

        Raises:
            NotAllowedError: this one has not.
        """
        if right not in self.rights:
            raise NotAllowedError(f"no right to {right}")


class Audit(Protocol):
    """The trail of who asked for what. Threads: any."""

    def record(self, principal: Principal, action: str, uid: str | None, details: Mapping[str, Any]) -> None:
        """Note what is about to be answered; `details` holds counts, UIDs and keywords, and no patient data.

        Raises:
            TransientError: it cannot be noted now, and so must not be answered.
        """
