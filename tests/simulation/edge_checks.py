"""What must hold of the edge half after the storm: each a function of an edge, which yields what is broken in words."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from tests.simulation.edge import Answered, Edge
from tests.simulation.edge_seams import Manifest
from tests.simulation.store import Bucket

_NO_SUCH = 0x0112


def _ever(bucket: Bucket) -> dict[str, tuple[bytes, object]]:
    """Return what is there, and what an operator deleted: that an edge cannot help."""
    return bucket.deleted | bucket.objects


def _digests(bucket: Bucket) -> set[str]:
    return {hashlib.sha256(content).hexdigest() for key, (content, _) in _ever(bucket).items() if key.endswith(".dcm")}


def _sop_of(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".dcm")


def acknowledged_lost(edge: Edge) -> Iterator[str]:
    """What was answered 0000 is, byte for byte, in the store that was configured then or later, or has a reason."""
    until = [*edge.books.moved_at, float("inf")]
    held = [(end, _digests(bucket)) for end, bucket in zip(until, edge.buckets, strict=True)]
    reasons = {path.name.rpartition("_")[2].partition(".")[0] for path in edge.root.glob("quarantined/*.reason")}
    times = Counter(each.sha256 for each in edge.books.answered)

    def is_kept(each: Answered) -> bool:
        return any(end >= each.at and each.sha256 in digests for end, digests in held)

    for each in edge.books.answered:
        # One that rotted and never came again whole is in quarantine, as is what no reader can read.
        is_told = each.sha256 in reasons and (each.sha256 in edge.books.odd or times[each.sha256] < 2)
        if not is_kept(each) and not is_told:
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
            # One that rotted before the edge knew that its put had come is in quarantine, with its reason, and stored.
            strays = (key for key in sorted(set(images) - set(listed)) if images[key] not in edge.books.rotten)
            yield from (f"{key} is stored, and in no manifest" for key in strays)


def commitment_not_true(edge: Edge) -> Iterator[str]:
    """Commitment never says more than is true, nor 0112 of what was answered 0000 and is there."""
    for asked_at, told_at, bucket, report in edge.books.reports:
        there = {_sop_of(key) for key, (_, at) in _ever(bucket).items() if key.endswith(".dcm") and at <= told_at}
        for reference in report.committed:
            if reference.sop_instance_uid not in there:
                yield f"{reference.sop_instance_uid} was committed, and is not in the store"
        if edge.books.kinds & {"yesterday"}:
            continue  # a ledger of before does not know
        moved_at = max((at for at in edge.books.moved_at if at <= asked_at), default=-1.0)
        answered = {each.sop for each in edge.books.answered if moved_at < each.at < asked_at}
        # What an operator has deleted is not there, and 0112 of it is true.
        stays = {_sop_of(key) for key in bucket.objects if key.endswith(".dcm")}
        for reference, reason in report.failed:
            if reason == _NO_SUCH and reference.sop_instance_uid in answered & stays:
                yield f"{reference.sop_instance_uid} is answered 0112, and was answered 0000 before"


AFTER = (acknowledged_lost, left_in_spool, manifest_not_true, commitment_not_true)
