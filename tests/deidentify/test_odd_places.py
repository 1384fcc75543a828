"""Names, UIDs and pixels in places where nobody looks for them."""

from collections.abc import Callable
from pathlib import Path

import pydicom
from planted import encoded, reading
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomflow.deidentify.copying import Quarantined, deidentify
from dicomflow.deidentify.profile import Profile

Made = Callable[..., Profile]


def _named() -> Dataset:
    made = reading()[0]
    made.PatientName, made.PatientID = "Zorblatt^Quillion", "MRN7731942"
    return made


def _copy(made: Dataset, profile: Profile, folder: Path) -> Dataset:
    (folder / "original").write_bytes(encoded(made))
    outcome = deidentify(folder / "original", folder / "copy", profile)
    assert not isinstance(outcome, Quarantined), outcome
    return pydicom.dcmread(folder / "copy")


def test_code_string_and_device_text_with_a_word_of_the_patients_go(profile: Made, tmp_path: Path):
    """Somebody types into them too; in what a device names a name may be a part of a word."""
    made = _named()
    made.BodyPartExamined, made.ScanOptions = "ZORBLATT", ["HELICAL", "MRN7731942"]
    made.PatientPosition = "FFS"
    made.ConvolutionKernel, made.SequenceName = "ZORBLATTB30", "*quillion3d"
    copy = _copy(made, profile("retain_device"), tmp_path)
    assert "FFS" == copy.PatientPosition
    assert not {"BodyPartExamined", "ScanOptions"} & set(copy.dir())
    content = (tmp_path / "copy").read_bytes().lower()
    assert not [word for word in (b"zorblatt", b"quillion", b"7731942") if word in content]


def test_uid_that_only_looks_like_one_of_the_standards_is_mapped(profile: Made, tmp_path: Path):
    """Those of the standard stay because they are listed in it, not by how they begin."""
    made = _named()
    made.StudyInstanceUID = "1.2.840.10008.5.1.7731942"
    copy = _copy(made, profile(), tmp_path)
    assert b"7731942" not in (tmp_path / "copy").read_bytes()
    assert made.SOPClassUID == copy.SOPClassUID


def test_pixels_in_a_second_place_do_not_go(profile: Made, tmp_path: Path):
    """Nested ones and those of retired groups are left out; two kinds at the top are for a person to look at."""
    made = _named()
    item = Dataset()
    item.add_new(0x7FE00010, "OW", b"ZORBLATT")
    made.add_new(0x00480200, "SQ", Sequence([item]))
    made.add_new(0x7FE00020, "OW", b"ZORBLATT")
    made.add_new(0x7F000010, "OW", b"ZORBLATT")
    copy = _copy(made, profile(), tmp_path)
    assert made.PixelData == copy.PixelData
    assert b"ZORBLATT" not in (tmp_path / "copy").read_bytes()
    made.add_new(0x7FE00008, "OF", b"ZORBLATT")
    (tmp_path / "original").write_bytes(encoded(made))
    outcome = deidentify(tmp_path / "original", tmp_path / "copy", profile())
    assert isinstance(outcome, Quarantined)
    assert "more than one kind of pixel data" in outcome.reason
