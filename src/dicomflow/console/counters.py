"""What an edge has counted since its start, read from its `/metrics`: how associations ended, what was refused."""

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dicomflow.dimse.status import Status

__all__ = ["Counters", "read_counters", "read_url"]

_TIMEOUT_SECONDS: Final = 2.0
_MAX_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Counters:
    """One edge's counts; `problem` says why there are none.

    `associations` are by calling AE title and how they ended, `refusals` by status with its meaning.
    """

    edge: str
    associations: dict[str, dict[str, int]] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)
    refusals: list[tuple[str, str, int]] = field(default_factory=list)
    problem: str | None = None


def read_counters(edge: str, read: Callable[[], str]) -> Counters:
    """Read an edge's counters; one that does not answer has a problem instead."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  # an extra

    associations: dict[str, dict[str, int]] = {}
    instances: dict[str, int] = {}
    refusals: dict[str, int] = {}
    try:
        families = list(text_string_to_metric_families(read()))
    except (OSError, ValueError) as error:
        return Counters(edge, problem=f"{type(error).__name__}: its metrics cannot be read")
    for sample in (sample for family in families for sample in family.samples):
        title = sample.labels.get("ae_title", "")
        match sample.name:
            case "dicomflow_associations_total":
                associations.setdefault(title, {})[sample.labels.get("result", "")] = int(sample.value)
            case "dicomflow_instances_total":
                instances[title] = instances.get(title, 0) + int(sample.value)
            case "dicomflow_refusals_total" if sample.value:
                refusals[sample.labels.get("status", "")] = int(sample.value)
    explained = [(status, _meaning(status), count) for status, count in sorted(refusals.items())]
    return Counters(edge, associations, instances, explained)


def read_url(url: str) -> Callable[[], str]:
    """Return a function that fetches an address; it is an operator's setting, http or https."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # checked where it is set
            encoded: bytes = answer.read(_MAX_BYTES)
        return encoded.decode("utf-8", "replace")

    return read


def _meaning(status: str) -> str:
    try:
        return Status(int(status, 16)).name.replace("_", " ").lower()
    except ValueError:
        return "unknown"
