"""What the routes say of the series of a delivery: to which destinations each goes, and why.

Pure: who asks reads the headers, and may be the deliverer or `dicomflow routes test`. Each series goes somewhere: to
what all routes that fit name, each destination once; to the default store where none fits, or where its instances
disagree on an attribute that some route looks at. What came from a destination's own AE title is not sent back there.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID

from dicomflow.edge.destinations import DEFAULT_STORE, AnyDestination, Route

__all__ = ["ATTRIBUTES", "Candidate", "Choice", "SeriesDecision", "configuration_of", "decide"]

ATTRIBUTES: Final = {
    "modality": "Modality",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
    "body_part": "BodyPartExamined",
    "station_name": "StationName",
}
"""The keys that are read from headers, with the keywords of the attributes that they mean."""
_TITLES: Final = frozenset({"calling_ae_title", "called_ae_title"})
_DIGEST_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance as routes see it; `values` has those of `ATTRIBUTES` by key, None where its header cannot be read."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    calling_ae_title: str
    called_ae_title: str
    values: Mapping[str, frozenset[str]] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A destination with the route that names it first; "" where it is the default store and no route does."""

    destination: str
    route: str


@dataclass(frozen=True, slots=True)
class SeriesDecision:
    """Where a series goes. `doubt` says why no route was asked; `choices` has by SOP instance what differs from it."""

    series_instance_uid: str
    choices: tuple[Choice, ...]
    exceptions: Mapping[str, tuple[Choice, ...]]
    doubt: str = ""

    def of(self, sop_instance_uid: str) -> tuple[Choice, ...]:
        """Return where one of its instances goes."""
        return self.exceptions.get(sop_instance_uid, self.choices)


def decide(
    routes: Sequence[Route], destinations: Mapping[str, AnyDestination], candidates: Iterable[Candidate]
) -> list[SeriesDecision]:
    """Return what the routes say of each series, in the order in which they come first."""
    series: dict[str, list[Candidate]] = {}
    for each in candidates:
        series.setdefault(each.series_instance_uid, []).append(each)
    return [_decide(routes, destinations, uid, of_it) for uid, of_it in series.items()]


def configuration_of(routes: Sequence[Route], destinations: Mapping[str, AnyDestination]) -> str:
    """Return a digest of all that decisions depend on, so that they can be told from those by other rules."""
    document = {
        "routes": [each.model_dump(mode="json", by_alias=True) for each in routes],
        "destinations": {name: [each.required, getattr(each, "ae_title", "")] for name, each in destinations.items()},
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]


def _decide(
    routes: Sequence[Route], destinations: Mapping[str, AnyDestination], uid: str, instances: list[Candidate]
) -> SeriesDecision:
    keys = frozenset[str]().union(*(route.when.keys() for route in routes))
    values: dict[str, frozenset[str]] = {}
    for key in sorted(keys):
        found = {_values_of(each, key) for each in instances}
        if None in found:
            return SeriesDecision(uid, (Choice(DEFAULT_STORE, ""),), {}, "a header cannot be read")
        if len(found) > 1 and key not in _TITLES:
            return SeriesDecision(uid, (Choice(DEFAULT_STORE, ""),), {}, f"its instances disagree on {key}")
        values[key] = frozenset[str]().union(*(each for each in found if each is not None))
    choices = tuple(_choose(routes, values))
    exceptions = {
        each.sop_instance_uid: kept for each in instances if (kept := _without_echo(choices, destinations, each))
    }
    return SeriesDecision(uid, choices, exceptions)


def _choose(routes: Sequence[Route], values: Mapping[str, frozenset[str]]) -> list[Choice]:
    chosen: dict[str, Choice] = {}
    for number, route in enumerate(routes, 1):
        if route.when.holds_for(values):
            for name in route.to:
                chosen.setdefault(name, Choice(name, route.name or f"route {number}"))
            if route.stop:
                break
    return list(chosen.values()) or [Choice(DEFAULT_STORE, "")]


def _without_echo(
    choices: tuple[Choice, ...], destinations: Mapping[str, AnyDestination], instance: Candidate
) -> tuple[Choice, ...]:
    """Return the choices for what one of their nodes has sent itself; nothing where none has.

    A PACS that passes on whatever it gets would have it again for ever.
    """
    kept = tuple(
        each
        for each in choices
        if each.destination == DEFAULT_STORE
        or getattr(destinations[each.destination], "ae_title", None) != instance.calling_ae_title.strip()
    )
    if len(kept) == len(choices):
        return ()
    has_home = any(each.destination == DEFAULT_STORE or destinations[each.destination].required for each in kept)
    return kept if has_home else (*kept, Choice(DEFAULT_STORE, ""))


_READ: Final[Mapping[str, Callable[[Candidate], frozenset[str]]]] = {
    "calling_ae_title": lambda each: frozenset({each.calling_ae_title}),
    "called_ae_title": lambda each: frozenset({each.called_ae_title}),
    "sop_class": lambda each: frozenset({each.sop_class_uid, UID(each.sop_class_uid).keyword}),
}


def _values_of(instance: Candidate, key: str) -> frozenset[str] | None:
    """Return an instance's values of a key; None where its header cannot be read."""
    if key in _READ:
        return _READ[key](instance)
    return None if instance.values is None else instance.values[key]
