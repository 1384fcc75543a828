"""What the service would make of a series, told from the catalog before it costs a job."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from dicomflow.catalog.forecast import facts_of_series
from dicomflow.healthimaging.limits import MAX_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_LENGTHS, TRANSFER_SYNTAXES

__all__ = ["Forecast", "forecast_series"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Reasons for which the service would fail a series or some of its files, and others for which it would warn."""

    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def forecast_series(connection: Connection, row: Row[Any]) -> Forecast:
    """Return what the service would say to one row of `series_import`; what is not indexed yet is not foreseen."""
    facts = facts_of_series(connection, row)
    failures, warnings = [], []
    if row.object_count > MAX_FILES:
        failures.append(f"{row.object_count} files exceed a job's limit of {MAX_FILES}")
    if row.bytes > MAX_BYTES:
        failures.append(f"{row.bytes} bytes exceed a job's limit of {MAX_BYTES}")
    if facts.largest_bytes > MAX_FILE_BYTES:
        failures.append(f"a file of {facts.largest_bytes} bytes exceeds the limit of {MAX_FILE_BYTES}")
    if facts.unreadable:
        failures.append(f"{facts.unreadable} of {row.object_count} objects cannot be read as DICOM")
    for keyword, limit in MAX_LENGTHS.items():
        length = facts.lengths.get(keyword, 0)
        if length > limit:
            warnings.append(f"{keyword} has {length} characters, more than {limit}: a search may not find it")
    warnings += [
        f"transfer syntax {uid} is kept as it is: frames cannot be retrieved"
        for uid in sorted(facts.transfer_syntaxes - TRANSFER_SYNTAXES)
    ]
    return Forecast(tuple(failures), tuple(warnings))
