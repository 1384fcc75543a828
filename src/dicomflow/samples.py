"""Small invented studies for the demonstration, the tests and the benchmark.

Knows pydicom and nothing else of ours. The same seed gives the same bytes. All people are invented.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MRImageStorage,
    UltrasoundImageStorage,
)

__all__ = ["PRIVATE_SECONDARY_CAPTURE", "ct_study", "demo_studies", "write"]

PRIVATE_SECONDARY_CAPTURE: Final = UID("1.3.6.1.4.1.343.7.1.1")
_IMPLEMENTATION: Final = UID("2.25.212365487411983762834096512396421893241")
_TWO_BYTE_PIXELS: Final = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
_ONE_BYTE_PIXELS: Final = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}


def demo_studies(seed: int = 1) -> Iterator[Dataset]:
    """Yield 18 instances of 2 patients, 3 studies and 5 series, each with its file meta information.

    A CT of two series of six slices with a secondary capture under a private SOP class, an MR of four slices,
    and, for the second patient, whose name is in two scripts, one ultrasound image compressed as JPEG.
    """
    chance = random.Random(seed)  # noqa: S311  # repeatable studies, no secrets
    first = _patient(chance, "Demo^Patient", "ISO_IR 100")
    ct = _study(chance, first, "CT abdomen")
    yield from _ct_series(chance, ct, 1, "Arterial phase", slices=6, side=128)
    yield from _ct_series(chance, ct, 2, "Venous phase", slices=6, side=128)
    yield _secondary_capture(chance, ct)
    yield from _mr_series(chance, _study(chance, first, "MR head"))
    second = _patient(chance, "Demo^Zoë=デモ^ゾエ", "ISO_IR 192")
    yield _ultrasound(chance, _study(chance, second, "US thyroid"))


def ct_study(seed: int, *, series: int = 2, slices: int = 25, side: int = 64) -> Iterator[Dataset]:
    """Yield one CT study of a patient of its own: `series` times `slices` images of `side` by `side` pixels."""
    chance = random.Random(seed)  # noqa: S311  # repeatable studies, no secrets
    study = _study(chance, _patient(chance, f"Demo^Patient{seed}", "ISO_IR 100"), "CT abdomen")
    for number in range(1, series + 1):
        yield from _ct_series(chance, study, number, f"Phase {number}", slices, side)


def write(datasets: Iterator[Dataset], folder: Path) -> tuple[Path, ...]:
    """Write each data set as `<SOP Instance UID>.dcm` into the folder and return the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset in datasets:
        path = folder / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return tuple(paths)


def _patient(chance: random.Random, name: str, character_set: str) -> Dataset:
    patient = Dataset()
    patient.SpecificCharacterSet = character_set
    patient.PatientName = name
    patient.PatientID = f"DEMO-{chance.randrange(10**6):06}"
    patient.IssuerOfPatientID = "DEMO"
    patient.PatientBirthDate = f"19{chance.randrange(50, 99)}0{chance.randrange(1, 9)}15"
    patient.PatientSex = chance.choice("FM")
    return patient


def _study(chance: random.Random, patient: Dataset, description: str) -> Dataset:
    study = Dataset()
    study.update(patient)
    study.StudyInstanceUID = _uid(chance)
    study.StudyID = str(chance.randrange(1, 9999))
    study.StudyDate = "20260131"
    study.StudyTime = "101500"
    study.AccessionNumber = f"A{chance.randrange(10**7):07}"
    study.StudyDescription = description
    study.ReferringPhysicianName = "Demo^Referrer"
    study.InstitutionName = "Demo Hospital"
    return study


def _series(chance: random.Random, study: Dataset, modality: str, number: int, description: str) -> Dataset:
    series = Dataset()
    series.update(study)
    series.SeriesInstanceUID = _uid(chance)
    series.SeriesNumber = number
    series.SeriesDate = "20260131"
    series.SeriesTime = f"10{20 + number % 30:02}00.5"
    series.SeriesDescription = description
    series.ProtocolName = description
    series.Modality = modality
    series.Manufacturer = "dicomflow"
    series.StationName = f"{modality}1"
    return series


def _image(
    chance: random.Random,
    series: Dataset,
    sop_class: UID,
    number: int,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> Dataset:
    image = Dataset()
    image.update(series)
    image.SOPClassUID = sop_class
    image.SOPInstanceUID = _uid(chance)
    image.InstanceNumber = number
    image.AcquisitionNumber = 1
    image.InstanceCreationDate = image.ContentDate = image.AcquisitionDate = "20260131"
    image.InstanceCreationTime = image.ContentTime = image.AcquisitionTime = f"1030{number % 60:02}"
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = sop_class
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = transfer_syntax
    image.file_meta.ImplementationClassUID = _IMPLEMENTATION
    return image


def _ct_series(
    chance: random.Random, study: Dataset, number: int, description: str, slices: int, side: int
) -> Iterator[Dataset]:
    series = _series(chance, study, "CT", number, description)
    series.FrameOfReferenceUID = _uid(chance)
    series.BodyPartExamined = "ABDOMEN"
    series.PatientPosition = "HFS"
    for position in range(slices):
        image = _image(chance, series, CTImageStorage, position + 1)
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.ImagePositionPatient = [-side / 2, -side / 2, 5.0 * position]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.SliceThickness = 5
        image.PixelSpacing = [1, 1]
        image.RescaleIntercept = -1024
        image.RescaleSlope = 1
        image.WindowCenter, image.WindowWidth = 40, 400
        _set_pixels(image, side, _TWO_BYTE_PIXELS, _phantom(chance, side, (position + 1) / (slices + 1)))
        yield image


def _mr_series(chance: random.Random, study: Dataset) -> Iterator[Dataset]:
    side = 64
    series = _series(chance, study, "MR", 1, "T1 axial")
    series.BodyPartExamined = "HEAD"
    series.PatientPosition = "HFS"
    for position in range(4):
        image = _image(chance, series, MRImageStorage, position + 1, ImplicitVRLittleEndian)
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
        image.ScanningSequence = "SE"
        image.ImagePositionPatient = [-32, -32, 4.0 * position]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = [1, 1]
        image.SliceThickness = 4
        _set_pixels(image, side, _TWO_BYTE_PIXELS, _phantom(chance, side, (position + 1) / 5))
        yield image


def _secondary_capture(chance: random.Random, study: Dataset) -> Dataset:
    side = 64
    series = _series(chance, study, "OT", 99, "Dose report of a vendor")
    image = _image(chance, series, PRIVATE_SECONDARY_CAPTURE, 1)
    image.ConversionType = "WSD"
    image.add_new((0x0009, 0x0010), "LO", "DICOMFLOW SAMPLE")
    image.add_new((0x0009, 0x1001), "LO", "a private value")
    pixels = bytes((row ^ column) * 4 & 0xFF for row in range(side) for column in range(side))
    _set_pixels(image, side, _ONE_BYTE_PIXELS, pixels)
    return image


def _ultrasound(chance: random.Random, study: Dataset) -> Dataset:
    side = 64
    series = _series(chance, study, "US", 1, "Left lobe")
    image = _image(chance, series, UltrasoundImageStorage, 1, JPEGBaseline8Bit)
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.LossyImageCompression = "01"
    image.LossyImageCompressionMethod = "ISO_10918_1"
    greys = [[40 + (row * 8 + column * 16 + chance.randrange(16)) % 200 for column in range(8)] for row in range(8)]
    _set_pixels(image, side, _ONE_BYTE_PIXELS, encapsulate([_jpeg(greys)]))
    return image


def _set_pixels(image: Dataset, side: int, depth: dict[str, int], pixels: bytes) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = side
    for keyword, value in depth.items():
        setattr(image, keyword, value)
    image.add_new("PixelData", "OW" if image.BitsAllocated > 8 else "OB", pixels)


def _phantom(chance: random.Random, side: int, height: float) -> bytes:
    """Return 16-bit little-endian pixels: a body in air with two inner discs, and noise in the low seven bits."""
    size_bytes = 2 * side * side
    pixels = bytearray(size_bytes)
    body = 0.45 * side * math.sin(math.pi * height)
    for across, down, radius, density in (
        (0.50, 0.50, body, 8 << 7),
        (0.38, 0.45, body * 0.3, 9 << 7),
        (0.64, 0.55, body * 0.2, 13 << 7),
    ):
        for row in range(side):
            half = math.sqrt(max(0.0, radius**2 - (row - down * side) ** 2))
            left, right = int(across * side - half), int(across * side + half)
            start = 2 * (row * side + left)
            pixels[start : start + 2 * (right - left)] = density.to_bytes(2, "little") * (right - left)
    # One operation on numbers as long as the image is a hundred times faster than one for each pixel.
    noise = int.from_bytes(chance.randbytes(size_bytes)) & int.from_bytes(b"\x7f\x00" * (side * side))
    return (int.from_bytes(pixels) | noise).to_bytes(size_bytes)


def _uid(chance: random.Random) -> UID:
    """Return a UID from a random number, as PS3.5 B.2 derives one from a UUID."""
    return UID(f"2.25.{chance.getrandbits(122)}")


def _jpeg(greys: list[list[int]]) -> bytes:
    """Return a baseline JPEG (ITU-T T.81) in which each 8 by 8 block has one grey.

    Every block is its DC coefficient and an end of block. With quantisation by 8 that coefficient is the grey
    itself, less 128. Huffman codes: four bits for each size of a difference, one bit for the end of block.
    """
    height, width = len(greys) * 8, len(greys[0]) * 8
    sizes = bytes(range(12))
    segments = (
        (0xDB, bytes(1) + bytes([8] * 64)),  # quantisation
        (0xC0, bytes([8]) + height.to_bytes(2) + width.to_bytes(2) + bytes([1, 1, 0x11, 0])),  # frame
        (0xC4, bytes([0x00]) + bytes([0, 0, 0, len(sizes), *[0] * 12]) + sizes),  # Huffman, DC
        (0xC4, bytes([0x10]) + bytes([1, *[0] * 15]) + bytes(1)),  # Huffman, AC
        (0xDA, bytes([1, 1, 0x00, 0, 63, 0])),  # scan
    )
    bits = ""
    previous = 0
    for grey in (grey - 128 for row in greys for grey in row):
        difference, previous = grey - previous, grey
        size = abs(difference).bit_length()
        value = difference if difference >= 0 else difference + (1 << size) - 1
        bits += f"{size:04b}" + (f"{value:0{size}b}" if size else "") + "0"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")
    head = b"".join(bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body for marker, body in segments)
    jpeg = b"\xff\xd8" + head + scan + b"\xff\xd9"
    return jpeg + b"\0" * (len(jpeg) % 2)
