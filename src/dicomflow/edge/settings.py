"""The edge's settings: one TOML file, environment variables above it, read once at start.

An environment variable is `DICOMFLOW_EDGE__` and the path to the key, joined by two underscores:
`DICOMFLOW_EDGE__DIMSE__PORT=104`. Lists are written as JSON. Unknown and missing keys stop the program.
"""

import logging
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicomflow.bucket.keys import check_edge_name
from dicomflow.deidentify.pseudonyms import LEAST_SECRET_BYTES
from dicomflow.deidentify.settings import BASIC, BUILT_IN, ProfileSettings
from dicomflow.edge.destinations import (
    AnyDestination,
    Destination,
    DestinationName,
    DeviceCredentials,
    Route,
    StoreDestination,
    check_routes,
    nodes_of,
)
from dicomflow.edge.sources import BandwidthRule, Hours, Source, SourceName
from dicomflow.errors import PermanentError
from dicomflow.network.settings import AeTitle, ArchiveSettings, DimseSettings, Section
from dicomflow.regularfiles import read_regular
from dicomflow.spelling import describe_settings, meant, setting_paths

__all__ = [
    "BandwidthRule",
    "CommitmentPeer",
    "CommitmentSettings",
    "DeliverySettings",
    "Destination",
    "DeviceCredentials",
    "EdgeSettings",
    "Hours",
    "PriorityRule",
    "Route",
    "SettingsFile",
    "Source",
    "SpoolSettings",
    "StoreDestination",
    "build_settings",
    "load_settings",
    "read_document",
]

_RELOADED: Final = ("max_bytes_per_second", "bandwidth", "priorities")
ENVIRONMENT_PREFIX: Final = "DICOMFLOW_EDGE__"
# So that a name with one underscore too few is noticed too.
_LIKE_OURS: Final = "DICOMFLOW_EDGE"
# Some records of the largest size, or most of a segment would be left empty.
_LEAST_SEGMENT_BYTES: Final = 1 << 20
_ALL_ADDRESSES: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")

_logger = logging.getLogger(__name__)


class SpoolSettings(Section):
    """Where instances are kept until they are stored. `workers` 0 means one a core, at least two.

    Files of stored instances are kept up to `spare_bytes` in all, to be written over by new ones; 0 keeps none.
    Instances of up to 64 KiB are received into segments of `segment_bytes`; 0 gives each a file of its own.
    """

    dir: Path
    fsync: bool = True
    spare_bytes: int = Field(1 << 30, ge=0)
    segment_bytes: int = Field(8 << 20, ge=0, le=1 << 30)
    slow_below_bytes: int = Field(10 << 30, ge=0)
    refuse_below_bytes: int = Field(2 << 30, ge=0)
    workers: int = Field(0, ge=0, le=64)

    @field_validator("segment_bytes")
    @classmethod
    def _holds_a_record(cls, value: int) -> int:
        if 0 < value < _LEAST_SEGMENT_BYTES:
            raise ValueError(f"segment_bytes is {value:,}: 0 for none, or at least {_LEAST_SEGMENT_BYTES:,}")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.slow_below_bytes < self.refuse_below_bytes:
            raise ValueError(
                f"slow_below_bytes ({self.slow_below_bytes:,}) is below refuse_below_bytes"
                f" ({self.refuse_below_bytes:,}): stores would be refused before they are slowed"
            )
        return self


class PriorityRule(Section):
    """Deliveries that go first: those of a calling AE title, of a modality, or of both."""

    calling_ae_title: AeTitle | None = None
    modality: str | None = None
    rank: int = Field(ge=-100, le=100)


class DeliverySettings(Section):
    """How instances are gathered to deliveries and stored.

    `max_bytes_per_second` 0 means no limit; the first rule of `bandwidth` that fits the hour is in force instead.
    Deliveries of a higher rank go first, and of equal rank (0 without a rule) the oldest.
    """

    store_url: str
    endpoint: str | None = Field(None, pattern=r"^https?://[^/]+")
    proxy_url: str | None = Field(None, pattern=r"^https?://[^/]+")
    proxy_excludes: str | None = None
    ca_certificate: Path | None = None
    credentials: DeviceCredentials | None = None
    aws_profile: str | None = Field(None, min_length=1)
    concurrency: int = Field(8, ge=1, le=256)
    kms_key_id: str | None = None
    accelerate: bool = False
    quiet_seconds: float = Field(10.0, ge=0)
    max_seconds: float = Field(900.0, gt=0)
    max_files: int = Field(5000, ge=1, le=5000)
    max_bytes: int = Field(10_000_000_000, ge=1, le=10_000_000_000)
    skip_resent: bool = True
    ledger_days: float = Field(365.0, gt=0)
    max_bytes_per_second: int = Field(0, ge=0)
    bandwidth: tuple[BandwidthRule, ...] = ()
    priorities: tuple[PriorityRule, ...] = ()

    @model_validator(mode="after")
    def _has_one_endpoint(self) -> Self:
        if self.accelerate and self.endpoint is not None:
            raise ValueError("accelerate and endpoint exclude each other: acceleration has an endpoint of its own")
        return self


class CommitmentPeer(Section):
    """Where reports to an AE title go; `without_role` is for peers that accept without answering the role item.

    A peer that stays on the association of its request gets the report there, if its objects reach the level within
    `same_association_seconds`; with 0 always on a new association.
    """

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    without_role: bool = False
    same_association_seconds: float = Field(2.0, ge=0, le=60)


class CommitmentSettings(Section):
    """What storage commitment promises: that the object is spooled, stored or imported.

    An object that is imported and that no viewer sees is at the level `imported` with `accept_hidden` alone.
    `peers` gives the address of each AE title that may ask. A request waits `limit_seconds` for its objects to reach
    the level, and `settle_seconds` for objects that may have been received a moment ago; a report is tried again for
    `report_days`.
    """

    level: Literal["spooled", "stored", "imported"] = "stored"
    accept_hidden: bool = False
    peers: dict[AeTitle, CommitmentPeer] = Field({})
    limit_seconds: float = Field(86_400.0, gt=0)
    settle_seconds: float = Field(10.0, ge=0)
    report_days: float = Field(3.0, gt=0)


def _checked_profile(name: str) -> str:
    if name in BUILT_IN or _NAME.fullmatch(name) is None:
        raise ValueError(f"a profile's name matches {_NAME.pattern} and is not one that is built in, as {BASIC!r}")
    return name


class EdgeSettings(BaseSettings):
    """All settings of one edge; `name` becomes part of object keys."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__"
    )

    name: Annotated[str, AfterValidator(check_edge_name)] = Field(pattern=_NAME.pattern)
    http_port: int | None = Field(8080, ge=0, le=65535)
    http_bind: str = "127.0.0.1"
    dimse: DimseSettings = DimseSettings()
    spool: SpoolSettings
    delivery: DeliverySettings
    commitment: CommitmentSettings = CommitmentSettings()
    archive: ArchiveSettings = ArchiveSettings()
    destinations: dict[DestinationName, AnyDestination] = Field({})
    sources: dict[SourceName, Source] = Field({})
    routes: tuple[Route, ...] = ()
    profiles: dict[Annotated[str, AfterValidator(_checked_profile)], ProfileSettings] = Field({})
    site_secret: SecretStr | None = Field(None, min_length=LEAST_SECRET_BYTES)

    @model_validator(mode="after")
    def _has_a_port_for_http(self) -> Self:
        binds = {self.http_bind, self.dimse.bind}
        tls = [] if self.dimse.tls is None else [("dimse.tls.port", self.dimse.tls.port)]
        for name, port in [("dimse.port", self.dimse.port), *tls]:
            if port and port == self.http_port and (len(binds) == 1 or binds & _ALL_ADDRESSES):
                raise ValueError(f"http_port and {name} are both {port}: each listener needs its own")
        return self

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        check_routes(self.routes, self.destinations, {*BUILT_IN, *self.profiles})
        return self

    @property
    def nodes(self) -> dict[str, Destination]:
        """The destinations that are reached over DIMSE and get originals."""
        return nodes_of(self.destinations)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment above the values of the file, which arrive as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def load_settings(path: Path) -> EdgeSettings:
    """Read the settings from a TOML file and the environment.

    Raises:
        PermanentError: the file is missing or no TOML, a key is unknown or missing, or a value is out of range;
            the text names each key.
    """
    return build_settings(read_document(path), str(path))


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        PermanentError: it is missing or no TOML.
    """
    try:
        return tomllib.loads(read_regular(path, follow=True).decode())
    except OSError as error:
        raise PermanentError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PermanentError(f"{path} is no TOML: {error}") from error


def build_settings(document: dict[str, Any], source: str) -> EdgeSettings:
    """Return the settings of a document, and above them those of the environment.

    Raises:
        PermanentError: a key is unknown or missing, or a value is out of range; the text names `source` and each key.
    """
    unknown = sorted(name for name in os.environ if name.upper().startswith(_LIKE_OURS) and not _names_a_setting(name))
    if unknown:
        known = (f"{ENVIRONMENT_PREFIX}{path.upper().replace('.', '__')}" for path in setting_paths(EdgeSettings))
        raise PermanentError(
            f"unknown environment variable {unknown[0]}: no such edge setting{meant(unknown[0].upper(), known)}"
        )
    try:
        return EdgeSettings(**document)
    except ValidationError as error:
        raise PermanentError(f"{source}: {describe_settings(error, EdgeSettings)}") from error


def _names_a_setting(variable: str) -> bool:
    model: Any = EdgeSettings
    if not variable.upper().startswith(ENVIRONMENT_PREFIX):
        return False
    for part in variable.upper().removeprefix(ENVIRONMENT_PREFIX).lower().split("__"):
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = _model_of(fields[part].annotation)
    return True


def _model_of(annotation: Any) -> Any:
    """Return the settings model in an annotation such as `TlsSettings | None`."""
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


class SettingsFile:
    """Reads the delivery's settings again when their file changes; a broken file leaves the old ones in force.

    The first read is one too: the file may have changed since the program was started, or what it was started with.
    `routes` are those in force, too. `is_flawed` tells that the file is broken, or has changes that only a restart
    brings into force.

    Args:
        path: the file.
        settings: what the program was started with.
        is_told: whether the log tells of changes, which more than one process sees.
    """

    def __init__(self, path: Path, settings: EdgeSettings, *, is_told: bool = True) -> None:
        self.is_flawed = False
        self._path = path
        self._started = settings
        self._settings = settings.delivery
        self.routes = settings.routes
        self._is_told = is_told
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> DeliverySettings:
        """Return the settings in force: what the program was started with, but new limits and priorities."""
        seen = self._state()
        if seen != self._seen:
            self._seen = seen
            try:
                new = load_settings(self._path)
            except PermanentError as error:
                self.is_flawed = True
                if self._is_told:
                    _logger.warning("settings_not_reloaded error=%s", error)
            else:
                before = self._settings
                self._settings = before.model_copy(update={name: getattr(new.delivery, name) for name in _RELOADED})
                waiting = _changed(self._started, new) - {f"delivery.{name}" for name in _RELOADED}
                # The first route starts a process, and one to a new destination needs it too.
                if self._started.routes and "destinations" not in waiting:
                    waiting.discard("routes")
                    self._take_routes(new.routes)
                self.is_flawed = bool(waiting)
                if self._is_told and self._settings != before:
                    _logger.info("settings_reloaded path=%s", self._path)
                if self._is_told and waiting:
                    _logger.warning("settings_wait_for_restart path=%s names=%s", self._path, ",".join(sorted(waiting)))
        return self._settings

    def _take_routes(self, routes: tuple[Route, ...]) -> None:
        if routes != self.routes:
            self.routes = routes
            if self._is_told:
                _logger.info("routes_reloaded path=%s routes=%d", self._path, len(routes))

    def _state(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_size, found.st_ino


def _changed(old: BaseModel, new: BaseModel, prefix: str = "") -> set[str]:
    """Return the names of the settings that differ, with their sections."""
    names = set()
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            names |= _changed(before, after, f"{prefix}{name}.")
        elif before != after:
            names.add(prefix + name)
    return names
