"""Settings of a DIMSE listener: port, titles, networks, limits and TLS."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "AeTitle",
    "ArchivePeer",
    "ArchiveSettings",
    "ArchiveTokens",
    "ArchiveUser",
    "ClientTls",
    "DimseSettings",
    "Section",
    "TlsSettings",
    "is_ae_title",
]

# DCMTK and others take no smaller one; 0 stands for no limit (PS3.8 D.1).
_LEAST_MAX_PDU_BYTES: Final = 4096
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_AE_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")


def is_ae_title(title: str) -> bool:
    """Tell whether an association could name this application (PS3.5 6.2); blanks around it mean nothing."""
    return _AE_TITLE.fullmatch(title.strip()) is not None


def _checked_ae_title(title: str) -> str:
    title = title.strip()
    if not is_ae_title(title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash (PS3.5 6.2)")
    return title


AeTitle = Annotated[str, AfterValidator(_checked_ae_title)]


class Section(BaseModel):
    """A part of a program's settings: it does not change, and a key that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(Section):
    """A second listener that speaks TLS only (PS3.15 B.12)."""

    port: int = Field(2762, ge=0, le=65535)
    certificate: Path
    key: Path
    client_ca: Path | None = None


class ClientTls(Section):
    """TLS as a requestor: whose certificate is trusted, by default what the system trusts, and our own, if any."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class ArchivePeer(Section):
    """What an AE title may do with an archive. A title is easily forged: where it is believed is said beside it.

    Outside loopback its address must be in `networks`, or its TLS certificate be the one in the file `certificate`.
    """

    query: bool = False
    retrieve: bool = False
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    certificate: Path | None = None


class ArchiveUser(Section):
    """What a user may do with an archive over HTTP."""

    query: bool = False
    retrieve: bool = False
    store: bool = False


class ArchiveTokens(Section):
    """Whose bearer tokens are believed: of `issuer` for `audience`, by the keys at `jwks_url`.

    The words of `rights_claim` name the rights: `query` or `dicomflow.query`.
    """

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks_url: str = Field(pattern=r"^https?://[^/]+")
    rights_claim: str = "scope"


class ArchiveSettings(Section):
    """Who may ask for what is stored. Without `users` each user of the file may query and retrieve.

    An edge answers its peers from the DICOMweb origin `dicomweb_url`: an archive of dicomflow, or HealthImaging's own,
    whose requests are signed with the edge's credentials. The text of `dicomweb_authorization_file` is sent as the
    header Authorization instead. `dicomweb_requests_per_second` is for the whole edge.
    """

    dicomweb_url: str | None = Field(None, pattern=r"^https?://[^/?#]+[^?#]*$")
    dicomweb_kind: Literal["dicomflow", "healthimaging"] | None = None
    dicomweb_authorization_file: Path | None = None
    dicomweb_ca: Path | None = None
    dicomweb_requests_per_second: float | None = Field(None, gt=0)
    peers: dict[AeTitle, ArchivePeer] = Field({})
    users: dict[str, ArchiveUser] | None = None
    tokens: ArchiveTokens | None = None

    @field_validator("dicomweb_url")
    @classmethod
    def _is_protected(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "https://")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("patients' data go by https:// alone, but on this machine")
        return url


class DimseSettings(Section):
    """The DIMSE listener. Empty lists mean any; `max_pdu_bytes` and `max_associations_per_ae_title` 0 mean no limit."""

    ae_title: AeTitle = "DICOMFLOW"
    port: int = Field(11112, ge=0, le=65535)
    bind: str = "0.0.0.0"  # noqa: S104  # a receiver listens to the hospital's network
    max_pdu_bytes: int = Field(131_072, ge=0, le=0xFFFFFFFF)
    max_associations: int = Field(200, ge=1, le=10_000)
    max_associations_per_ae_title: int = Field(0, ge=0)
    called_ae_titles: tuple[AeTitle, ...] = ()
    calling_ae_titles: tuple[AeTitle, ...] = ()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    artim_seconds: float = Field(30.0, gt=0)
    idle_seconds: float = Field(300.0, gt=0)
    users_file: Path | None = None
    tls: TlsSettings | None = None

    @model_validator(mode="after")
    def _has_two_ports(self) -> Self:
        if self.port and self.tls is not None and self.tls.port == self.port:
            raise ValueError(f"port and tls.port are both {self.port}: each listener needs its own")
        return self

    @model_validator(mode="after")
    def _holds_a_fragment(self) -> Self:
        if 0 < self.max_pdu_bytes < _LEAST_MAX_PDU_BYTES:
            raise ValueError(
                f"max_pdu_bytes is {self.max_pdu_bytes}: 0 for no limit, or at least {_LEAST_MAX_PDU_BYTES:,}"
            )
        return self
