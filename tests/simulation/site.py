"""A site as the cloud sees it: what its edges put into the bucket, and the books of it."""

import hashlib
from dataclasses import dataclass, field
from random import Random

from tests.simulation.box import Box
from tests.simulation.objects import CT, EXPLICIT_LITTLE, SURNAMES, elements_of, encode, spoil
from tests.simulation.seams import Association, Instance, Manifest, Series, Study, instance_key, manifest_key
from tests.simulation.store import Bucket

BUCKET = "images"


@dataclass(frozen=True)
class Sent:
    """What was put under a key; `study` has the values of a good one."""

    delivery: str
    study: dict
    series: str
    sop: str
    is_odd: bool


@dataclass
class Books:
    """What was sent and asked for, by which alone the checks judge."""

    sent: dict[str, Sent] = field(default_factory=dict)
    manifests: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    studies: list[dict] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    """The acts that happened."""


class Site:
    """Modalities with their habits."""

    def __init__(self, box: Box, bucket: Bucket, books: Books) -> None:
        self._box, self._bucket, self.books = box, bucket, books
        self._contents: dict[str, tuple[bytes, bool]] = {}

    def new_study(self, rng: Random, number: int) -> dict:
        """Make a study of one of six patients."""
        patient = rng.randrange(6)
        series = {f"1.2.{number}.{each + 1}": rng.choice((1, 2, 2, 4, 8)) for each in range(rng.choice((1, 1, 2, 3)))}
        study = {
            "uid": f"1.2.{number}",
            "date": f"202601{rng.randrange(1, 29):02d}",
            "accession": f"A{number}",
            "modality": rng.choice(("CT", "MR", "CR")),
            "description": f"Kopf {number}",
            "patient": f"P{patient}",
            "name": f"{SURNAMES[patient % 4]}^Ada{patient}",
            "series": series,
        }
        self.books.studies.append(study)
        return study

    def choose(self, rng: Random, number: int) -> tuple[str, dict]:
        """Choose what is delivered: new, sent again, with empty values, a series UID of another's, other bytes."""
        kinds = ("resent", "empty", "shared_series", "other_bytes", "new")
        kind = rng.choices(kinds, (12, 4, 4, 4, 76))[0]
        if kind == "new" or not self.books.studies:
            return "new", self.new_study(rng, 10 + number)
        study = rng.choice(self.books.studies)
        if kind == "empty":
            blank = dict.fromkeys(("accession", "description", "date", "name"), "")
            return kind, study | blank | {"series": {f"{uid}.9{number}": 1 for uid in study["series"]}}
        if kind == "shared_series":
            return kind, self.new_study(rng, 10 + number) | {"series": dict(study["series"])}
        return kind, study

    def content(self, rng: Random, kind: str, study: dict, series: str, number: int) -> tuple[str, bytes, bool]:
        """Return an instance's UID, its bytes and whether they are odd."""
        sop = f"{series}.{number}"
        if kind == "shared_series":
            sop = f"{study['uid']}.77.{series.rpartition('.')[2]}.{number}"
        pixels, is_odd = rng.randbytes(16), rng.random() < self._box.chances.get("odd", 0)
        if kind == "resent" and sop in self._contents:
            return sop, *self._contents[sop]
        elements = elements_of(study, series, sop, number, pixels)
        made = (spoil(rng, elements) if is_odd else encode(elements), is_odd)
        self._box.counts["odd_object"] += is_odd
        return sop, *(made if kind == "other_bytes" else self._contents.setdefault(sop, made))

    def deliver(self, rng: Random, number: int) -> None:
        """Put one delivery into the bucket as an edge does: objects in any order, the manifest last."""
        kind, study = self.choose(rng, number)
        self._box.counts[f"delivery_{kind}"] += 1
        delivery, edge, at = f"d{number}", rng.choice(("edge1", "edge2")), 0.0
        keys, made = [], []
        for series, size in study["series"].items():
            instances = []
            for index in range(1, size + 1):
                sop, content, is_odd = self.content(rng, kind, study, series, index)
                key, sha256 = (
                    instance_key(edge, delivery, study["uid"], series, sop),
                    hashlib.sha256(content).hexdigest(),
                )
                keys.append(key)
                self.books.sent[key] = Sent(delivery, study, series, sop, is_odd)
                at += rng.random() * 0.2
                self._box.at(at, lambda key=key, content=content: self._bucket.put(key, content))
                received_at = self._box.now.isoformat()
                instances.append(Instance(sop, CT, EXPLICIT_LITTLE, key, len(content), sha256, received_at, "a1"))
            made.append(Series(series, tuple(instances)))
        title, now, key = rng.choice(("SCAN1", "SCAN2", "EMERGENCY")), self._box.now, manifest_key(edge, delivery)
        association = Association("a1", title, "DICOMFLOW", "10.0.0.1", "released")
        manifest = Manifest(edge, delivery, now, now, (association,), (Study(study["uid"], tuple(made)),))
        self.books.manifests[delivery] = (key, keys)
        self._box.at(at + 0.5, lambda: self._bucket.put(key, manifest.to_json()))
        self._box.note(f"delivery {delivery} {kind} {study['uid']} of {len(keys)} objects")
