"""The way back to the edge: what is written can be read, and nothing else."""

from datetime import UTC, datetime

import pytest

from dicomflow.bucket.feedback import FailedObject, Feedback
from dicomflow.errors import PermanentError

FEEDBACK = Feedback(
    "edge-1",
    "d1",
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    ("edge-1/d1/1.2/1.3/1.4.dcm",),
    (FailedObject("edge-1/d1/1.2/1.3/1.5.dcm", "simulated"),),
)


def test_feedback_read_back_is_the_same():
    """What was written is read."""
    assert FEEDBACK == Feedback.from_json(FEEDBACK.to_json())


def test_feedback_with_unknown_members_is_read():
    """A later version may say more."""
    encoded = FEEDBACK.to_json().replace(b"{", b'{"more":1,', 1)
    assert FEEDBACK == Feedback.from_json(encoded)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":1', b'"version":2'),
        (b'"edge":"edge-1"', b'"edge":1'),
        (b'"reason":"simulated"', b'"reason":null'),
        (b":05Z", b":05"),
        (b'"delivery":"d1",', b""),
    ],
)
def test_feedback_of_another_shape_is_refused(old: bytes, new: bytes):
    """Another version, another type and a missing member are not guessed at."""
    encoded = FEEDBACK.to_json()
    assert old in encoded
    with pytest.raises(PermanentError, match="not feedback of version 1"):
        Feedback.from_json(encoded.replace(old, new))


def test_text_that_utf8_cannot_hold_is_no_feedback():
    r"""JSON can spell half of a pair of surrogates (\ud800), which no database and no file takes."""
    encoded = FEEDBACK.to_json().replace(b'"reason":"', b'"reason":"\\ud800')
    with pytest.raises(PermanentError, match="not feedback"):
        Feedback.from_json(encoded)
