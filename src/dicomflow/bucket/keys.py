"""Keys of the bucket: every prefix, what makes a key, and what a key names. No input or output.

Instances lie under the name of their edge, all else under a prefix of its own. An edge is refused such a name; where
one had it before, its images are told by the shape of their keys.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

__all__ = [
    "ADOPTED",
    "FEEDBACK_PREFIX",
    "IMPORT_OUTPUT_PREFIX",
    "MANIFEST_PREFIX",
    "OUTBOUND_PREFIX",
    "OWN_PREFIXES",
    "REPAIR_PREFIX",
    "RESERVED_NAMES",
    "RETURNS_PREFIX",
    "STAGING_PREFIX",
    "STATUS_PREFIX",
    "check_edge_name",
    "feedback_key",
    "feedback_prefix",
    "heartbeat_key",
    "instance_key",
    "is_heartbeat",
    "is_manifest",
    "is_received",
    "is_repair",
    "is_staging",
    "job_key",
    "key_of_uri",
    "manifest_key",
    "manifest_of_key",
    "outbound_key",
    "pending_key",
    "probe_key",
    "repair_key",
    "returns_key",
    "sop_of_key",
    "staging_prefix",
    "transfer_of_returns",
    "transfer_prefix",
]

MANIFEST_PREFIX: Final = "manifests/"
FEEDBACK_PREFIX: Final = "feedback/"
STATUS_PREFIX: Final = "status/"
STAGING_PREFIX: Final = "staging/"
IMPORT_OUTPUT_PREFIX: Final = "imports/"
REPAIR_PREFIX: Final = f"{IMPORT_OUTPUT_PREFIX}repaired/"
OUTBOUND_PREFIX: Final = "outbound/"
RETURNS_PREFIX: Final = "returns/"
OWN_PREFIXES: Final = (
    MANIFEST_PREFIX,
    FEEDBACK_PREFIX,
    STATUS_PREFIX,
    STAGING_PREFIX,
    IMPORT_OUTPUT_PREFIX,
    OUTBOUND_PREFIX,
    RETURNS_PREFIX,
)
"""What edges, pipeline and service put beside the images; the last two are for what is sent back to sites."""
ADOPTED: Final = "adopted"
"""In an edge's place for what something else put into the bucket."""
RESERVED_NAMES: Final = frozenset({ADOPTED, *(prefix.rstrip("/") for prefix in OWN_PREFIXES)})

_SEGMENTS: Final = 5
_NAME_LENGTH: Final = 256
_STAGING_SEGMENTS: Final = 2
_RETURNS_SEGMENTS: Final = 3
_STAGING_TOKEN_LENGTH: Final = 32
# What `quote` leaves as it is, found at a fifth of its cost: a key is made several times for each instance.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~-]+")


def check_edge_name(name: str) -> str:
    """Return the name of an edge, which is the first segment of its images' keys.

    A bucket's folder on Windows or macOS does not tell cases apart, nor a name from one with a dot behind it.

    Raises:
        ValueError: the bucket has the name for something else.
    """
    if name.casefold().rstrip(".") in RESERVED_NAMES:
        names = ", ".join(sorted(RESERVED_NAMES))
        raise ValueError(f"{name!r} is reserved, since the bucket keeps other things there; no edge is called {names}")
    return name


def instance_key(
    edge: str, delivery: str, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str
) -> str:
    """Return the object key of an instance; the UIDs must have passed `dicom.uids.is_usable`."""
    return _join((edge, delivery, study_instance_uid, series_instance_uid, f"{sop_instance_uid}.dcm"))


def key_of_uri(s3_uri: str) -> str:
    """Return what stands behind the bucket of an S3 URI."""
    return s3_uri.removeprefix("s3://").partition("/")[2]


def sop_of_key(key: str) -> str | None:
    """Return the SOP Instance UID that an instance's key ends in; None where no catalog can hold what stands there."""
    name = unquote(key.rpartition("/")[2].removesuffix(".dcm"))
    return name if len(name) <= _NAME_LENGTH and "\0" not in name else None


def is_received(key: str) -> bool:
    """Tell whether an object may be a received image: it has the shape of an instance's key, or no prefix of ours."""
    return not key.startswith(OWN_PREFIXES) or _is_of_an_instance(key)


def manifest_key(edge: str, delivery: str) -> str:
    """Return the object key of a delivery's manifest; it lies outside every import prefix."""
    return MANIFEST_PREFIX + _join((edge, f"{delivery}.json"))


def manifest_of_key(key: str) -> str:
    """Return the key of the manifest of the delivery that a received object's key names, if it names one."""
    return f"{MANIFEST_PREFIX}{'/'.join(key.split('/', 2)[:2])}.json"


def is_manifest(key: str) -> bool:
    """Tell manifests from the probes of edges that lie beside them, and from images."""
    return key.startswith(MANIFEST_PREFIX) and key.endswith(".json")


def probe_key(edge: str) -> str:
    """Return the key of the small object by which an edge tries the bucket; it is taken for nothing else."""
    return MANIFEST_PREFIX + _join((edge, "probe"))


def feedback_prefix(edge: str) -> str:
    """Return the key prefix of all feedback to an edge; it ends in a slash."""
    return f"{FEEDBACK_PREFIX}{_segment(edge)}/"


def feedback_key(edge: str, delivery: str) -> str:
    """Return the object key of the feedback on a delivery."""
    return f"{feedback_prefix(edge)}{_segment(delivery)}.json"


def heartbeat_key(edge: str) -> str:
    """Return the object key of an edge's heartbeat."""
    return f"{STATUS_PREFIX}{_segment(edge)}.json"


def is_heartbeat(key: str) -> bool:
    """Tell heartbeats from images of an edge that is called as their prefix is."""
    return key.startswith(STATUS_PREFIX) and key.endswith(".json") and key.count("/") == 1


def staging_prefix(token: str) -> str:
    """Return the prefix of the copies that one import job is given, from its token."""
    return f"{STAGING_PREFIX}{token[:_STAGING_TOKEN_LENGTH]}/"


def is_staging(prefix: str) -> bool:
    """Tell a job's copies from a study or series of an edge that is called as their prefix is."""
    return prefix.startswith(STAGING_PREFIX) and prefix.count("/") == _STAGING_SEGMENTS


def repair_key(datastore_id: str, image_set_id: str) -> str:
    """Return the key of the note on a repaired image set."""
    return REPAIR_PREFIX + _join((datastore_id, f"{image_set_id}.json"))


def is_repair(key: str) -> bool:
    """Tell the key of a note on a repaired image set."""
    return key.startswith(REPAIR_PREFIX) and key.endswith(".json")


def pending_key(edge: str) -> str:
    """Return the key of the one object that an edge asks for: which transfers wait for it."""
    return f"{OUTBOUND_PREFIX}{_segment(edge)}/pending.json"


def transfer_prefix(edge: str, transfer: str) -> str:
    """Return the prefix of the copies that an edge is to send; it ends in a slash."""
    return f"{OUTBOUND_PREFIX}{_join((edge, transfer))}/"


def job_key(edge: str, transfer: str) -> str:
    """Return the key of what says what a transfer is; it is put after the copies."""
    return f"{transfer_prefix(edge, transfer)}job.json"


def outbound_key(edge: str, transfer: str, number: int) -> str:
    """Return the key of a transfer's copy of an instance."""
    return f"{transfer_prefix(edge, transfer)}{number}.dcm"


def returns_key(edge: str, transfer: str) -> str:
    """Return the key under which an edge says what became of a transfer."""
    return RETURNS_PREFIX + _join((edge, f"{transfer}.json"))


def transfer_of_returns(key: str) -> tuple[str, str] | None:
    """Return edge and transfer that a key of `returns/` names; None for any other key."""
    segments = key.removesuffix(".json").split("/")
    if not key.startswith(RETURNS_PREFIX) or not key.endswith(".json") or len(segments) != _RETURNS_SEGMENTS:
        return None
    return unquote(segments[1]), unquote(segments[2])


def _is_of_an_instance(key: str) -> bool:
    segments = key.split("/")
    return len(segments) == _SEGMENTS and all(segments) and key.endswith(".dcm")


def _join(parts: Iterable[str]) -> str:
    """Join path segments, percent-encoding whatever could be taken for a separator."""
    return "/".join(map(_segment, parts))


@lru_cache(maxsize=1024)  # all but the last are those of the instance before
def _segment(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else quote(part, safe="")
