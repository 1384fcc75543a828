"""Results of jobs as they are and as they might be: whole, cut off, missing, with keys nobody knows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from dicomflow.errors import PermanentError, TransientError
from dicomflow.healthimaging.results import ImageSetResult, read_results, results_prefix

FOLDER = "imports/ds-DicomImport-job/"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/imports",
        "s3://b/imports/",
        "s3://b/imports/ds-DicomImport-job",
        "s3://b/imports/ds-DicomImport-job/",
    ],
)
def test_output_uri_is_found_with_and_without_its_suffix(uri: str) -> None:
    """The job's own folder is appended unless it is there."""
    assert FOLDER == results_prefix(uri, "b", "ds", "job")


def test_output_uri_at_the_buckets_root_is_the_folder_alone() -> None:
    """A job may write to the root of a bucket, and never into another bucket than ours."""
    assert "ds-DicomImport-job/" == results_prefix("s3://b/", "b", "ds", "job")
    with pytest.raises(PermanentError, match="not in bucket"):
        results_prefix("s3://other/imports/", "b", "ds", "job")


def test_results_without_any_file_are_empty() -> None:
    """Nothing written yet: no manifest, no files, no error."""
    results = read_results(MemoryStore(), FOLDER)
    assert (None, []) == (results.manifest, list(results.files()))


def test_result_parser_accepts_unknown_and_missing_keys() -> None:
    """Unknown members are ignored, missing ones are None, Python's True is true, and bad lines are counted."""
    store = MemoryStore()
    summary = {"numberOfScannedFiles": 4, "new": {}, "imageSetsSummary": [{"imageSetId": "i", "imageSetVersion": "7"}]}
    store.put(f"{FOLDER}job-output-manifest.json", json.dumps({"jobSummary": summary, "more": 1}).encode())
    lines = [
        b'{"inputFile":"a","importResponse":{"imageSetId":"i","isPrimary":True}}',
        b"",
        b'{"inputFile":"b","importResponse":null,"new":1}',
        b'{"importResponse":{}}',
        b"[]",
        b'{"inputFile":"cut off',
    ]
    store.put(f"{FOLDER}SUCCESS/success.ndjson", b"\r\n".join(lines))
    store.put(f"{FOLDER}FAILURE/failure.ndjson", b'{"inputFile":"c"}\n')
    store.put(f"{FOLDER}WARNING/warning.ndjson", b'{"inputFile":"d","importResponse":{"warnings":[{}, 1]}}\n')
    results = read_results(store, FOLDER)
    files = {item.object_key: item for item in results.files()}
    assert results.manifest is not None
    assert (4, None, (ImageSetResult("i", 7, None),)) == (
        results.manifest.counters.scanned,
        results.manifest.counters.imported,
        results.manifest.image_sets,
    )
    assert {"a": "imported", "b": "imported", "c": "failed", "d": "warned"} == {
        key: item.outcome for key, item in files.items()
    }
    assert ImageSetResult("i", None, True) == files["a"].image_set
    assert 3 == results.lines_unread


def test_manifest_cut_off_is_read_again_later() -> None:
    """A manifest that is no JSON may be half written."""
    store = MemoryStore()
    store.put(f"{FOLDER}job-output-manifest.json", b'{"jobSummary":{')
    with pytest.raises(TransientError):
        read_results(store, FOLDER)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "inputFile",
                    "importResponse",
                    "imageSetId",
                    "warnings",
                    "exception",
                    "jobSummary",
                    "imageSetsSummary",
                    "warning_reason_code",
                    "isPrimary",
                    "imageSetVersion",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(manifest=JSON, lines=st.lists(JSON | st.text()))
def test_any_json_is_a_result_or_is_counted(manifest: object, lines: list[object]) -> None:
    """Whatever JSON a job leaves, reading it raises nothing but the documented error."""
    store = MemoryStore()
    store.put(f"{FOLDER}job-output-manifest.json", json.dumps(manifest).encode())
    encoded = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    for name in ("SUCCESS/success", "FAILURE/failure", "WARNING/warning"):
        store.put(f"{FOLDER}{name}.ndjson", "\n".join(encoded).encode("utf-8", "surrogatepass"))
    assert all(item.object_key is not None for item in read_results(store, FOLDER).files())
