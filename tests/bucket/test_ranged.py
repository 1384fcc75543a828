"""An object that is read by ranges reads as a file does."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from dicomflow.bucket.ranged import BLOCK_BYTES, RangedFile


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=1, max_size=3 * BLOCK_BYTES),
    st.lists(st.tuples(st.integers(0, 4 * BLOCK_BYTES), st.integers(-1, 2 * BLOCK_BYTES)), max_size=8),
)
def test_ranged_file_reads_as_a_file_does(content: bytes, reads: list[tuple[int, int]]):
    """Whatever is sought and read, the bytes are those of a file."""
    store = MemoryStore()
    store.put("x", content)
    ranged, plain = RangedFile.of_object(store, "x"), io.BytesIO(content)
    for at, size in reads:
        assert plain.seek(at) == ranged.seek(at)
        assert plain.read(size) == ranged.read(size)
        assert max(plain.tell(), 0) == ranged.tell()
