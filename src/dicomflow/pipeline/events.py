"""Object-created events, in each of the shapes that a bucket's messages come in.

S3's own notification, EventBridge's "Object Created", either of them wrapped by SNS, and the test event that S3 sends
once when a notification is set up. This module decodes text and knows nothing of the objects.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, unquote_plus

from dicomflow.errors import PermanentError

__all__ = ["LOCAL_BUCKET", "StoredObjectEvent", "decode_object_events", "encode_object_event"]

LOCAL_BUCKET: Final = "local-bucket"
"""The name under which a folder stands for a bucket, in its events too."""
_S3_TEST_EVENT: Final = "s3:TestEvent"
_EVENT_VERSION: Final = "2.1"


@dataclass(frozen=True, slots=True)
class StoredObjectEvent:
    """An object that was put; `message_id` is the queue message that said so, `size_bytes` None where it did not."""

    message_id: str
    bucket: str
    key: str
    size_bytes: int | None = None


def decode_object_events(message_id: str, body: str, bucket: str | None = None) -> list[StoredObjectEvent]:
    """Return the objects that a message says were created: none for a test event or for another kind of event.

    Args:
        message_id: the message's.
        body: what it says.
        bucket: the only one that is believed; None believes each.

    Raises:
        PermanentError: the body is no event of a bucket, or of another one.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PermanentError("the message is not JSON") from error
    found = _decode(message_id, document)
    if bucket is not None and any(each.bucket != bucket for each in found):
        raise PermanentError("the event is of another bucket than this deployment's")
    return found


def encode_object_event(bucket: str, key: str, size_bytes: int) -> str:
    """Encode one created object as S3 notifies of it."""
    record = {
        "eventVersion": _EVENT_VERSION,
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/"), "size": size_bytes}},
    }
    return json.dumps({"Records": [record]}, separators=(",", ":"))


def _decode(message_id: str, document: object) -> list[StoredObjectEvent]:
    if not isinstance(document, dict):
        raise PermanentError("the message is no event of a bucket")
    if document.get("Event") == _S3_TEST_EVENT:
        return []
    if document.get("Type") == "Notification" and isinstance(document.get("Message"), str):
        return decode_object_events(message_id, document["Message"])
    try:
        if "Records" in document:
            records = [record for record in document["Records"] if _is_created(record)]
            return [_from_s3(message_id, record["s3"]) for record in records]
        if document.get("source") == "aws.s3":
            is_created = document["detail-type"] == "Object Created"
            return [_from_eventbridge(message_id, document["detail"])] if is_created else []
    except (KeyError, TypeError, AttributeError) as error:
        raise PermanentError(f"the event lacks a member: {type(error).__name__}") from error
    raise PermanentError("the message is no event of a bucket")


def _is_created(record: Mapping[str, Any]) -> bool:
    """Tell creations from removals and the rest; the name comes with or without its `s3:`."""
    return str(record["eventName"]).removeprefix("s3:").startswith("ObjectCreated:")


def _from_s3(message_id: str, s3: Mapping[str, Any]) -> StoredObjectEvent:
    """Keys are form-encoded here: a space is `+`, and some servers encode the slash too."""
    stored = s3["object"]
    return StoredObjectEvent(message_id, s3["bucket"]["name"], _key(unquote_plus(stored["key"])), stored.get("size"))


def _from_eventbridge(message_id: str, detail: Mapping[str, Any]) -> StoredObjectEvent:
    """Keys stand here as they are."""
    stored = detail["object"]
    return StoredObjectEvent(message_id, detail["bucket"]["name"], _key(stored["key"]), stored.get("size"))


def _key(text: object) -> str:
    """Return a key.

    Raises:
        PermanentError: it is no text, is empty, or holds half of a character.
    """
    if not isinstance(text, str) or not text or any("\ud800" <= each <= "\udfff" for each in text):
        raise PermanentError("the event names no key")
    return text
