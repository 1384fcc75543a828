"""The manifest of a delivery: the one format that edge and pipeline agree on.

A manifest is a JSON object in UTF-8, put under `manifests/{edge}/{delivery}.json` after the last instance of its
delivery. Instances lie under `{edge}/{delivery}/{study}/{series}/{sop}.dcm`. Times are UTC in ISO 8601.
"""

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from dicomflow.errors import PermanentError

__all__ = [
    "MANIFEST_VERSION",
    "Association",
    "Instance",
    "Manifest",
    "Series",
    "Study",
]

MANIFEST_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Association:
    """One association that contributed to a delivery, and how it ended: released, aborted, lost or open."""

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    ended: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One stored object: `bytes` and lower-case hex `sha256` are of the whole Part 10 file."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    key: str
    bytes: int
    sha256: str
    received_at: str
    association_id: str


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series in this delivery."""

    series_instance_uid: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """The series of one study in this delivery."""

    study_instance_uid: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one edge received of one study in one go."""

    edge: str
    delivery: str
    opened_at: datetime
    closed_at: datetime
    associations: tuple[Association, ...]
    studies: tuple[Study, ...]

    def instances(self) -> Iterator[Instance]:
        """Yield every instance, in the manifest's order."""
        for study in self.studies:
            for series in study.series:
                yield from series.instances

    def only(self, sop_instance_uids: Container[str]) -> "Manifest":
        """Return this manifest without the instances that are not named."""
        studies = (
            Study(
                study.study_instance_uid,
                tuple(
                    Series(series.series_instance_uid, kept)
                    for series in study.series
                    if (kept := tuple(each for each in series.instances if each.sop_instance_uid in sop_instance_uids))
                ),
            )
            for study in self.studies
        )
        return replace(self, studies=tuple(study for study in studies if study.series))

    def to_json(self) -> bytes:
        """Encode as UTF-8 JSON with stable key order."""
        document = {"version": MANIFEST_VERSION, **_members(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), default=_members).encode()

    @classmethod
    def from_json(cls, encoded: bytes) -> "Manifest":
        """Decode a manifest; unknown members are ignored.

        Raises:
            PermanentError: the bytes are no manifest of this version, or a member is missing or of another type.
        """
        try:
            document: dict[str, Any] = json.loads(encoded)
            if document["version"] != MANIFEST_VERSION:
                raise ValueError(f"version is {document['version']!r}")  # noqa: TRY301  # wrapped like all others
            return cls(
                edge=_text(document, "edge"),
                delivery=_text(document, "delivery"),
                opened_at=_moment(document, "opened_at"),
                closed_at=_moment(document, "closed_at"),
                associations=tuple(Association(**_known(Association, item)) for item in document["associations"]),
                studies=tuple(_study(item) for item in document["studies"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PermanentError(f"not a manifest of version {MANIFEST_VERSION}: {error!r:.200}") from error


def _members(value: Any) -> Any:
    """Return what JSON makes of a part of a manifest; `dataclasses.asdict` copies it all, at ten times the cost."""
    if isinstance(value, datetime):
        return value.isoformat()
    return {name: getattr(value, name) for name in value.__slots__}


def _study(item: dict[str, Any]) -> Study:
    return Study(_text(item, "study_instance_uid"), tuple(_series(series) for series in item["series"]))


def _series(item: dict[str, Any]) -> Series:
    instances = tuple(Instance(**_known(Instance, instance)) for instance in item["instances"])
    return Series(_text(item, "series_instance_uid"), instances)


def _known(kind: type[Association] | type[Instance], item: dict[str, Any]) -> dict[str, Any]:
    return {name: _typed(item, name, annotation) for name, annotation in kind.__annotations__.items()}


def _text(item: dict[str, Any], name: str) -> str:
    value: str = _typed(item, name, str)
    return value


def _moment(item: dict[str, Any], name: str) -> datetime:
    moment = datetime.fromisoformat(_text(item, name))
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    return moment


def _typed(item: dict[str, Any], name: str, kind: type) -> Any:
    """Return a member of exactly this type: JSON's true is no number here, and text is what UTF-8 and keys can hold."""
    value = item[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    if isinstance(value, str) and not value.isprintable() and not _is_storable(value):
        raise ValueError(f"{name} holds a character that cannot be stored")
    return value


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)
