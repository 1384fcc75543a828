"""Settings of destinations, and of the routes that say which of them get what; knows no other section.

`store` is the default store, `delivery.store_url`, and no destination's name.
"""

import fnmatch
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator

from dicomflow.edge.sources import BandwidthRule
from dicomflow.network.settings import AeTitle, ClientTls, Section

__all__ = [
    "DEFAULT_STORE",
    "AnyDestination",
    "Conditions",
    "Destination",
    "DestinationName",
    "DeviceCredentials",
    "Route",
    "StoreDestination",
    "StowDestination",
    "When",
    "check_routes",
    "nodes_of",
]

DEFAULT_STORE: Final = "store"
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


def _checked_destination(name: str) -> str:
    if name == DEFAULT_STORE or _NAME.fullmatch(name) is None:
        raise ValueError(f"a destination's name matches {_NAME.pattern} and is not {DEFAULT_STORE!r}")
    return name


DestinationName = Annotated[str, AfterValidator(_checked_destination)]


class DeviceCredentials(Section):
    """A device's certificate, for which AWS IoT gives credentials of a role: for edges without Greengrass."""

    endpoint: str = Field(pattern=r"^[A-Za-z0-9.-]+(:\d+)?$")
    role_alias: str = Field(pattern=r"^[\w=,@-]{1,128}$")
    thing: str = Field(pattern=r"^[a-zA-Z0-9:_-]{1,128}$")
    certificate: Path
    key: Path
    ca_certificate: Path | None = None


class _AnyDestination(Section):
    """What all destinations have, for what routes send them.

    What a destination that is not `required` has not taken within `keep_days` it never gets. A limit is of all that is
    sent at once; the first rule of `bandwidth` that fits the hour is in force instead of `max_bytes_per_second`.
    """

    required: bool = True
    profile: str | None = None
    keep_days: float = Field(7.0, gt=0)
    max_bytes_per_second: int = Field(0, ge=0)
    bandwidth: tuple[BandwidthRule, ...] = ()


class Destination(_AnyDestination):
    """A node that images are sent to, under the name by which a transfer asks for it; no address comes from elsewhere.

    `calling_ae_title` is the edge's own unless said; `tls` true trusts whom the system trusts. What it does not take is
    tried again for `keep_days`; of what a route sends it, only where it is not `required`. With `commitment` it is
    asked for storage commitment of what it has taken, which has arrived when it reports so within `commitment_hours`.
    """

    kind: Literal["dimse"] = "dimse"
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    ae_title: AeTitle
    calling_ae_title: AeTitle | None = None
    tls: bool | ClientTls = False
    associations: int = Field(2, ge=1, le=16)
    timeout_seconds: float = Field(60.0, gt=0)
    commitment: bool = False
    commitment_hours: float = Field(24.0, gt=0)


class StoreDestination(_AnyDestination):
    """Another bucket or folder, with credentials of its own, under keys that begin with `prefix`.

    Its credentials are those of the device, of an AWS profile, or what the AWS SDKs find; the rest is as of `delivery`.
    """

    kind: Literal["store"]
    url: str = Field(pattern=r"^(s3|file)://.+")
    prefix: str = Field("", pattern=r"^([A-Za-z0-9._-]+/)*[A-Za-z0-9._-]*$")
    aws_profile: str | None = Field(None, min_length=1)
    credentials: DeviceCredentials | None = None
    endpoint: str | None = Field(None, pattern=r"^https?://[^/]+")
    proxy_url: str | None = Field(None, pattern=r"^https?://[^/]+")
    proxy_excludes: str | None = None
    ca_certificate: Path | None = None
    kms_key_id: str | None = None
    concurrency: int = Field(4, ge=1, le=256)

    @field_validator("prefix")
    @classmethod
    def _ends_in_a_slash(cls, value: str) -> str:
        if any(set(part) == {"."} for part in value.split("/") if part):
            raise ValueError("a prefix has no part of dots alone")
        return value if not value or value.endswith("/") else f"{value}/"


class StowDestination(_AnyDestination):
    """An origin server that takes instances by STOW-RS (PS3.18 10.5), at `url` with `/studies` behind it.

    `authorization_file` has the text of the header Authorization; it is read for each request.
    """

    kind: Literal["stow"]
    url: str = Field(pattern=r"^https?://[^/?#]+[^?#]*$")
    authorization_file: Path | None = None
    ca_certificate: Path | None = None
    proxy_url: str | None = Field(None, pattern=r"^https?://[^/]+")
    timeout_seconds: float = Field(60.0, gt=0)
    concurrency: int = Field(2, ge=1, le=16)


def _kind_of(value: Any) -> str:  # a document, or a model
    kind = value.get("kind", "dimse") if isinstance(value, dict) else getattr(value, "kind", "dimse")
    return kind if isinstance(kind, str) else ""


AnyDestination = Annotated[
    Annotated[Destination, Tag("dimse")]
    | Annotated[StoreDestination, Tag("store")]
    | Annotated[StowDestination, Tag("stow")],
    Discriminator(_kind_of),
]


def _listed(value: Any) -> Any:  # as TOML has it
    return (value,) if isinstance(value, str) else value


_Globs = Annotated[tuple[str, ...] | None, BeforeValidator(_listed), Field(min_length=1)]


class Conditions(Section):
    """Globs, each of which one value of a series must fit, whatever the case: `*`, `?`, `[abc]`, and "" for no value.

    `sop_class` is a UID or the class's keyword.
    """

    calling_ae_title: _Globs = None
    called_ae_title: _Globs = None
    modality: _Globs = None
    study_description: _Globs = None
    series_description: _Globs = None
    body_part: _Globs = None
    station_name: _Globs = None
    sop_class: _Globs = None

    def globs(self) -> Mapping[str, tuple[str, ...]]:
        """Return those that are set, by their keys."""
        found = ((name, getattr(self, name)) for name in Conditions.model_fields)
        return {name: globs for name, globs in found if globs is not None}

    def fit(self, name: str, values: frozenset[str]) -> bool:
        """Tell whether one of a key's globs fits one of its values; "" fits where there is none."""
        globs = self.globs()[name]
        present = {each.strip().casefold() for each in values if each.strip()}
        if not present:
            return "" in globs
        return any(fnmatch.fnmatchcase(value, each.casefold()) for each in globs for value in present)


class When(Conditions):
    """What a series must be for a route: all conditions hold, and none of those in `not`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    excluded: Conditions = Field(Conditions(), alias="not")

    def keys(self) -> frozenset[str]:
        """Return the keys that are looked at."""
        return frozenset(self.globs()) | frozenset(self.excluded.globs())

    def holds_for(self, values: Mapping[str, frozenset[str]]) -> bool:
        """Tell whether it holds for a series, of which the values of each key are given."""
        return all(self.fit(name, values[name]) for name in self.globs()) and not any(
            self.excluded.fit(name, values[name]) for name in self.excluded.globs()
        )


class Route(Section):
    """Which destinations get a series; `name` is told where it decides, and is its number in the file unless said.

    All routes that fit are taken, up to one with `stop`.
    """

    name: str | None = Field(None, min_length=1, max_length=64)
    when: When = When()
    to: tuple[str, ...] = Field(min_length=1)
    stop: bool = False


def nodes_of(destinations: Mapping[str, AnyDestination]) -> dict[str, Destination]:
    """Return those that are reached over DIMSE and get originals, which archive and cloud may send to as well."""
    return {name: each for name, each in destinations.items() if isinstance(each, Destination) and each.profile is None}


def check_routes(
    routes: tuple[Route, ...], destinations: Mapping[str, AnyDestination], profiles: Collection[str]
) -> None:
    """Raise `ValueError` for a name that nobody knows, and for a route that leaves the original no home."""
    for name, each in destinations.items():
        if each.profile is None:
            continue
        if each.profile not in profiles:
            known = ", ".join(sorted(profiles))
            raise ValueError(f"destinations.{name}.profile is {each.profile!r}, which is none: there are {known}")
        if isinstance(each, Destination) and each.commitment:
            raise ValueError(f"destinations.{name}: storage commitment is not asked of who gets de-identified copies")
    for number, route in enumerate(routes, 1):
        title = f"routes: {route.name or f'route {number}'}"
        unknown = [name for name in route.to if name != DEFAULT_STORE and name not in destinations]
        if unknown:
            known = ", ".join([DEFAULT_STORE, *destinations])
            raise ValueError(f"{title} names {unknown[0]!r}, which is no destination: there are {known}")
        if not any(name == DEFAULT_STORE or _keeps_originals(destinations[name]) for name in route.to):
            raise ValueError(
                f"{title} goes only to destinations that are not required, or get no originals, so that an image could"
                f" end nowhere: name {DEFAULT_STORE!r}, or one that is required and has no profile"
            )
    names = [route.name for route in routes if route.name is not None]
    if len(set(names)) < len(names):
        raise ValueError("routes: two have one name")


def _keeps_originals(destination: AnyDestination) -> bool:
    return destination.required and destination.profile is None
