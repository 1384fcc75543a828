"""Media as CDs have them: files beside a DICOMDIR."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

__all__ = ["write_medium"]


def write_medium(images: Iterable[Path], folder: Path) -> Path:
    """Copy images into a folder with a DICOMDIR of image records only, whose path is returned."""
    (folder / "IMAGES").mkdir(parents=True)
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID = "MEDIUM"
    directory.DirectoryRecordSequence = []
    for number, image in enumerate(images):
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = ["IMAGES", f"IM{number:06}"]
        directory.DirectoryRecordSequence.append(record)
        shutil.copy(image, folder / "IMAGES" / f"IM{number:06}")
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"
