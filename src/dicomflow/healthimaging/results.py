"""The result of an import job: found in the output bucket and read line by line, tolerant of what is missing.

Output layout: HealthImaging Developer Guide, "Understanding import jobs". Unknown members are ignored, absent ones
are None, absent files are empty, and a line that cannot be read is counted. What is returned can be stored: text has
no NUL and no lone surrogate, numbers fit in 64 bits, and a line is read up to a length.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.bucket.reading import read_document
from dicomflow.catalog.states import InstanceState
from dicomflow.errors import PermanentError, TransientError

__all__ = [
    "ID_LENGTH",
    "MANIFEST_NAME",
    "REASON_LENGTH",
    "UNSTORABLE",
    "AllResults",
    "Counters",
    "FileResult",
    "ImageSetResult",
    "JobResults",
    "Manifest",
    "UnreadableManifestError",
    "clean_text",
    "job_of_prefix",
    "read_all_results",
    "read_results",
    "results_prefix",
]

MANIFEST_NAME: Final = "job-output-manifest.json"
MAX_LINE_BYTES: Final = 1 << 20
"""A longer line is no result: those of the service have some hundred bytes."""
REASON_LENGTH: Final = 2000
ID_LENGTH: Final = 256
MAX_KEY_BYTES: Final = 1024
_JOB_FOLDER: Final = "-DicomImport-"
_LARGEST: Final = 2**63 - 1
UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
# 45328 to 45330 and 47513: frames cannot be retrieved; 45312 and 45344: one blob in its stored syntax.
UNREADABLE_FRAMES: Final = frozenset({45312, 45328, 45329, 45330, 45344, 47513})


class Counters(NamedTuple):
    """How many files a job has scanned and imported, and how many failed by whose error."""

    scanned: int | None = None
    imported: int | None = None
    customer_errors: int | None = None
    server_errors: int | None = None


_NOT_COUNTED: Final = Counters()


class UnreadableManifestError(TransientError):
    """What lies in the place of a job's manifest is none; it may be written whole a moment later."""


@dataclass(frozen=True, slots=True)
class ImageSetResult:
    """An image set that a job made or changed."""

    image_set_id: str
    version: int | None
    is_primary: bool | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The counters and image sets of a job; None is what the manifest does not say."""

    counters: Counters = _NOT_COUNTED
    image_sets: tuple[ImageSetResult, ...] = ()
    input_s3_uri: str | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one input file."""

    object_key: str
    outcome: InstanceState
    image_set: ImageSetResult | None = None
    reason: str | None = None


# From the input file's key, the line's document and its importResponse.
Parse = Callable[[str, Mapping[str, Any], Mapping[str, Any]], FileResult]


@dataclass(slots=True)
class JobResults:
    """Where a job's results are, and its manifest. `lines_unread` counts lines that are no results of its files.

    Reading them raises TransientError when the store does not answer.
    """

    store: ObjectStore
    prefix: str
    manifest: Manifest | None
    lines_unread: int = field(default=0)

    def files(self) -> Iterator[FileResult]:
        """Yield every file's result, warnings first; a warned file may come again as imported."""
        yield from self._parsed("WARNING/warning.ndjson", _warned)
        yield from self._parsed("FAILURE/failure.ndjson", _failed)
        yield from self._parsed("SUCCESS/success.ndjson", _imported)

    def by_key(self, input_prefix: str) -> dict[str, FileResult]:
        """Return one result per file under the job's input: a warning says more than the success it comes with."""
        files: dict[str, FileResult] = {}
        for result in self.files():
            if not result.object_key.startswith(input_prefix):  # another job's, or garbled
                self.lines_unread += 1
                continue
            known = files.setdefault(result.object_key, result)
            if known.image_set is None and result.image_set is not None:
                files[result.object_key] = FileResult(known.object_key, known.outcome, result.image_set, known.reason)
        return files

    def _parsed(self, name: str, parse: Parse) -> Iterator[FileResult]:
        for line in _lines(self.store, self.prefix + name):
            if line is not None and not line.strip():
                continue
            result = None if line is None else _parse_line(line, parse)
            if result is None:
                self.lines_unread += 1
            else:
                yield result


@dataclass(frozen=True, slots=True)
class AllResults:
    """A job's results by input file; `missing` is what complete ones would have and these lack."""

    manifest: Manifest
    files: dict[str, FileResult]
    missing: str | None


def results_prefix(output_s3_uri: str, bucket: str, datastore_id: str, job_id: str) -> str:
    """Return the key prefix of a job's results, from its output URI with or without the job's own folder.

    Raises:
        PermanentError: the URI names another bucket.
    """
    start = f"s3://{bucket}/"
    if not output_s3_uri.startswith(start):
        raise PermanentError(f"the job's output {clean_text(output_s3_uri, ID_LENGTH)!r} is not in bucket {bucket}")
    prefix = output_s3_uri.removeprefix(start).strip("/")
    folder = f"{datastore_id}{_JOB_FOLDER}{job_id}"
    if prefix.rpartition("/")[2] == folder:
        return f"{prefix}/"
    return f"{prefix}/{folder}/" if prefix else f"{folder}/"


def job_of_prefix(prefix: str) -> tuple[str, str] | None:
    """Return data store and id of the job whose results lie under a prefix; None when it is no job's folder."""
    datastore_id, separator, job_id = prefix.rstrip("/").rpartition("/")[2].partition(_JOB_FOLDER)
    return (datastore_id, job_id) if separator else None


def read_results(store: ObjectStore, prefix: str) -> JobResults:
    """Read a job's manifest; without one `manifest` is None, and its files are read all the same.

    Raises:
        UnreadableManifestError: the manifest is cut off or no JSON, or another job's.
        TransientError: the store did not answer.
        PermanentError: the prefix is no path that a store can hold.
    """
    try:
        encoded, _ = read_document(store, prefix + MANIFEST_NAME)
    except FileNotFoundError:
        return JobResults(store, prefix, None)
    except PermanentError as error:
        raise UnreadableManifestError(str(error)) from error
    except (BaseError, OSError, ValueError) as error:
        raise _store_error(error) from error
    try:
        document = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise UnreadableManifestError(f"the job manifest of {len(encoded)} bytes is no JSON") from error
    summary = document.get("jobSummary") if isinstance(document, dict) else None
    summary = summary if isinstance(summary, dict) else {}
    job_id = summary.get("jobId")
    if isinstance(job_id, str) and job_id and not prefix.endswith(f"-{job_id}/"):
        raise UnreadableManifestError("the job manifest is another job's")
    return JobResults(store, prefix, _manifest(summary))


def read_all_results(store: ObjectStore, prefix: str, input_prefix: str) -> AllResults:
    """Read the results of all files under a job's input, with or without its manifest.

    Raises:
        TransientError: the store did not answer.
        PermanentError: the prefix is no path that a store can hold.
    """
    try:
        results, missing = read_results(store, prefix), None
    except UnreadableManifestError as error:
        results, missing = JobResults(store, prefix, None), str(error)
    files = results.by_key(input_prefix)
    return AllResults(results.manifest or Manifest(), files, missing or _missing(results, files))


def _missing(results: JobResults, files: Mapping[str, FileResult]) -> str | None:
    if results.manifest is None:
        return "the job's manifest is not there"
    scanned = results.manifest.counters.scanned
    if scanned is not None and len(files) < scanned:
        unread = f", and {results.lines_unread} lines of the output are none" if results.lines_unread else ""
        return f"{len(files)} of {scanned} files have a result{unread}"
    return None


def _manifest(summary: Mapping[str, Any]) -> Manifest:
    listed = summary.get("imageSetsSummary")
    input_s3_uri = summary.get("inputS3Uri")
    return Manifest(
        counters=Counters(
            _integer(summary.get("numberOfScannedFiles")),
            _integer(summary.get("numberOfImportedFiles")),
            _integer(summary.get("numberOfFilesWithCustomerError")),
            _integer(summary.get("numberOfFilesWithServerError")),
        ),
        image_sets=tuple(found for item in (listed if isinstance(listed, list) else ()) if (found := _image_set(item))),
        input_s3_uri=input_s3_uri if _is_storable(input_s3_uri) else None,
    )


def _lines(store: ObjectStore, key: str) -> Iterator[bytes | None]:
    """Yield the lines of an object as they arrive, None for one that is too long; an absent object has none."""
    rest, is_too_long = b"", False
    try:
        for chunk in store.get(key).stream():
            *whole, rest = (rest + bytes(chunk)).split(b"\n")
            for line in whole:
                yield None if is_too_long else line
                is_too_long = False
            if len(rest) > MAX_LINE_BYTES:
                rest, is_too_long = b"", True
    except FileNotFoundError:
        return
    except (BaseError, OSError, ValueError) as error:
        raise _store_error(error) from error
    yield None if is_too_long else rest


def _store_error(error: Exception) -> TransientError | PermanentError:
    if isinstance(error, ValueError):
        return PermanentError("the job's output lies at no path that the store can hold")
    return TransientError(f"the store did not give the job's results: {type(error).__name__}")


def _parse_line(line: bytes, parse: Parse) -> FileResult | None:
    """Return the result of a line, or None when it is none. AWS's own example prints Python's True and False."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        try:
            document = json.loads(re.sub(rb":\s*(True|False)\b", lambda found: found[0].lower(), line))
        except (ValueError, RecursionError):
            return None
    if not isinstance(document, dict) or not _is_key(document.get("inputFile")):
        return None
    response = document.get("importResponse")
    return parse(document["inputFile"], document, response if isinstance(response, dict) else {})


def _imported(key: str, _document: Mapping[str, Any], response: Mapping[str, Any]) -> FileResult:
    return FileResult(key, InstanceState.IMPORTED, _image_set(response))


def _warned(key: str, _document: Mapping[str, Any], response: Mapping[str, Any]) -> FileResult:
    warnings = response.get("warnings")
    found = [item for item in (warnings if isinstance(warnings, list) else ()) if isinstance(item, dict)]
    reason = "; ".join(_warning_text(item) for item in found) or "warning without a reason"
    return FileResult(key, InstanceState.WARNED, _image_set(response), clean_text(reason, REASON_LENGTH))


def _warning_text(item: Mapping[str, Any]) -> str:
    code = item.get("warning_reason_code")
    text = f"{code} {item.get('type', '')}: {item.get('message', '')}"
    return f"{text} (frames cannot be retrieved)" if isinstance(code, int) and code in UNREADABLE_FRAMES else text


def _failed(key: str, document: Mapping[str, Any], _response: Mapping[str, Any]) -> FileResult:
    exception = document.get("exception")
    if not isinstance(exception, dict):
        return FileResult(key, InstanceState.FAILED, None, "failure without a reason")
    reason = f"{exception.get('exceptionType')}: {exception.get('message')}"
    return FileResult(key, InstanceState.FAILED, None, clean_text(reason, REASON_LENGTH))


def _image_set(item: object) -> ImageSetResult | None:
    if not isinstance(item, dict) or not _is_storable(item.get("imageSetId")) or len(item["imageSetId"]) > ID_LENGTH:
        return None
    is_primary = item.get("isPrimary")
    return ImageSetResult(
        item["imageSetId"],
        _integer(item.get("imageSetVersion")),
        is_primary if isinstance(is_primary, bool) else None,
    )


def clean_text(text: str, length: int) -> str:
    """Return text as both databases hold it, cut to a length."""
    return UNSTORABLE.sub("\ufffd", text[:length])


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _is_storable(value) and len(value.encode()) <= MAX_KEY_BYTES


def _is_storable(value: object) -> bool:
    return isinstance(value, str) and bool(value) and UNSTORABLE.search(value) is None


def _integer(value: object) -> int | None:
    """Return a number that may come as text: versions are both in the service's interfaces."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(_LARGEST)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _LARGEST else None
