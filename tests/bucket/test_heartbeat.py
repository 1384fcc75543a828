"""The heartbeat's format."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dicomflow.bucket.compared import ComparedSource
from dicomflow.bucket.heartbeat import Heartbeat, SeenPeer
from dicomflow.errors import PermanentError

HEARTBEAT = Heartbeat(
    edge="site-1",
    version="1.0",
    at=datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
    ae_title="EDGE",
    received=1,
    delivering=2,
    quarantined=3,
    free_bytes=4,
    oldest_seconds=5.5,
    peers=(SeenPeer("CT1", "10.0.0.1", 7, datetime(2026, 1, 31, 11, 0, tzinfo=UTC)),),
    is_full=True,
    set_aside=6,
    sources=(ComparedSource("PACS1", datetime(2026, 1, 31, 2, 0, tzinfo=UTC), 40, 2, is_whole=False, reason="cut"),),
)


def test_heartbeat_encoded_and_decoded_is_the_same():
    """What an edge writes is what a reader gets, also with members that it does not know."""
    assert HEARTBEAT == Heartbeat.from_json(HEARTBEAT.to_json())
    assert HEARTBEAT == Heartbeat.from_json(HEARTBEAT.to_json()[:-1] + b',"new":1}')


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"[]",
        b"{}",
        HEARTBEAT.to_json().replace(b'"format":1', b'"format":2'),
        HEARTBEAT.to_json().replace(b':00Z"', b':00"'),
        HEARTBEAT.to_json().replace(b'"received":1', b'"received":null'),
        HEARTBEAT.to_json().replace(b'"CT1"', b"1"),
    ],
)
def test_from_json_of_something_else_is_a_permanent_error(encoded: bytes):
    """Whatever lies under the key, a reader gets a heartbeat or a `PermanentError`."""
    with pytest.raises(PermanentError):
        Heartbeat.from_json(encoded)


def test_heartbeat_of_an_earlier_version_is_read():
    """It does not tell whether the edge is full, or what it has set aside."""
    encoded = HEARTBEAT.to_json().replace(b'"is_full":true,', b"").replace(b'"set_aside":6,', b"")
    assert replace(HEARTBEAT, is_full=False, set_aside=0) == Heartbeat.from_json(encoded)
