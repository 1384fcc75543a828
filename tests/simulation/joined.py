"""Both halves in one box: modalities send to the edge, whose bucket is the cloud's."""

import hashlib
from functools import partial

from tests.simulation.cloud import Cloud
from tests.simulation.edge import Edge
from tests.simulation.edge_seams import Manifest
from tests.simulation.plan import Act
from tests.simulation.seams import is_manifest
from tests.simulation.site import Sent

POLL_SECONDS = 20.0
_OF_THE_EDGE = {"resend", "rot", "full", "store_down", "death", "yesterday", "clock", "commitment", "rename", "power"}
_SENT_BY = 16


class Joined:
    """One seed's site: what a modality sends is judged at the cloud's end."""

    def __init__(self, cloud: Cloud, edge: Edge) -> None:
        self.cloud, self.edge = cloud, edge
        edge.poll_seconds = POLL_SECONDS
        self._facts: dict[str, tuple[dict, str, str, bool]] = {}
        self._tell = cloud.bucket.on_put
        cloud.bucket.on_put = self._put

    def act(self, act: Act) -> None:
        """Do what the plan has now."""
        if act.kind == "deliver":
            self.deliver(act)
        elif act.kind in _OF_THE_EDGE:
            self.edge.act(act)
        elif act.kind not in {"move", "remove"}:
            self.cloud.act(act)

    def deliver(self, act: Act) -> None:
        """Send a study to the edge over one association."""
        rng, site = act.rng(self.cloud.plan.seed), self.cloud.site
        kind, study = site.choose(rng, act.number)
        association = f"{rng.randrange(_SENT_BY):032x}"
        for series, size in study["series"].items():
            for index in range(1, size + 1):
                sop, content, is_odd = site.content(rng, kind, study, series, index)
                sha256 = hashlib.sha256(content).hexdigest()
                self._facts[sha256] = (study, series, sop, is_odd)
                if is_odd:
                    self.edge.books.odd.add(sha256)
                self.edge.receive(sop, content, association)

    def _put(self, key: str) -> None:
        content = self.cloud.bucket.objects[key][0]
        books = self.cloud.books
        if is_manifest(key):
            manifest = Manifest.from_json(content)
            books.manifests[manifest.delivery] = (key, [each.key for each in manifest.instances()])
        elif (facts := self._facts.get(hashlib.sha256(content).hexdigest())) and not key.startswith("staging/"):
            study, series, sop, is_odd = facts
            books.sent[key] = Sent(key.split("/")[1], study, series, sop, is_odd)
        self._tell(key)

    def schedule(self) -> None:
        """Put the plan's acts on the timetable."""
        for act in self.cloud.plan.acts:
            self.cloud.box.at(act.at, partial(self.act, act))
