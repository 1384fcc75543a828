"""Input files of an import job: listed under a prefix, and their headers read by ranged GETs, never whole."""

import io
from dataclasses import dataclass
from typing import Final

from obstore.store import ObjectStore
from pydicom import FileDataset, dcmread
from pydicom.errors import InvalidDicomError

from dicomflow.bucket.listing import list_objects
from dicomflow.bucket.ranged import RangedFile
from dicomflow.dicom.quiet import without_warnings
from dicomflow.healthimaging.simulator.documents import (
    Elements,
    Levels,
    Warnings,
    dataset_warnings,
    elements_of,
    levels_of,
)
from dicomflow.healthimaging.simulator.settings import SimulatorSettings

__all__ = ["Failure", "Header", "InputFile", "list_input", "read_header"]

READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class InputFile:
    """An object under the input prefix."""

    key: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file was not imported; `is_customer` tells whose error it is."""

    key: str
    exception_type: str
    message: str
    is_customer: bool = True


@dataclass(frozen=True, slots=True)
class Header:
    """What the service keeps of a readable file but for its pixels."""

    key: str
    bytes: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    elements: Elements
    levels: Levels
    warnings: Warnings


def list_input(store: ObjectStore, prefix: str, settings: SimulatorSettings) -> list[InputFile]:
    """Return the files under a prefix in key order; empty "folders" are skipped.

    The store lists by path segment, the service by string: the listing starts at the last slash and is filtered.
    """
    wanted = prefix
    if settings.prefix_semantics == "folder" and prefix and not prefix.endswith("/"):
        wanted = prefix + "/"
    folder = wanted.rpartition("/")[0]
    found = [
        InputFile(each.key, each.bytes)
        for each in list_objects(store, f"{folder}/" if folder else "")
        if each.key.startswith(wanted) and not (each.bytes == 0 and each.key.endswith("/"))
    ]
    return sorted(found, key=lambda file: file.key)


def read_header(store: ObjectStore, file: InputFile) -> Header | Failure:
    """Read one file as far as its pixel data."""
    reader = io.BufferedReader(_file(store, file), READ_BYTES)
    try:
        with without_warnings():
            return _header(file, dcmread(reader, stop_before_pixels=True))
    except FileNotFoundError:
        return Failure(file.key, "ValidationException", "The object does not exist")
    except InvalidDicomError:
        return Failure(file.key, "ValidationException", "DICOM attributes does not exist")
    except Exception as error:  # noqa: BLE001  # pydicom raises anything on broken input; it fails that file alone
        return Failure(file.key, "ValidationException", f"DICOM P10 parsing failed: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Say what pydicom stumbled over; its own text may hold values."""
    if isinstance(error, RecursionError):
        return "sequences are nested too deeply"
    if isinstance(error, NotImplementedError):
        return "an element has a value representation that is none"
    return type(error).__name__


def _header(file: InputFile, dataset: FileDataset) -> Header | Failure:
    transfer_syntax_uid = dataset.file_meta.get("TransferSyntaxUID")
    if not transfer_syntax_uid:
        return Failure(file.key, "ValidationException", "DICOM attribute TransferSyntaxUID does not exist")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not dataset.get(keyword):
            return Failure(file.key, "ValidationException", f"DICOM attribute {keyword} does not exist")
    return Header(
        key=file.key,
        bytes=file.bytes,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(transfer_syntax_uid),
        elements=elements_of(dataset),
        levels=levels_of(dataset),
        warnings=dataset_warnings(dataset),
    )


def _file(store: ObjectStore, file: InputFile) -> RangedFile:
    def fetch(start: int, length: int) -> bytes:
        return bytes(store.get_range(file.key, start=start, length=length))

    return RangedFile(file.bytes, fetch, file.key)
