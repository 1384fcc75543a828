"""One copy, from a file to a file."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from dicomflow import samples
from dicomflow.deidentify.copying import Quarantined, Written, deidentify
from dicomflow.deidentify.profile import load_profile
from dicomflow.deidentify.settings import BASIC

_SECRET = "a secret of a site, long enough to be one"
_BASIC = load_profile(BASIC, {}, secret=_SECRET, domain="research")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory):
    """Return the paths of a CT series."""
    return samples.write(samples.ct_study(7, series=1, slices=3, side=32), tmp_path_factory.mktemp("originals"))


def test_copy_is_described_by_what_is_returned(originals: tuple[Path, ...], tmp_path: Path):
    """UIDs, size and digest are the copy's."""
    target = tmp_path / "copy.dcm"
    outcome = deidentify(originals[0], target, _BASIC)
    copy = pydicom.dcmread(target)
    assert isinstance(outcome, Written)
    assert (outcome.study_uid, outcome.series_uid, outcome.sop_uid) == (
        copy.StudyInstanceUID,
        copy.SeriesInstanceUID,
        copy.SOPInstanceUID,
    )
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID
    assert outcome.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert outcome.size_bytes == target.stat().st_size


def test_copy_says_what_it_is(originals: tuple[Path, ...], tmp_path: Path):
    """Who reads it sees that, how and by which options it was de-identified (PS3.15 E.1.1)."""
    deidentify(originals[0], tmp_path / "copy.dcm", _BASIC)
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert copy.PatientIdentityRemoved == "YES"
    assert copy.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in copy.DeidentificationMethodCodeSequence] == ["113100"]
    assert "PS3.15 2026c basic" in copy.DeidentificationMethod


def test_pixels_are_the_originals(originals: tuple[Path, ...], tmp_path: Path):
    """No pixel changes where nothing is masked."""
    deidentify(originals[1], tmp_path / "copy.dcm", _BASIC)
    assert pydicom.dcmread(tmp_path / "copy.dcm").PixelData == pydicom.dcmread(originals[1]).PixelData


def test_bytes_and_path_give_the_same_copy(originals: tuple[Path, ...], tmp_path: Path):
    """An object within a segment is copied as one in a file."""
    first = deidentify(originals[0], tmp_path / "1.dcm", _BASIC)
    second = deidentify(originals[0].read_bytes(), tmp_path / "2.dcm", _BASIC)
    assert first == second


def test_other_processes_write_the_same_bytes(originals: tuple[Path, ...], tmp_path: Path):
    """Neither process nor hash seed changes a byte."""
    script = (
        "import sys; from pathlib import Path; from dicomflow.deidentify.copying import deidentify;"
        "from dicomflow.deidentify.profile import load_profile;"
        f"p = load_profile('basic', {{}}, secret={_SECRET!r}, domain='research');"
        "print(deidentify(Path(sys.argv[1]), Path(sys.argv[2]), p).sha256)"
    )
    found = {deidentify(originals[0], tmp_path / "here.dcm", _BASIC).sha256}
    for seed in ("1", "2"):
        command = [sys.executable, "-c", script, str(originals[0]), str(tmp_path / f"{seed}.dcm")]
        done = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert len(found) == 1


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.98])
def test_object_that_is_cut_short_is_quarantined_and_leaves_no_file(
    originals: tuple[Path, ...], tmp_path: Path, kept: float
):
    """Half an object is none, and its neighbours are not touched by it."""
    whole = originals[0].read_bytes()
    outcome = deidentify(whole[: int(len(whole) * kept)], tmp_path / "copy.dcm", _BASIC)
    assert isinstance(outcome, Quarantined)
    assert list(tmp_path.iterdir()) == []
