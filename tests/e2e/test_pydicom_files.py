"""pydicom's bundled test files: whatever is a storage object goes through, and the rest has a reason."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage

FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),  # many of these files are wrong on purpose
]


def _read(path: Path) -> Dataset | None:
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=[*IDENTITY])
    except InvalidDicomError:
        return None


def _is_storage_object(dataset: Dataset) -> bool:
    """Return whether a file can be stored by C-STORE at all: it is typed, identified and in a known syntax."""
    meta = dataset.file_meta
    return (
        all(dataset.get(keyword) for keyword in IDENTITY)
        and meta.get("TransferSyntaxUID") is not None
        and meta.get("MediaStorageSOPClassUID") not in (None, MediaStorageDirectoryStorage)
    )


def test_bundled_files_are_mapped_or_have_a_reason(local_daemon: Any):
    """Every storage object is mapped; every other file is refused with a reason or is no Part 10 file."""
    files = {path: _read(path) for path in sorted(FOLDER.rglob("*")) if path.is_file()}
    storage = {path for path, dataset in files.items() if dataset is not None and _is_storage_object(dataset)}
    command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", str(local_daemon.port), str(FOLDER), "--json"]
    sent = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    result = json.loads(sent.stdout)
    failed = {Path(each["path"]): each["reason"] for each in result["failed"]}

    assert {} == {path.name: reason for path, reason in failed.items() if path in storage}
    assert len(files) == result["stored"] + result["skipped"] + len(failed)
    assert result["stored"] >= len(storage) > 100
    assert [] == [path.name for path, reason in failed.items() if not reason.strip()]
    assert 1 == sent.returncode

    uids = {str(files[path].SOPInstanceUID) for path in storage}
    local_daemon.wait_until_mapped(uids, 200)
    assert {1} == set(local_daemon.mapped().values())
    assert [] == local_daemon.query("SELECT object_key FROM stored_object WHERE indexed_at IS NULL AND problem IS NULL")
    assert [] == local_daemon.query("SELECT object_key FROM import_outcome WHERE outcome = 'failed' AND reason IS NULL")
