"""What a job leaves in the output bucket: the manifest and the success, failure and warning lists."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from obstore.store import ObjectStore

from dicomflow.healthimaging.simulator.documents import Warnings
from dicomflow.healthimaging.simulator.objects import Failure
from dicomflow.healthimaging.simulator.settings import SimulatorSettings

__all__ = ["MANIFEST_NAME", "Imported", "JobOutput", "write_output"]

MANIFEST_NAME: Final = "job-output-manifest.json"


@dataclass(frozen=True, slots=True)
class Imported:
    """A file that is in, and where."""

    key: str
    image_set_id: str
    version: int
    is_primary: bool
    warnings: Warnings


@dataclass(frozen=True, slots=True)
class JobOutput:
    """Everything a job has to say."""

    job_id: str
    datastore_id: str
    input_s3_uri: str
    output_s3_uri: str
    scanned: int
    imported: list[Imported]
    failures: list[Failure]


def write_output(
    store: ObjectStore, prefix: str, output: JobOutput, settings: SimulatorSettings, fault: str | None = None
) -> str | None:
    """Write the lists, then the manifest, under a key prefix that ends in a slash; `fault` is one of `OUTPUT_FAULTS`.

    Returns:
        The manifest where it is to come later, by the switch `late_manifest_seconds`.
    """
    warned = [item for item in output.imported if item.warnings]
    listed = [item for item in output.imported if settings.warned_in_success or not item.warnings]
    lists = {
        "SUCCESS/success.ndjson": map(_success, listed),
        "FAILURE/failure.ndjson": map(_failure, output.failures),
        "WARNING/warning.ndjson": map(_warning, warned),
    }
    for name, lines in lists.items():
        encoded = b"".join(_encode(line, fault) + b"\n" for line in lines)
        if fault == "cut_lists":
            encoded = encoded[: len(encoded) // 2]
        if fault != "no_lists" and (encoded or settings.empty_ndjson == "empty"):
            store.put(prefix + name, encoded)
    manifest = _encode({"jobSummary": _summary(output, settings)}, fault).decode()
    if fault == "no_manifest":
        return None
    if fault == "cut_manifest":
        manifest = manifest[: len(manifest) // 2]
    if settings.late_manifest_seconds:
        return manifest
    store.put(f"{prefix}{MANIFEST_NAME}", manifest.encode())
    return None


def _summary(output: JobOutput, settings: SimulatorSettings) -> dict[str, Any]:
    customer = sum(failure.is_customer for failure in output.failures)
    sets: dict[str, dict[str, Any]] = {}
    for item in output.imported:
        entry = sets.setdefault(item.image_set_id, {"imageSetId": item.image_set_id})
        if settings.manifest_extras:
            entry |= {"imageSetVersion": item.version, "isPrimary": item.is_primary}
        entry["numberOfMatchedSOPInstances"] = entry.get("numberOfMatchedSOPInstances", 0) + 1
    return {
        "jobId": output.job_id,
        "datastoreId": output.datastore_id,
        "inputS3Uri": output.input_s3_uri,
        "outputS3Uri": output.output_s3_uri,
        "successOutputS3Uri": f"{output.output_s3_uri}SUCCESS/",
        "failureOutputS3Uri": f"{output.output_s3_uri}FAILURE/",
        "warningsOutputS3Uri": f"{output.output_s3_uri}WARNING/",
        "numberOfScannedFiles": output.scanned,
        "numberOfImportedFiles": len(output.imported),
        "numberOfFilesWithCustomerError": customer,
        "numberOfFilesWithServerError": len(output.failures) - customer,
        "numberOfGeneratedImageSets": len(sets),
        "imageSetsSummary": list(sets.values()),
    }


def _success(item: Imported) -> Mapping[str, Any]:
    response = {"imageSetId": item.image_set_id, "isPrimary": item.is_primary}
    return {"inputFile": item.key, "importResponse": response}


def _failure(failure: Failure) -> Mapping[str, Any]:
    exception = {"exceptionType": failure.exception_type, "message": failure.message}
    return {"inputFile": failure.key, "exception": exception}


def _warning(item: Imported) -> Mapping[str, Any]:
    response = {
        "imageSetId": item.image_set_id,
        "imageSetVersion": item.version,
        "isPrimary": item.is_primary,
        "warnings": [
            {"warning_reason_code": code, "type": kind, "message": text} for code, kind, text in item.warnings
        ],
    }
    return {"inputFile": item.key, "importResponse": response}


def _encode(document: Mapping[str, Any], fault: str | None) -> bytes:
    """Encode a document; by the fault with members that nobody has heard of."""
    unknown = {"unheardOf": {"list": [1, None]}} if fault == "unknown_members" else {}
    return json.dumps({**document, **unknown}).encode()
