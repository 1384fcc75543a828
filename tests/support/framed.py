"""Part 10 files with pixels, in any syntax and with any attribute."""

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

__all__ = ["COLUMNS", "GREY", "ROOT", "ROWS", "encode", "image"]

ROOT = "1.2.840.10008.1.2"
ROWS, COLUMNS = 24, 32
GREY = (np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS) * 5) % 4096


def image(syntax: str, pixels: bytes, *, color: bool = False, is_encapsulated: bool = False, **values: Any) -> Dataset:
    """Return a data set of the test image's size; keyword arguments are its attributes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 if color else 16
    dataset.BitsStored = 8 if color else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.add_new(0x7FE00010, "OB" if dataset.BitsAllocated == 8 or is_encapsulated else "OW", pixels)
    dataset["PixelData"].is_undefined_length = is_encapsulated
    return dataset


def encode(dataset: Dataset) -> bytes:
    """Return a Part 10 file."""
    file = io.BytesIO()
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.startswith(f"{ROOT}.4.11"):  # JPEG XL, which pydicom does not know
        file.write(b"\0" * 128 + b"DICM")
        dataset.save_as(file, force_encoding=True, implicit_vr=False, little_endian=True)
    else:
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
