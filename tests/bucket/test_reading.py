"""Documents that somebody else wrote: no more is read, and no more believed, than their key allows."""

from datetime import UTC, datetime, timedelta

import pytest
from obstore.store import MemoryStore

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.bucket.reading import read_document, read_heartbeat
from dicomflow.errors import PermanentError


def put(at: datetime, edge: str = "mr", *, under: str = "mr") -> tuple[MemoryStore, str]:
    """Return a store with a heartbeat, and its key."""
    store, key = MemoryStore(), heartbeat_key(under)
    store.put(key, Heartbeat(edge, "1.0", at, "EDGE", 0, 0, 0, 1, 0.0).to_json())
    return store, key


def test_heartbeat_is_believed_for_its_own_edge_alone():
    """An edge that names another would end the alarm for that one, and hide where it can send."""
    at = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    assert ("mr", at) == ((found := read_heartbeat(*put(at))).edge, found.at)
    with pytest.raises(PermanentError, match="names another edge than its key"):
        read_heartbeat(*put(at, "ct", under="mr"))


def test_heartbeat_of_a_clock_that_is_ahead_grows_old_all_the_same():
    """Its time is the store's then: an edge with a clock years ahead would never be silent."""
    before = datetime.now(UTC)
    found = read_heartbeat(*put(before + timedelta(days=3650)))
    assert timedelta(0) <= found.at - before + timedelta(seconds=1) < timedelta(minutes=5)


def test_document_that_is_too_large_is_refused():
    """One edge's object takes no reader's memory, and so not the alarms of the others."""
    store, key = put(datetime(2026, 1, 31, 12, 0, tzinfo=UTC))
    store.put(key, bytes(bytearray(1 << 20)) + b" ")
    with pytest.raises(PermanentError, match=r"1,048,577 bytes, more than the 1,048,576 of a document"):
        read_heartbeat(store, key)
    with pytest.raises(PermanentError, match=r"more than the 1,000 of a document"):
        read_document(store, key, most_bytes=1000)
