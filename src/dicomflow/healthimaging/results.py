"""The result of an import job: found in the output bucket and read line by line, tolerant of what is missing.

Output layout: HealthImaging Developer Guide, "Understanding import jobs". Unknown members are ignored, absent ones
are None, absent files are empty, and a line that cannot be read is counted.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from obstore.store import ObjectStore

from dicomflow.errors import TransientError

__all__ = [
    "MANIFEST_NAME",
    "FileResult",
    "ImageSetResult",
    "JobResults",
    "Manifest",
    "read_results",
    "results_prefix",
]

MANIFEST_NAME: Final = "job-output-manifest.json"
# 45328 to 45330 and 47513: frames cannot be retrieved; 45312 and 45344: one blob in its stored syntax.
UNREADABLE_FRAMES: Final = frozenset({45312, 45328, 45329, 45330, 45344, 47513})


@dataclass(frozen=True, slots=True)
class ImageSetResult:
    """An image set that a job made or changed."""

    image_set_id: str
    version: int | None
    is_primary: bool | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The counters and image sets of a job; None is what the manifest does not say."""

    scanned: int | None = None
    imported: int | None = None
    customer_errors: int | None = None
    server_errors: int | None = None
    image_sets: tuple[ImageSetResult, ...] = ()
    input_s3_uri: str | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one input file; `outcome` is imported, warned or failed."""

    object_key: str
    outcome: str
    image_set: ImageSetResult | None = None
    reason: str | None = None


# From the input file's key, the line's document and its importResponse.
Parse = Callable[[str, Mapping[str, Any], Mapping[str, Any]], FileResult]


@dataclass(slots=True)
class JobResults:
    """Where a job's results are, and its manifest. `lines_unread` counts lines that are no results."""

    store: ObjectStore
    prefix: str
    manifest: Manifest | None
    lines_unread: int = field(default=0)

    def files(self) -> Iterator[FileResult]:
        """Yield every file's result, warnings first; a warned file may come again as imported."""
        yield from self._parsed("WARNING/warning.ndjson", _warned)
        yield from self._parsed("FAILURE/failure.ndjson", _failed)
        yield from self._parsed("SUCCESS/success.ndjson", _imported)

    def by_key(self) -> dict[str, FileResult]:
        """Return one result per file: a warning says more than the success it comes with."""
        files: dict[str, FileResult] = {}
        for result in self.files():
            known = files.setdefault(result.object_key, result)
            if known.image_set is None and result.image_set is not None:
                files[result.object_key] = FileResult(known.object_key, known.outcome, result.image_set, known.reason)
        return files

    def _parsed(self, name: str, parse: Parse) -> Iterator[FileResult]:
        for line in _lines(self.store, self.prefix + name):
            if not line.strip():
                continue
            result = _parse_line(line, parse)
            if result is None:
                self.lines_unread += 1
            else:
                yield result


def results_prefix(output_s3_uri: str, bucket: str, datastore_id: str, job_id: str) -> str:
    """Return the key prefix of a job's results, from its output URI with or without the job's own folder.

    Raises:
        ValueError: the URI names another bucket.
    """
    start = f"s3://{bucket}/"
    if not output_s3_uri.startswith(start):
        raise ValueError(f"{output_s3_uri} is not in bucket {bucket}")
    prefix = output_s3_uri.removeprefix(start).strip("/")
    folder = f"{datastore_id}-DicomImport-{job_id}"
    if prefix.rpartition("/")[2] == folder:
        return f"{prefix}/"
    return f"{prefix}/{folder}/" if prefix else f"{folder}/"


def read_results(store: ObjectStore, prefix: str) -> JobResults:
    """Read a job's manifest; without one `manifest` is None, and its files are read all the same.

    Raises:
        TransientError: the manifest is cut off or no JSON (it may be written a moment later).
    """
    try:
        encoded = bytes(store.get(prefix + MANIFEST_NAME).bytes())
    except FileNotFoundError:
        return JobResults(store, prefix, None)
    try:
        document = json.loads(encoded)
    except ValueError as error:
        raise TransientError(f"the job manifest of {len(encoded)} bytes is no JSON") from error
    summary = document.get("jobSummary") if isinstance(document, dict) else None
    return JobResults(store, prefix, _manifest(summary if isinstance(summary, dict) else {}))


def _manifest(summary: Mapping[str, Any]) -> Manifest:
    listed = summary.get("imageSetsSummary")
    input_s3_uri = summary.get("inputS3Uri")
    return Manifest(
        scanned=_integer(summary.get("numberOfScannedFiles")),
        imported=_integer(summary.get("numberOfImportedFiles")),
        customer_errors=_integer(summary.get("numberOfFilesWithCustomerError")),
        server_errors=_integer(summary.get("numberOfFilesWithServerError")),
        image_sets=tuple(found for item in (listed if isinstance(listed, list) else ()) if (found := _image_set(item))),
        input_s3_uri=input_s3_uri if isinstance(input_s3_uri, str) else None,
    )


def _lines(store: ObjectStore, key: str) -> Iterator[bytes]:
    """Yield the lines of an object as they arrive; an absent object has none."""
    try:
        stream = store.get(key).stream()
    except FileNotFoundError:
        return
    rest = b""
    for chunk in stream:
        *whole, rest = (rest + bytes(chunk)).split(b"\n")
        yield from whole
    yield rest


def _parse_line(line: bytes, parse: Parse) -> FileResult | None:
    """Return the result of a line, or None when it is none. AWS's own example prints Python's True and False."""
    try:
        document = json.loads(line)
    except ValueError:
        try:
            document = json.loads(re.sub(rb":\s*(True|False)\b", lambda found: found[0].lower(), line))
        except ValueError:
            return None
    if not isinstance(document, dict) or not isinstance(document.get("inputFile"), str):
        return None
    response = document.get("importResponse")
    return parse(document["inputFile"], document, response if isinstance(response, dict) else {})


def _imported(key: str, _document: Mapping[str, Any], response: Mapping[str, Any]) -> FileResult:
    return FileResult(key, "imported", _image_set(response))


def _warned(key: str, _document: Mapping[str, Any], response: Mapping[str, Any]) -> FileResult:
    warnings = response.get("warnings")
    found = [item for item in (warnings if isinstance(warnings, list) else ()) if isinstance(item, dict)]
    reason = "; ".join(_warning_text(item) for item in found) or "warning without a reason"
    return FileResult(key, "warned", _image_set(response), reason)


def _warning_text(item: Mapping[str, Any]) -> str:
    code = item.get("warning_reason_code")
    text = f"{code} {item.get('type', '')}: {item.get('message', '')}"
    return f"{text} (frames cannot be retrieved)" if code in UNREADABLE_FRAMES else text


def _failed(key: str, document: Mapping[str, Any], _response: Mapping[str, Any]) -> FileResult:
    exception = document.get("exception")
    if not isinstance(exception, dict):
        return FileResult(key, "failed", None, "failure without a reason")
    return FileResult(key, "failed", None, f"{exception.get('exceptionType')}: {exception.get('message')}")


def _image_set(item: object) -> ImageSetResult | None:
    if not isinstance(item, dict) or not isinstance(item.get("imageSetId"), str):
        return None
    is_primary = item.get("isPrimary")
    return ImageSetResult(
        item["imageSetId"],
        _integer(item.get("imageSetVersion")),
        is_primary if isinstance(is_primary, bool) else None,
    )


def _integer(value: object) -> int | None:
    """Return a number that may come as text: versions are both in the service's interfaces."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() else None
