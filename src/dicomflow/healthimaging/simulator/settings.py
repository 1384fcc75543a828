"""What a simulator can be told: its limits, its clock's delays, and a switch for each behaviour AWS leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["SERVICE_CONCURRENT_JOBS", "SERVICE_RATES", "Rate", "SimulatorSettings"]

GIGABYTE: Final = 10**9


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `per_second` tokens flow in, at most `burst` wait."""

    per_second: float
    burst: int


# The default throttles of an account, HealthImaging Developer Guide, "Throttling limits".
SERVICE_RATES: Final[Mapping[str, Rate]] = MappingProxyType(
    {
        "StartDICOMImportJob": Rate(1, 2),
        "GetDICOMImportJob": Rate(25, 50),
        "ListDICOMImportJobs": Rate(10, 20),
        "SearchImageSets": Rate(25, 50),
        "GetImageSet": Rate(25, 50),
        "GetImageSetMetadata": Rate(50, 100),
        "GetImageFrame": Rate(1000, 2000),
        "GetDICOMInstance": Rate(50, 100),
        "GetDICOMInstanceMetadata": Rate(50, 100),
        "GetDICOMInstanceFrames": Rate(50, 100),
        "GetDICOMSeriesMetadata": Rate(50, 100),
        "ListImageSetVersions": Rate(25, 50),
        "UpdateImageSetMetadata": Rate(0.25, 1),
        "CopyImageSet": Rate(0.25, 1),
        "DeleteImageSet": Rate(0.25, 1),
        "CreateDatastore": Rate(0.085, 1),
        "DeleteDatastore": Rate(0.085, 1),
        "GetDatastore": Rate(10, 20),
        "ListDatastores": Rate(5, 10),
        "TagResource": Rate(10, 20),
        "UntagResource": Rate(10, 20),
        "ListTagsForResource": Rate(10, 20),
    }
)
SERVICE_CONCURRENT_JOBS: Final = 100


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """Everything a simulator can be told; the defaults are the service's, but without throttles and with short delays.

    Delays are seconds of the simulator's clock. A `Literal` is a behaviour that AWS does not document: code that
    uses the service must survive each value.
    """

    state_path: Path
    region: str = "us-east-1"
    account: str = "123456789012"
    require_auth: bool = False
    rates: Mapping[str, Rate] = field(default_factory=dict)
    concurrent_jobs: int | None = None
    max_files: int = 5_000
    max_bytes: int = 10 * GIGABYTE
    max_file_bytes: int = 10 * GIGABYTE
    datastore_seconds: float = 0.0
    submit_seconds: float = 1.0
    run_seconds: float = 1.0
    run_seconds_per_file: float = 0.0
    update_seconds: float = 0.0
    token_seconds: float | None = None
    token_mismatch: Literal["ConflictException", "ValidationException"] = "ConflictException"  # noqa: S105  # an error
    concurrency_error: Literal["ServiceQuotaExceededException", "ThrottlingException"] = "ServiceQuotaExceededException"
    list_order: Literal["newest", "shuffled"] = "newest"
    prefix_semantics: Literal["string", "folder"] = "string"
    bad_bucket: Literal["async", "sync"] = "async"
    all_failed: Literal["COMPLETED", "FAILED"] = "COMPLETED"
    failed_manifest: bool = False
    manifest_extras: bool = True
    empty_ndjson: Literal["absent", "empty"] = "absent"
    warned_in_success: bool = True
    version_step: Literal["job", "instance"] = "job"
    empty_conflicts: bool = False
    split_series: bool = False
    event_output_uri: Literal["suffixed", "plain"] = "suffixed"
    event_delivery: Literal["once", "duplicate", "reorder", "drop"] = "once"
    event_delay_seconds: float = 0.0
    late_manifest_seconds: float = 0.0
    search_max_records: int | None = None
    bump_event: Literal["Image Set Created", "Image Set Updated"] = "Image Set Updated"
