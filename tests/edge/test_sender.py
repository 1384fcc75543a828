"""What the store SCU reads from a file before it sends it."""

from pathlib import Path

import pytest
from pydicom import dcmread

from dicomflow import samples
from dicomflow.edge.sender import read_stored_file
from dicomflow.errors import PeerError


def _file(folder: Path, **meta: str) -> Path:
    """Write one image whose file meta information has these elements instead of its own."""
    (path, *_) = samples.write(samples.ct_study(1, slices=1), folder)
    dataset = dcmread(path)
    for keyword, value in meta.items():
        setattr(dataset.file_meta, keyword, value)
    dataset.save_as(path, enforce_file_format=False)
    return path


def test_read_stored_file_meta_that_differs_takes_the_data_sets_uids(tmp_path: Path):
    """The command must name the data set's SOP class and instance, whatever the file meta information says."""
    path = _file(tmp_path, MediaStorageSOPInstanceUID="1.2.3", MediaStorageSOPClassUID="1.2.4")
    dataset = dcmread(path)
    assert "1.2.3" == dataset.file_meta.MediaStorageSOPInstanceUID
    meta = read_stored_file(path).meta
    assert (dataset.SOPClassUID, dataset.SOPInstanceUID) == (meta.sop_class_uid, meta.sop_instance_uid)


def test_read_stored_file_data_set_without_uids_keeps_the_metas(tmp_path: Path):
    """A data set that does not say what it is goes under the file's own word; the receiver judges it."""
    path = _file(tmp_path)
    dataset = dcmread(path)
    del dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=False)
    assert path.stem == read_stored_file(path).meta.sop_instance_uid


def test_read_stored_file_no_part_10_is_refused(tmp_path: Path):
    """A file that is no DICOM Part 10 file is refused before a connection is made."""
    path = tmp_path / "note.txt"
    path.write_text("not DICOM " * 100)
    with pytest.raises(PeerError):
        read_stored_file(path)
