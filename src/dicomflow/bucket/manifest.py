"""The manifest of a delivery: the one format that edge and pipeline agree on.

A manifest is a JSON object in UTF-8, put under `manifests/{edge}/{delivery}.json` after the last instance of its
delivery. Instances lie under `{edge}/{delivery}/{study}/{series}/{sop}.dcm`. Times are UTC in ISO 8601.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Final

from dicomflow.bucket.documents import Format, Moment, Text, WholeNumber

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
    """One association that contributed to a delivery, and how it ended: released, aborted, lost or open.

    `move_originators` has the AE title, "/" and the message ID of each C-MOVE that it stored for (PS3.7 9.1.1.1); an
    edge of an earlier version tells none.
    """

    association_id: Text
    calling_ae_title: Text
    called_ae_title: Text
    peer: Text
    ended: Text
    move_originators: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One stored object: `bytes` and lower-case hex `sha256` are of the whole Part 10 file."""

    sop_instance_uid: Text
    sop_class_uid: Text
    transfer_syntax_uid: Text
    key: Text
    bytes: WholeNumber
    sha256: Text
    received_at: Text
    association_id: Text


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series in this delivery."""

    series_instance_uid: Text
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """The series of one study in this delivery."""

    study_instance_uid: Text
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one edge received of one study in one go."""

    edge: Text
    delivery: Text
    opened_at: Moment
    closed_at: Moment
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
        return _FORMAT.encode(self)

    @classmethod
    def from_json(cls, encoded: bytes) -> "Manifest":
        """Decode a manifest; unknown members are ignored.

        Raises:
            PermanentError: the bytes are no manifest of this version, or a member is missing or of another type.
        """
        return _FORMAT.decode(encoded)


_FORMAT: Final = Format(Manifest, "a manifest of version", MANIFEST_VERSION)
