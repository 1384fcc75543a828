"""The pipeline's settings: environment variables, read once at start.

A variable is `DICOMFLOW_` and the path to the setting, joined by two underscores: `DICOMFLOW_IMPORTS__CONCURRENT=20`.
Lists are written as JSON. Unknown and missing names stop the program.
"""

import os
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dicomflow.dicom.charsets import is_known_term
from dicomflow.errors import PermanentError
from dicomflow.spelling import meant, setting_paths

__all__ = [
    "EventSettings",
    "ImportSettings",
    "PipelineSettings",
    "QueueSettings",
    "load_character_sets",
    "load_issuers",
    "load_relay",
    "load_settings",
]

ENVIRONMENT_PREFIX: Final = "DICOMFLOW_"
# Variables that other programs or the command line read.
_OTHERS: Final = (
    "DICOMFLOW_CONSOLE",
    "DICOMFLOW_CRASH",
    "DICOMFLOW_EDGE",
    "DICOMFLOW_LOG_LEVEL",
    "DICOMFLOW_SITE_SECRET",
    "DICOMFLOW_NO_SKIPS",
    "DICOMFLOW_FUZZ",
    "DICOMFLOW_TEST",
)


def _of_known_terms(value: str) -> str:
    unknown = [term for term in value.split("\\") if not is_known_term(term)]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no defined term of Specific Character Set (0008,0005)")
    return value


_CharacterSet = Annotated[str, AfterValidator(_of_known_terms)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QueueSettings(_Section):
    """URLs of the queues that this program sends to and receives from."""

    index: str | None = None
    plan: str | None = None
    drive: str | None = None
    collect: str | None = None
    transfers: str | None = None

    def urls(self) -> dict[str, str]:
        """Return the URL of each queue that has one."""
        return {name: url for name, url in self if url}


class ImportSettings(_Section):
    """Where and how fast to import; with `enabled` off everything else works and series are marked as not queued."""

    enabled: bool = True
    datastore_id: str = Field("", pattern=r"^([0-9a-z]{32})?$")
    data_access_role_arn: str = ""
    concurrent: int = Field(100, ge=1)
    starts_per_second: float = Field(1.0, gt=0)
    job_hours: float = Field(6.0, gt=0)
    stat_ae_titles: frozenset[str] = frozenset()


RelayedService = Literal["events", "medical-imaging", "sqs"]


class RelaySettings(_Section):
    """The function through which services are reached that cannot be called directly, and which services those are."""

    function: str = ""
    services: frozenset[RelayedService] = frozenset()


class EventSettings(_Section):
    """The bus of EventBridge that others listen to, by its name or ARN; without one nobody is told."""

    bus: str = Field("", pattern=r"^[A-Za-z0-9._/:-]{0,256}$")


class PipelineSettings(BaseSettings):
    """All settings of the pipeline's functions."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__"
    )

    database_url: SecretStr
    database_iam: bool = False
    store_url: str = Field(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+/?|file:///.*)$")
    queues: QueueSettings = QueueSettings()
    imports: ImportSettings = ImportSettings()
    relay: RelaySettings = RelaySettings()
    events: EventSettings = EventSettings()
    retention_days: int = Field(0, ge=0)
    issuers: dict[str, str] = Field(
        default_factory=dict,
        description="Issuer of Patient IDs that name none, by EDGE/CALLING AE TITLE or by EDGE; else the edge itself.",
    )
    character_sets: dict[str, _CharacterSet] = Field(
        default_factory=dict,
        description="What devices mean that declare no Specific Character Set, by EDGE/CALLING AE TITLE or by EDGE.",
    )


def load_settings() -> PipelineSettings:
    """Read the settings from the environment.

    Raises:
        PermanentError: a variable is unknown or missing, or its value is out of range; the text names each, and shows
            no value.
    """
    unknown = sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and not _is_known(name))
    if unknown:
        known = (f"{ENVIRONMENT_PREFIX}{path.upper().replace('.', '__')}" for path in setting_paths(PipelineSettings))
        raise PermanentError(
            f"unknown environment variable {unknown[0]}: no such setting{meant(unknown[0], (*known, *_OTHERS))}"
        )
    try:
        settings = PipelineSettings()
    except ValidationError as error:
        raise PermanentError("; ".join(_describe(item["loc"], item["msg"]) for item in error.errors())) from error
    if settings.imports.enabled and not (settings.imports.datastore_id and settings.imports.data_access_role_arn):
        raise PermanentError(
            "DICOMFLOW_IMPORTS__DATASTORE_ID and DICOMFLOW_IMPORTS__DATA_ACCESS_ROLE_ARN are needed"
            " unless DICOMFLOW_IMPORTS__ENABLED is false"
        )
    return settings


def load_relay() -> RelaySettings:
    """Read through which function services are called, for programs without the other settings."""
    services = os.environ.get(f"{ENVIRONMENT_PREFIX}RELAY__SERVICES") or "[]"
    return RelaySettings(
        function=os.environ.get(f"{ENVIRONMENT_PREFIX}RELAY__FUNCTION", ""),
        services=TypeAdapter(frozenset[RelayedService]).validate_json(services),
    )


def load_issuers() -> dict[str, str]:
    """Read a setting that programs without the others have too.

    Raises:
        PermanentError: DICOMFLOW_ISSUERS is no JSON object of texts.
    """
    return _load_map("issuers", TypeAdapter(dict[str, str]))


def load_character_sets() -> dict[str, str]:
    """Read the other setting that programs without the rest have too.

    Raises:
        PermanentError: DICOMFLOW_CHARACTER_SETS is no JSON object of values of Specific Character Set.
    """
    return _load_map("character_sets", TypeAdapter(dict[str, _CharacterSet]))


def _load_map(name: str, kind: TypeAdapter[dict[str, str]]) -> dict[str, str]:
    try:
        return kind.validate_json(os.environ.get(f"{ENVIRONMENT_PREFIX}{name.upper()}") or "{}")
    except ValidationError as error:
        raise PermanentError("; ".join(_describe((name,), item["msg"]) for item in error.errors())) from error


def _describe(location: tuple[int | str, ...], message: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{'__'.join(str(part).upper() for part in location)}: {message}"


def _is_known(variable: str) -> bool:
    if variable.startswith(_OTHERS):
        return True
    section, _, name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
    sections: dict[str, type[_Section]] = {
        "queues": QueueSettings,
        "imports": ImportSettings,
        "relay": RelaySettings,
        "events": EventSettings,
    }
    if section in sections:
        return not name or name in sections[section].model_fields
    return not name and section in PipelineSettings.model_fields
