"""Which DICOMweb origin is asked: where it is, what it is, what it can be asked for, and who signs the requests."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from dicomflow.dicom.attributes import Level

__all__ = ["Kind", "Origin", "Sign", "healthimaging_region", "kind_of"]

Sign: TypeAlias = Callable[[str, Mapping[str, str]], dict[str, str]]
"""Returns the headers of a GET of an address with what proves who asks; raises TransientError where that is away."""

_SERVICE_HOST: Final = re.compile(r"dicom-medical-imaging(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


class Kind(StrEnum):
    """Whose DICOMweb it is: they differ in what is matched and in what is limited."""

    DICOMFLOW = "dicomflow"
    HEALTHIMAGING = "healthimaging"


_HEALTHIMAGING_KEYS: Final[Mapping[Level, frozenset[int]]] = {
    Level.STUDY: frozenset(
        {
            *(0x00080020, 0x00080030, 0x00080050, 0x00080061, 0x00080090, 0x00081030),
            *(0x00100010, 0x00100020, 0x00100030, 0x00100032, 0x0020000D, 0x00200010),
        }
    ),
    Level.SERIES: frozenset({0x00080060, 0x0020000E}),
    Level.INSTANCE: frozenset({0x00080016, 0x00080018}),
}
"""What HealthImaging matches at each level's own search (Developer Guide, "Searching DICOM data in HealthImaging")."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One origin.

    Attributes:
        url: its base, without a slash at the end.
        kind: whose it is.
        requests_per_second: how many requests this process may make; None for any number.
        sign: what proves who asks.
        proxy: the address of one that it is reached by.
        ca: a file of certificates in PEM that its own is checked by; None for what the system trusts.
    """

    url: str
    kind: Kind
    requests_per_second: float | None = None
    sign: Sign = lambda _url, headers: dict(headers)
    ca: str | None = None
    proxy: str | None = None

    def matched(self, level: Level) -> frozenset[int] | None:
        """Return the keys that its search of a level matches beside those in the path; None for all that are known."""
        return _HEALTHIMAGING_KEYS[level] if self.kind is Kind.HEALTHIMAGING else None


def kind_of(url: str) -> Kind:
    """Return whose DICOMweb an address is: HealthImaging's by its host, any other ours."""
    return Kind.HEALTHIMAGING if healthimaging_region(url) is not None else Kind.DICOMFLOW


def healthimaging_region(url: str) -> str | None:
    """Return the region of HealthImaging's own endpoint; None for any other address."""
    found = _SERVICE_HOST.fullmatch(urlsplit(url).hostname or "")
    return found[1] if found else None
