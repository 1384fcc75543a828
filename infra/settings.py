"""What config.py says, checked: every wrong value is named, with what would be right, before anything is deployed."""

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from dicomflow.spelling import meant
from infra.devices import DeviceConfig
from infra.edgesettings import check_edge_settings, own_settings
from infra.errors import ConfigError
from infra.sample import SampleStorage, with_acceleration
from infra.sites import check_sites
from infra.surroundings import AccountConfig, NetworkConfig
from infra.tags import ResourceTags
from infra.values import Section, text
from infra.words import in_words

__all__ = ["ARCHIVE_LEAST_DAYS", "LOG_DAYS", "DeploymentSettings", "EdgeDevice", "load_deployment"]

# Role names have 64 characters at most, and the longest here is {stack}-{edge}-GG-Role.
_MAX_ROLE_NAME: Final = 64
_ROLE_SUFFIX: Final = "-GG-Role"
_VPC_PREFIXES: Final = range(16, 25)
_ACU: Final = re.compile(r"ACU_(\d+)")
# Aurora PostgreSQL's limits of Serverless v2.
_MIN_ACU, _MAX_ACU = 0.5, 256.0
_PAUSE_MINUTES: Final = range(5, 1441)
LOG_DAYS: Final = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3653)
_SECTIONS: Final = {
    "CDK_APP_NAME": "name",
    "VPC_CIDR": "vpc_cidr",
    "RESOURCE_TAGS": "tags",
    "EDGE_CONFIG": "edges",
    "AHLI_CONFIG": "imports",
    "DB_CONFIG": "database",
    "STORAGE_CONFIG": "storage",
    "S3_CONFIG": "sample_storage",
    "LAMBDA_CONFIG": "sample_functions",
    "NETWORK_CONFIG": "network",
    "ACCOUNT_CONFIG": "account",
    "DEVICE_CONFIG": "devices",
    "MONITORING_CONFIG": "monitoring",
    "SITE_ISSUERS": "issuers",
    "SITE_CHARACTER_SETS": "character_sets",
}
_OF_INSTANCES: Final = frozenset({"instance_type", "networks", "spool_gib"})
_KEY_ARN: Final = r"(arn:aws[\w-]*:kms:[\w-]+:\d{12}:key/[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12})?"
ARCHIVE_LEAST_DAYS: Final = 90
"""S3 bills an object in Glacier Instant Retrieval for so many days at least."""
_NEEDED: Final = ("CDK_APP_NAME", "VPC_CIDR", "EDGE_CONFIG")


def _acu(value: object) -> object:
    """Return the number of `ACU_8`."""
    found = _ACU.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) if found else value


def _not_multi_region(arn: str) -> str:
    if ":key/mrk-" in arn:
        raise ValueError(f"{arn!r}; HealthImaging takes no multi-Region key (mrk-): give one of a single Region")
    return arn


Acu = Annotated[float, BeforeValidator(_acu), Field(ge=_MIN_ACU, le=_MAX_ACU, multiple_of=0.5)]


def _not_reserved(name: str) -> str:
    from dicomflow.bucket.keys import check_edge_name  # noqa: PLC0415  # as in `_has_distinct_edges`

    return check_edge_name(name)


class EdgeDevice(Section):
    """One edge of EDGE_CONFIG."""

    name: Annotated[
        str,
        text(r"[A-Za-z0-9](-?[A-Za-z0-9])*", "letters, digits and single hyphens"),
        AfterValidator(_not_reserved),
    ] = Field(alias="Name")
    device_type: Literal["LOCAL", "EC2"]
    instance_type: Annotated[str, text(r"[a-z]+\d+g[a-z]*\.[a-z0-9]+", "a Graviton type, such as t4g.medium")] = (
        "t4g.medium"
    )
    spool_gib: int = Field(100, ge=10, le=16_384)
    networks: tuple[ipaddress.IPv4Network, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_asked_for(self) -> Self:
        given = sorted(_OF_INSTANCES & self.model_fields_set)
        if given and self.device_type == "LOCAL":
            own = "; a LOCAL edge has `networks` of `dimse` in its `settings`" if "networks" in given else ""
            raise ValueError(f"{self.name!r} is LOCAL: {', '.join(given)} are of EC2 edges{own}")
        return self

    @model_validator(mode="after")
    def _would_start(self) -> Self:
        if self.settings:
            check_edge_settings(self.name, self.settings, is_instance=self.device_type == "EC2")
        return self


class ImportConfig(Section):
    """AHLI_CONFIG."""

    ahli_enabled: bool = True
    ahli_endpoint: Annotated[str, text(r"(https://[^/]+)?", "nothing, or https:// and a host")] = ""
    ahli_concurrent_imports: int = Field(20, ge=1)
    datastore_id: Annotated[str, text(r"([0-9a-z]{32})?", "nothing, or the 32 letters and digits of a data store")] = ""


class DatabaseConfig(Section):
    """DB_CONFIG; `db_engine_pause` in minutes."""

    db_name: Annotated[str, text(r"[A-Za-z]\w{0,62}", "up to 63 letters, digits and _, a letter first")] = "iep"
    db_engine_pause: int = 20
    min_acu_capacity: Acu = 8.0
    max_acu_capacity: Acu = 64.0
    deletion_protection: bool = True

    @field_validator("db_engine_pause")
    @classmethod
    def _is_a_pause(cls, minutes: int) -> int:
        if minutes and minutes not in _PAUSE_MINUTES:
            raise ValueError(f"{minutes} minutes; Aurora pauses after 5 to 1440 idle minutes, and 0 means never")
        return minutes

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_acu_capacity > self.max_acu_capacity:
            raise ValueError(
                f"min_acu_capacity {self.min_acu_capacity:g} is above max_acu_capacity {self.max_acu_capacity:g}"
            )
        return self


class StorageConfig(Section):
    """STORAGE_CONFIG."""

    transfer_acceleration: bool = False
    kms_key_arn: Annotated[
        str,
        AfterValidator(_not_multi_region),
        text(_KEY_ARN, "nothing, or a key's ARN, which ends in key/ and its id"),
    ] = ""
    retention_days: int = Field(0, ge=0)
    archive_after_days: int = Field(30, ge=0)

    @property
    def archives(self) -> bool:
        """Whether images move to the archive class: only where they stay long enough to be worth their move."""
        kept, after = self.retention_days, self.archive_after_days
        return after > 0 and (kept == 0 or kept >= after + ARCHIVE_LEAST_DAYS)


class MonitoringConfig(Section):
    """MONITORING_CONFIG."""

    email: Annotated[str, text(r"([^@\s]+@[^@\s]+\.[^@\s]+)?", "nothing, or one address")] = ""
    monthly_budget_usd: int = Field(0, ge=0)
    log_days: int = 365

    @field_validator("log_days")
    @classmethod
    def _is_a_step(cls, days: int) -> int:
        if days not in LOG_DAYS:
            raise ValueError(f"{days} days; CloudWatch keeps logs for {', '.join(map(str, LOG_DAYS))} days")
        return days

    @model_validator(mode="after")
    def _can_mail(self) -> Self:
        if self.monthly_budget_usd and not self.email:
            raise ValueError("monthly_budget_usd needs an email to be told of")
        return self


class DeploymentSettings(Section):
    """A deployment, as config.py describes it."""

    # The name is part of the cluster's identifier, which knows no two hyphens in a row, and of role names.
    name: Annotated[
        str, text(r"[A-Za-z](-?[A-Za-z0-9]){0,31}", "up to 32 letters, digits and single hyphens, a letter first")
    ]
    vpc_cidr: ipaddress.IPv4Network
    tags: ResourceTags = ResourceTags()
    edges: tuple[EdgeDevice, ...]
    imports: ImportConfig = ImportConfig()
    database: DatabaseConfig = DatabaseConfig()
    storage: StorageConfig = StorageConfig()
    sample_storage: SampleStorage = SampleStorage()
    sample_functions: dict[str, Any] = Field(default_factory=dict)
    network: NetworkConfig = NetworkConfig()
    account: AccountConfig = AccountConfig()
    devices: DeviceConfig = DeviceConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    issuers: dict[str, str] = Field(default_factory=dict)
    character_sets: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _has_one_acceleration(cls, sections: Any) -> Any:
        return with_acceleration(sections) if isinstance(sections, Mapping) else sections

    @field_validator("vpc_cidr")
    @classmethod
    def _fits_subnets(cls, network: ipaddress.IPv4Network) -> ipaddress.IPv4Network:
        if network.prefixlen not in _VPC_PREFIXES:
            raise ValueError(f"/{network.prefixlen}; a VPC with six subnets needs /16 to /24")
        return network

    @model_validator(mode="after")
    def _has_distinct_edges(self) -> Self:
        names = [edge.name for edge in self.edges]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"EDGE_CONFIG: Name {name!r} is there {names.count(name)} times; names are unique")
            # IAM knows no case, and CloudFormation's logical ids and outputs no hyphen.
            alike = [other for other in names if other != name and _plain(other) == _plain(name)]
            if alike:
                raise ValueError(
                    f"EDGE_CONFIG: Names {name!r} and {alike[0]!r} differ only in case or hyphens,"
                    " which AWS does not tell apart"
                )
            role = f"{self.device_name(name)}{_ROLE_SUFFIX}"
            if len(role) > _MAX_ROLE_NAME:
                raise ValueError(
                    f"EDGE_CONFIG: Name {name!r} is too long: the role {role} would have {len(role)} characters,"
                    f" {_MAX_ROLE_NAME} at most"
                )
        own_settings(self.edges, self.device_name(""))
        check_sites(self.issuers, self.character_sets)
        return self

    @model_validator(mode="after")
    def _has_fips_ways(self) -> Self:
        if not self.account.fips_endpoints:
            return self
        if self.storage.transfer_acceleration:
            raise ValueError("transfer_acceleration has no FIPS endpoint: switch it or fips_endpoints off")
        if self.imports.ahli_endpoint:
            raise ValueError("ahli_endpoint names an endpoint in the place of the FIPS one: leave it empty")
        if self.network.private_endpoints and not self.network.vpc_id:
            raise ValueError(
                "private_endpoints has no FIPS endpoint of Lambda: switch it off, or give a VPC that reaches them"
            )
        return self

    @model_validator(mode="after")
    def _has_groups_for_edges(self) -> Self:
        is_given = self.network.function_group and not self.network.edge_group
        if is_given and any(edge.device_type == "EC2" for edge in self.edges):
            raise ValueError("NETWORK_CONFIG: edge_group is missing, for the EC2 edges beside function_group")
        return self

    @model_validator(mode="after")
    def _has_ways_to_archives(self) -> Self:
        if not self.network.private_endpoints or self.network.vpc_id:
            return self
        for edge in self.edges:
            if edge.device_type == "EC2" and edge.settings.get("archive", {}).get("dicomweb_url"):
                raise ValueError(
                    f"EDGE_CONFIG: {edge.name!r} has no way to its archive.dicomweb_url: private_endpoints lets"
                    " nothing in the VPC reach it; switch it off, or give a VPC that does"
                )
        return self

    def device_name(self, edge: str) -> str:
        """Return the name under which an edge is known outside this stack: its thing, and the start of its keys."""
        return f"{self.name}-{edge}"

    @property
    def region_of_key(self) -> str | None:
        """The region of the key that config.py names."""
        return self.storage.kms_key_arn.split(":")[3] if self.storage.kms_key_arn else None

    @property
    def sites_of_before(self) -> list[str]:
        """Return the edges of SITE_ISSUERS and SITE_CHARACTER_SETS that are none of EDGE_CONFIG."""
        named = {key.partition("/")[0] for key in (*self.issuers, *self.character_sets)}
        return sorted(named - {edge.name for edge in self.edges})

    @property
    def pipeline_issuers(self) -> dict[str, str]:
        """Return the issuers by the names that objects' keys begin with."""
        return {self.device_name(key): issuer for key, issuer in self.issuers.items()}

    @property
    def pipeline_character_sets(self) -> dict[str, str]:
        """Return what devices mean that declare no character set, by the same names."""
        return {self.device_name(key): term for key, term in self.character_sets.items()}


def load_deployment(config: Mapping[str, Any]) -> DeploymentSettings:
    """Check a config.py.

    Args:
        config: its names and their values.

    Raises:
        ConfigError: a name is unknown or missing, or a value is wrong; the text names each.
    """
    found = {name: value for name, value in config.items() if name.isupper()}
    unknown = sorted(found.keys() - _SECTIONS.keys())
    problems = [f"{name}: no such parameter{meant(name, _SECTIONS)}" for name in unknown]
    problems += [f"{name}: write {name.upper()}" for name in sorted(config) if _is_misspelt(name, found)]
    problems += [f"{name}: is missing" for name in _NEEDED if name not in found]
    try:
        deployment = DeploymentSettings(**{_SECTIONS[name]: found[name] for name in found.keys() & _SECTIONS.keys()})
    except ValidationError as error:
        missing = {_SECTIONS[name] for name in _NEEDED if name not in found}
        problems += [
            _describe(item["loc"], in_words(item))
            for item in error.errors()
            if not (item["type"] == "missing" and item["loc"][0] in missing)
        ]
    if problems:
        raise ConfigError("config.py: " + "; ".join(problems))
    return deployment


def _is_misspelt(name: str, found: Collection[str]) -> bool:
    """Tell a parameter in other letters; one in small letters beside it is a name that config.py has for itself."""
    if name.isupper() or name.upper() not in _SECTIONS:
        return False
    return not name.islower() or name.upper() not in found


def _plain(name: str) -> str:
    return name.replace("-", "").lower()


def _describe(location: tuple[int | str, ...], message: str) -> str:
    names = {section: name for name, section in _SECTIONS.items()}
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    first, *rest = location
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    return f"{names[str(first)]}{path}: {message}"
