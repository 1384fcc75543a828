"""What each destination gets of a delivery: two notes of the spool, JSON in UTF-8, written before anything is done.

`manifest.json.routes` in a delivery's folder is the `Plan`, durable before its first file is handed over: what was
decided stays decided, whatever happens to the rules. `share.json` in a destination's folder is its `Share`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicomflow.bucket.documents import Format, Text
from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.spool.names import MANIFEST_FILE

__all__ = ["PLAN_FILE", "SHARE_FILE", "Plan", "SeriesRoute", "Share"]

PLAN_FILE: Final = f"{MANIFEST_FILE}.routes"
SHARE_FILE: Final = "share.json"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class SeriesRoute:
    """Why a series goes to a destination: the route's name, or "" for the default store; `doubt` why none was asked."""

    series_instance_uid: Text
    route: Text
    doubt: Text = ""


@dataclass(frozen=True, slots=True)
class Share:
    """What one destination gets of a delivery; `configuration` is the digest of the rules that said so.

    `is_copied` tells that the destination had a profile then: de-identified copies may go to it, and no original.
    """

    destination: Text
    is_required: bool
    configuration: Text
    routes: tuple[SeriesRoute, ...]
    manifest: Manifest
    is_copied: bool = False

    def route_of(self) -> Mapping[str, SeriesRoute]:
        """Return the reasons by series."""
        return {each.series_instance_uid: each for each in self.routes}

    def to_json(self) -> bytes:
        """Encode it."""
        return _SHARE.encode(self)

    @classmethod
    def from_json(cls, encoded: bytes) -> "Share":
        """Decode one; raises `PermanentError` when the bytes are none."""
        return _SHARE.decode(encoded)


@dataclass(frozen=True, slots=True)
class Plan:
    """The shares of one delivery: each of its instances is in at least one."""

    shares: tuple[Share, ...]

    def share_of(self, destination: str) -> Share | None:
        """Return a destination's share."""
        return next((each for each in self.shares if each.destination == destination), None)

    def to_json(self) -> bytes:
        """Encode it."""
        return _PLAN.encode(self)

    @classmethod
    def from_json(cls, encoded: bytes) -> "Plan":
        """Decode one; raises `PermanentError` when the bytes are none."""
        return _PLAN.decode(encoded)


_SHARE: Final = Format(Share, "a share of version", _VERSION)
_PLAN: Final = Format(Plan, "a plan of version", _VERSION)
