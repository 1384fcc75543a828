"""Limits of the service that are known beforehand.

HealthImaging Developer Guide, "Endpoints and quotas", "DICOM element constraints", "Supported transfer syntaxes".
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_FILE_BYTES", "MAX_LENGTHS", "TRANSFER_SYNTAXES"]

MAX_FILES: Final = 5_000
"""Files of a job; more fail it."""
MAX_BYTES: Final = 10 * 10**9
"""Bytes of a job; more fail it."""
MAX_FILE_BYTES: Final = 10 * 10**9
"""Bytes of one file."""

# Characters of an element. A longer value is imported with a warning, and may not be found by a search.
MAX_LENGTHS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "PatientName": 256,
        "PatientID": 256,
        "PatientSex": 16,
        "StudyInstanceUID": 256,
        "StudyID": 256,
        "StudyDescription": 256,
        "AccessionNumber": 256,
        "SeriesInstanceUID": 256,
        "SOPInstanceUID": 256,
    }
)

_STORED: Final = (
    "1.2.1 1.2.4.50 1.2.4.91 1.2.4.112 1.2.4.203 1.2.4.100 1.2.4.100.1 1.2.4.101 1.2.4.101.1 1.2.4.102 1.2.4.102.1"
    " 1.2.4.103 1.2.4.103.1 1.2.4.104 1.2.4.104.1 1.2.4.105 1.2.4.105.1 1.2.4.106 1.2.4.106.1 1.2.4.107 1.2.4.108"
)
_TRANSCODED: Final = (
    "1.2 1.2.1 1.2.1.99 1.2.2 1.2.4.51 1.2.4.57 1.2.4.70 1.2.4.80 1.2.4.81 1.2.4.90 1.2.4.92 1.2.4.93 1.2.4.201"
    " 1.2.4.202 1.2.5"
)
TRANSFER_SYNTAXES: Final = frozenset(f"1.2.840.10008.{suffix}" for suffix in f"{_STORED} {_TRANSCODED}".split())
"""Others are imported with a warning, and their pixel data is one blob in its stored syntax."""
