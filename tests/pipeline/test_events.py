"""Object-created events are decoded in each shape they come in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.errors import PermanentError
from dicomflow.pipeline.events import StoredObjectEvent, decode_object_events, encode_object_event


def s3_record(key: str, event_name: str = "ObjectCreated:Put") -> dict[str, object]:
    """Build one record of S3's notification."""
    stored = {"key": key, "size": 7, "eTag": "x", "sequencer": "0"}
    return {"eventName": event_name, "s3": {"bucket": {"name": "dicom"}, "object": stored}}


def decode(document: object) -> list[StoredObjectEvent]:
    """Decode a document as the body of message m."""
    return decode_object_events("m", json.dumps(document))


def test_s3_notification_of_two_objects_gives_both():
    """Each record of a notification is an object."""
    expected = [StoredObjectEvent("m", "dicom", key, 7) for key in ("a/b.dcm", "c.dcm")]
    assert expected == decode({"Records": [s3_record("a/b.dcm"), s3_record("c.dcm")]})


@pytest.mark.parametrize("encoded", ["x+y/1%2B2.dcm", "x%20y%2F1%2B2.dcm"])
def test_object_key_with_reserved_characters_is_decoded(encoded: str):
    """Keys of S3's notification are form-encoded, with the slash as it is or encoded."""
    assert ["x y/1+2.dcm"] == [event.key for event in decode({"Records": [s3_record(encoded)]})]


def test_eventbridge_event_keeps_the_key_as_it_is():
    """EventBridge does not encode keys."""
    detail = {"bucket": {"name": "dicom"}, "object": {"key": "a+b%20.dcm", "size": 7}}
    event = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    assert [StoredObjectEvent("m", "dicom", "a+b%20.dcm", 7)] == decode(event)


def test_sns_envelope_is_opened():
    """A topic between bucket and queue changes nothing."""
    inner = json.dumps({"Records": [s3_record("a.dcm")]})
    assert ["a.dcm"] == [event.key for event in decode({"Type": "Notification", "Message": inner})]


def test_bucket_test_event_is_ignored():
    """What S3 sends when a notification is set up is no object and no error."""
    assert [] == decode({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "dicom"})


@pytest.mark.parametrize(
    "document",
    [
        {"Records": [s3_record("a.dcm", "ObjectRemoved:Delete")]},
        {"source": "aws.s3", "detail-type": "Object Deleted", "detail": {}},
    ],
)
def test_event_of_another_kind_gives_nothing(document: object):
    """Removals are none of the index's business."""
    assert [] == decode(document)


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", "null", "7", '"x"', "{}", '{"Records": [{}]}', '{"Records": 7}', '{"Records": [7]}'),
        '{"source": "aws.s3"}',
        '{"source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": 1}}',
        *(
            json.dumps({"source": "aws.s3", "detail-type": "Object Created", "detail": {"object": {"key": key}}})
            for key in (5, "", None, ["a"], "\ud800")
        ),
        "[" * 100_000,
    ],
)
def test_message_that_is_no_event_is_permanent(body: str):
    """A message of another kind will never be an event."""
    with pytest.raises(PermanentError):
        decode_object_events("m", body)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 2**40))
def test_encoded_event_decodes_to_the_same_object(key: str, size: int):
    """What the local pipeline sends is what S3 would send."""
    assert [StoredObjectEvent("m", "b", key, size)] == decode_object_events("m", encode_object_event("b", key, size))
