"""What must hold of the edge half after the storm: each a function of an edge, which yields what is broken in words."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from tests.simulation.box import START
from tests.simulation.edge import Answered, Edge
from tests.simulation.edge_seams import Manifest
from tests.simulation.store import Bucket

_NO_SUCH = 0x0112
_GATHERED_SECONDS = 60.0


def _ever(bucket: Bucket) -> dict[str, tuple[bytes, object]]:
    """Return what is there, and what an operator deleted: that an edge cannot help."""
    return bucket.deleted | bucket.objects


def _kept(bucket: Bucket) -> dict[str, float]:
    """Return until when a bucket had a content, by its digest."""
    kept: dict[str, float] = {}
    for key, (content, at) in [*bucket.deleted.items(), *bucket.objects.items()]:
        if key.endswith(".dcm"):
            until = float("inf") if key in bucket.objects else (at - START).total_seconds()
            sha256 = hashlib.sha256(content).hexdigest()
            kept[sha256] = max(kept.get(sha256, -1.0), until)
    return kept


def _sop_of(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".dcm")


def acknowledged_lost(edge: Edge) -> Iterator[str]:
    """What was answered 0000 is, byte for byte, in the store that was configured then or later, or has a reason."""
    until = [*edge.books.moved_at, float("inf")]
    held = [(end, _kept(bucket)) for end, bucket in zip(until, edge.buckets, strict=True)]
    # On a full volume it is there without its reason, which the log has.
    reasons = {path.name.rpartition("_")[2].partition(".")[0] for path in edge.root.glob("quarantined/*")}

    def is_kept(each: Answered) -> bool:
        return any(end >= each.at and kept.get(each.sha256, -1.0) >= each.at for end, kept in held)

    lacking = [each for each in edge.books.answered if not is_kept(each)]
    times = Counter(each.sha256 for each in lacking)
    for each in lacking:
        # One of which every copy rotted is in quarantine, as is what no reader can read.
        is_rotten = times[each.sha256] <= edge.books.rotten[each.sha256]
        if each.sha256 not in reasons or not (each.sha256 in edge.books.odd or is_rotten):
            yield f"{each.sop} answered 0000 at {each.at:.0f}, quarantined={each.sha256 in reasons}"


def left_in_spool(edge: Edge) -> Iterator[str]:
    """The spool is empty once nothing hinders."""
    left = [path for folder in ("delivering", "received") for path in edge.root.glob(f"{folder}/*/*.dcm")]
    left += edge.root.glob("delivering/*/manifest.json")
    if left:
        yield f"{len(left)}, as {left[0].relative_to(edge.root)}"
    if edge.ended is not None:
        yield f"the deliverer ended: {edge.ended}"


def manifest_not_true(edge: Edge) -> Iterator[str]:
    """A manifest lists what is in the store, and each stored instance is in one."""
    for bucket in edge.buckets:
        content = {key: content for key, (content, _) in _ever(bucket).items()}
        manifests = [Manifest.from_json(each) for key, each in content.items() if key.startswith("manifests/")]
        listed = {each.key: each.sha256 for manifest in manifests for each in manifest.instances()}
        images = {key: hashlib.sha256(each).hexdigest() for key, each in content.items() if key.endswith(".dcm")}
        images = {key: digest for key, digest in images.items() if not key.startswith("staging/")}
        for key, sha256 in listed.items():
            if images.get(key) != sha256:
                yield f"{key} is listed, and the store has {images.get(key)}"
        if bucket is edge.bucket:
            # What was put and not confirmed may be put again under an edge's new name, or be found in another delivery.
            again = set(listed.values())
            strays = (key for key in sorted(set(images) - set(listed)) if images[key] not in again)
            yield from (f"{key} is stored, and in no manifest" for key in strays)


def commitment_not_true(edge: Edge) -> Iterator[str]:
    """Commitment never says more than is true, nor 0112 of what was answered 0000 and is there."""
    for asked_at, told_at, bucket, report in edge.books.reports:
        objects = [(key, content) for key, (content, _) in bucket.objects.items() if bucket.since[key] <= told_at]
        objects += [(key, content) for key, (content, at) in bucket.deleted.items() if at > told_at]
        there = {(_sop_of(key), hashlib.sha256(content).hexdigest()) for key, content in objects}
        # Of several contents the last is meant; of one that came with the question the ledger may not know yet.
        until = asked_at - _GATHERED_SECONDS
        meant = {each.sop: each.sha256 for each in edge.books.answered if each.at < until}
        for reference in report.committed:
            uid = reference.sop_instance_uid
            last_at = max((each.at for each in edge.books.answered if each.sop == uid and each.at < until), default=0.0)
            # Nor is there a last one of those that came at one moment.
            at = {last_at} | {each.at for each in edge.books.answered if each.at >= until}
            others = {each.sha256 for each in edge.books.answered if each.sop == uid and each.at in at}
            if not there & {(uid, sha256) for sha256 in {meant.get(uid, ""), *others}}:
                yield f"{uid} was committed, and is not in the store"
        if edge.box.is_excused("no such instance", "yesterday" in edge.books.kinds):
            continue  # a ledger of before does not know
        told = (told_at - START).total_seconds()
        moved_at = max((at for at in edge.books.moved_at if at <= told), default=-1.0)
        answered = {each.sop for each in edge.books.answered if moved_at < each.at < asked_at}
        # What an operator has deleted is not there, and 0112 of it is true.
        stays = {_sop_of(key) for key in bucket.objects if key.endswith(".dcm")} - set(map(_sop_of, bucket.deleted))
        for reference, reason in report.failed:
            if reason == _NO_SUCH and reference.sop_instance_uid in answered & stays:
                yield f"{reference.sop_instance_uid} is answered 0112, and was answered 0000 before"


AFTER = (acknowledged_lost, left_in_spool, manifest_not_true, commitment_not_true)
