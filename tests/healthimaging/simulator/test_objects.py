"""Files that the simulator reads, as far as a job's output tells of them."""

import pytest
from data_sets import element, identifying, item, sequence
from obstore.store import MemoryStore

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.healthimaging.simulator.objects import Failure, InputFile, read_header


def _nested(depth: int) -> bytes:
    return sequence(0x00081140, item(_nested(depth - 1))) if depth else b""


@pytest.mark.parametrize(
    ("data_set", "reason"),
    [
        (identifying(after=_nested(800)), "sequences are nested too deeply"),
        (identifying(after=element(0x00200020, "ZZ", b"x ")), "a value representation that is none"),
    ],
)
def test_file_that_cannot_be_read_fails_with_its_reason(data_set: bytes, reason: str) -> None:
    """What is wrong with a file is said in words, not by the name of an error of Python's."""
    meta = encode_file_meta("1.2.840.10008.5.1.4.1.1.2", "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, "A", "B")
    store, content = MemoryStore(), meta + data_set
    store.put("in/a.dcm", content)
    found = read_header(store, InputFile("in/a.dcm", len(content)))
    assert isinstance(found, Failure)
    assert reason in found.message
