"""The invented studies are repeatable, various and valid."""

import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit

from dicomflow import samples


def test_demo_studies_same_seed_same_bytes(tmp_path: Path):
    """The same seed gives the same files, another seed others."""
    first, again, other = (samples.write(samples.demo_studies(seed), tmp_path / name) for seed, name in _SEEDS)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert not {path.name for path in first} & {path.name for path in other}


_SEEDS = ((1, "first"), (1, "again"), (2, "other"))


def test_demo_studies_are_as_various_as_promised():
    """Two patients, three studies, five series, a private SOP class, JPEG, and names in two scripts."""
    datasets = list(samples.demo_studies())
    assert (18, 18) == (len(datasets), len({dataset.SOPInstanceUID for dataset in datasets}))
    assert 2 == len({dataset.PatientID for dataset in datasets})
    assert 3 == len({dataset.StudyInstanceUID for dataset in datasets})
    assert 5 == len({dataset.SeriesInstanceUID for dataset in datasets})
    assert 1 == sum(dataset.SOPClassUID == samples.PRIVATE_SECONDARY_CAPTURE for dataset in datasets)
    assert 1 == sum(dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit for dataset in datasets)
    assert {"ISO_IR 100", "ISO_IR 192"} == {dataset.SpecificCharacterSet for dataset in datasets}


def test_write_files_read_back_equal(tmp_path: Path):
    """What is written is a Part 10 file with the same data set."""
    for dataset, path in zip(samples.demo_studies(), samples.write(samples.demo_studies(), tmp_path), strict=True):
        assert dataset == dcmread(path)


@pytest.mark.interop
def test_demo_study_jpeg_decodes_with_dcmtk(tmp_path: Path):
    """DCMTK decodes the compressed image to blocks of one grey each."""
    dcmdjpeg = shutil.which("dcmdjpeg")
    if dcmdjpeg is None:
        pytest.skip("DCMTK's dcmdjpeg is not installed")
    datasets = [item for item in samples.demo_studies() if item.file_meta.TransferSyntaxUID == JPEGBaseline8Bit]
    (path,) = samples.write(iter(datasets), tmp_path)
    subprocess.run([dcmdjpeg, path, tmp_path / "native.dcm"], check=True, timeout=120)
    pixels = dcmread(tmp_path / "native.dcm").PixelData
    blocks = {(row, column): set() for row in range(8) for column in range(8)}
    for offset, value in enumerate(pixels):
        blocks[offset // 64 // 8, offset % 64 // 8].add(value)
    assert {1} == {len(values) for values in blocks.values()}
    assert len({value for values in blocks.values() for value in values}) > 10


def test_ct_study_has_the_size_asked_for():
    """The numbers of series, slices and pixels are the caller's, and each seed is another patient."""
    study = list(samples.ct_study(7, series=3, slices=4, side=32))
    assert (12, 3, 1) == (
        len(study),
        len({item.SeriesInstanceUID for item in study}),
        len({item.StudyInstanceUID for item in study}),
    )
    assert {2 * 32 * 32} == {len(item.PixelData) for item in study}
    assert study[0].PatientID != next(samples.ct_study(8)).PatientID
