"""What a message on the queue `transfers` asks for: ours, and that of the AWS sample.

Ours is `{"transfer": NAME, "to": DESTINATION, "uid": UID or "uids": [UID…], "edge": EDGE, "requested_by": WHO,
"as_stored": true}`, of which `to` and one of the UIDs are needed; the other is `{JobId, sourceAE, destinationAE,
DCMObjs: [{d0020000D, series: [{d0020000E, SOPs: [{d00080018}]}]}]}`, whose host and port are ignored: an address never
comes from the cloud.
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from obstore.store import ObjectStore

from dicomflow.bucket.transfer import is_transfer_id
from dicomflow.catalog.transfers import Selection
from dicomflow.errors import PermanentError
from dicomflow.pipeline.heartbeats import read_heartbeats

__all__ = ["Request", "edge_of", "read_request"]

logger = logging.getLogger(__name__)

_MAX_TEXT: Final = 256
_MAX_NAME: Final = 40
_MAX_UIDS: Final = 10_000
_ADDRESS: Final = re.compile(r"host|port|addr|ip$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent to which destination; `uid` is shown for it, `edge` None where the message names none."""

    transfer: str
    destination: str
    selections: tuple[Selection, ...]
    uid: str | None
    edge: str | None
    requested_by: str
    as_stored: bool = False


def read_request(message_id: str, document: dict[str, Any]) -> Request:
    """Return what a message asks for; its transfer has the same name each time that it comes.

    Raises:
        PermanentError: it is neither of the two.
    """
    if "DCMObjs" in document:
        return _of_sample(message_id, document)
    if "to" not in document:
        raise PermanentError("the message names no destination (to), and no transfer alone")
    uids = [document["uid"]] if "uid" in document else document.get("uids")
    if not isinstance(uids, list) or not 0 < len(uids) <= _MAX_UIDS:
        raise PermanentError(f"the message names no UID, or more than {_MAX_UIDS:,}")
    texts = tuple(_text(uid, "uid") for uid in uids)
    return Request(
        transfer=_name(document.get("transfer"), message_id),
        destination=_text(document["to"], "to"),
        selections=tuple(Selection(any=uid) for uid in texts),
        uid=texts[0] if len(texts) == 1 else None,
        edge=_optional(document, "edge"),
        requested_by=_optional(document, "requested_by") or "message",
        as_stored=document.get("as_stored") is True,
    )


def edge_of(store: ObjectStore, destination: str, edge: str | None) -> str:
    """Return the edge that is to send: the one that is named, or the one that says it knows a destination.

    Raises:
        PermanentError: the one that is named was never heard of, or has no destinations at all, so that it never asks;
            or none is named, and no edge knows this one, by its name or AE title, or more than one does.
        TransientError: the store did not answer.
    """
    beats = read_heartbeats(store)
    if edge is not None:
        named = next((beat for beat in beats if beat.edge == edge), None)
        if named is None:
            raise PermanentError(f"no edge {edge} has told of itself")
        if not named.destinations:
            raise PermanentError(f"the edge {edge} has no destinations in its settings")
        return edge
    found = [
        beat.edge for beat in beats if any(destination in {known.name, known.ae_title} for known in beat.destinations)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise PermanentError(f"several edges know a destination {destination!r}: {', '.join(found)}; say which edge")
    raise PermanentError(f"no edge says that it knows a destination {destination!r}")


def _of_sample(message_id: str, document: dict[str, Any]) -> Request:
    transfer = _name(document.get("JobId"), message_id)
    told = [name[:_MAX_NAME] for name in document if _ADDRESS.search(name)]
    if told:
        logger.warning("transfer_address_ignored", extra={"transfer": transfer, "members": ",".join(told)})
    try:
        selections = tuple(each for study in document["DCMObjs"] for each in _of_study(study))
    except (KeyError, TypeError, AttributeError) as error:
        raise PermanentError(f"DCMObjs lacks a member: {type(error).__name__}") from error
    if not 0 < len(selections) <= _MAX_UIDS:
        raise PermanentError("DCMObjs names nothing, or too much")
    studies = {each.study for each in selections}
    return Request(
        transfer=transfer,
        destination=_text(document.get("destinationAE"), "destinationAE"),
        selections=selections,
        uid=studies.pop() if len(studies) == 1 else None,
        edge=_optional(document, "edge"),
        requested_by=_optional(document, "sourceAE") or "message",
    )


def _of_study(document: dict[str, Any]) -> list[Selection]:
    study = _text(document["d0020000D"], "d0020000D")
    found = []
    for series in document.get("series") or ():
        instances = tuple(_text(each["d00080018"], "d00080018") for each in series.get("SOPs") or ())
        found.append(Selection(study, _text(series["d0020000E"], "d0020000E"), instances))
    return found or [Selection(study)]


def _name(given: object, message_id: str) -> str:
    """Return a transfer's name: as it is given, or made of that, or of the message, so that a repeat has the same."""
    if isinstance(given, str) and is_transfer_id(given):
        return given
    text = given if isinstance(given, str | int) else message_id
    return hashlib.sha256(f"{text}".encode()).hexdigest()[:32]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT or not value.isprintable():
        raise PermanentError(f"{name} is no text of 1 to {_MAX_TEXT} printable characters")
    return value


def _optional(document: dict[str, Any], name: str) -> str | None:
    return _text(document[name], name) if document.get(name) is not None else None
