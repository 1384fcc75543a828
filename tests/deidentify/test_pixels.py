"""What may have text burned in is not sent: the table of decisions, a file a line, and the regions that are masked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from planted import encoded, reading
from pydicom.dataset import Dataset

from dicomflow.deidentify.copying import Quarantined, Written, deidentify
from dicomflow.deidentify.profile import Profile

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_DEVICE = {"manufacturer": "dicomflow", "model": "model", "rows": 16, "columns": 16}
_REGION = [2, 1, 6, 5]
_MODALITIES = {"4": "MR", "128": "PT", "20": "NM", "481.2": "RTDOSE", "1": "CR", "1.1": "DX", "1.2": "MG", "12.1": "XA"}
_MODALITIES["12.2"] = "RF"
_MORE = {"unmasked": ["CT", "MR", "PT", "NM", "RTDOSE", "CR", "DX", "MG", "XA", "RF"]}


def _image(sop_class: str = "2", **values: Any) -> Dataset:
    """Return an image of 16 by 16 pixels of a class of the storage arc."""
    made = reading()[0]
    uid = sop_class if sop_class.startswith("1.3.") else _STORAGE + sop_class
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid
    made.ManufacturerModelName = "model"
    made.Modality = _MODALITIES.get(sop_class, "CT")
    for keyword, value in values.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def _of(modality: str) -> Dataset:
    return next(each for each in reading() if each.Modality == modality)


_PASSES = {
    "CT": lambda: _image("2"),
    "enhanced CT": lambda: _image("2.1"),
    "MR": lambda: _image("4"),
    "PT": lambda: _image("128"),
    "NM": lambda: _image("20"),
    "RT dose": lambda: _image("481.2"),
    "RT structure set": lambda: _of("RTSTRUCT"),
    "RT plan": lambda: _image("481.5"),
    "registration": lambda: _image("66.1"),
    "segmentation, though derived": lambda: _of("SEG"),
    "presentation state": lambda: _image("11.1"),
}
_QUARANTINED = {
    "ultrasound": (lambda: _image("6.1"), "ultrasound"),
    "ultrasound multi-frame": (lambda: _image("3.1"), "ultrasound"),
    "retired ultrasound": (lambda: _image("6"), "ultrasound"),
    "secondary capture": (lambda: _image("7"), "secondary capture"),
    "multi-frame secondary capture": (lambda: _image("7.4"), "secondary capture"),
    "endoscopy": (lambda: _image("77.1.1"), "visible light"),
    "endoscopic video": (lambda: _image("77.1.1.1"), "visible light"),
    "photograph": (lambda: _image("77.1.4"), "visible light"),
    "fundus": (lambda: _image("77.1.5.1"), "ophthalmic"),
    "whole slide": (lambda: _image("77.1.6"), "visible light"),
    "encapsulated PDF": (lambda: _image("104.1"), "encapsulated document"),
    "report": (lambda: _of("SR"), "clean_structured_content"),
    "key objects": (lambda: _image("88.59"), "clean_structured_content"),
    "private class": (lambda: _image("1.3.12.2.1107.5.9.1"), "private"),
    "unknown class": (lambda: _image("999"), "not known"),
    "OT": (lambda: _image(Modality="OT"), "Modality"),
    "no modality": (lambda: _image(Modality=""), "Modality"),
    "ultrasound that is called CT": (lambda: _image(Modality="US"), "Modality"),
    "more pixels than its frames": (lambda: _image(PixelData=_image().PixelData + b"Quillion"), "number of bytes"),
    "fewer pixels than its frames": (lambda: _image(NumberOfFrames="2"), "number of bytes"),
    "CR": (lambda: _image("1"), "unmasked"),
    "DX": (lambda: _image("1.1"), "unmasked"),
    "MG": (lambda: _image("1.2"), "unmasked"),
    "XA": (lambda: _image("12.1"), "unmasked"),
    "RF": (lambda: _image("12.2"), "unmasked"),
    "burned in": (lambda: _image(BurnedInAnnotation="YES"), "Burned In Annotation"),
    "converted": (lambda: _image(ConversionType="WSD"), "Conversion Type"),
    "captured on a date": (lambda: _image(DateOfSecondaryCapture="20260101"), "Date of Secondary Capture"),
    "captured by a maker": (lambda: _image(SecondaryCaptureDeviceManufacturer="x"), "Device Manufacturer"),
    "captured by a model": (lambda: _image(SecondaryCaptureDeviceManufacturerModelName="x"), "Model Name"),
    "captured by a version": (lambda: _image(SecondaryCaptureDeviceSoftwareVersions="1"), "Software Versions"),
    "screen save": (lambda: _image(ImageType=["ORIGINAL", "PRIMARY", "SCREEN SAVE"]), "Image Type"),
    "dose screen": (lambda: _image(ImageType=["ORIGINAL", "PRIMARY", "DOSE_INFO"]), "Image Type"),
    "volume rendering": (lambda: _image(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "VOLREN"]), "Image Type"),
    "derived": (lambda: _image(ImageType=["DERIVED", "PRIMARY", "AXIAL"]), "ORIGINAL, PRIMARY"),
    "secondary": (lambda: _image(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"]), "ORIGINAL, PRIMARY"),
    "no image type": (lambda: _image(ImageType=None), "ORIGINAL, PRIMARY"),
    "colour CT": (lambda: _image(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour"),
    "overlay in the pixels": (lambda: _with(_image(), 0x60000100, "US", 16), "overlay"),
}


def _with(made: Dataset, tag: int, vr: str, value: Any) -> Dataset:
    made.add_new(tag, vr, value)
    return made


@pytest.mark.parametrize("name", _PASSES)
def test_object_that_is_known_goes(name: str, profile: Callable[..., Profile], tmp_path: Path):
    """What no device writes into, and what the site vouches for, is copied."""
    assert isinstance(deidentify(encoded(_PASSES[name]()), tmp_path / "copy.dcm", profile()), Written)


@pytest.mark.parametrize("name", _QUARANTINED)
def test_object_that_is_not_known_is_quarantined(name: str, profile: Callable[..., Profile], tmp_path: Path):
    """The reason names the rule and no value, and no file is left."""
    make, words = _QUARANTINED[name]
    outcome = deidentify(encoded(make()), tmp_path / "copy.dcm", profile())
    assert isinstance(outcome, Quarantined)
    assert words in outcome.reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("last", ["1", "1.1", "1.2", "12.1", "12.2"])
def test_kind_that_the_site_vouches_for_goes(last: str, profile: Callable[..., Profile], tmp_path: Path):
    """X-ray images go when the profile names them, and only then."""
    assert isinstance(deidentify(encoded(_image(last)), tmp_path / "copy.dcm", profile(**_MORE)), Written)


def test_projection_of_another_modality_than_its_class_goes(profile: Callable[..., Profile], tmp_path: Path):
    """A mammogram on a storage plate is a Computed Radiography Image."""
    made = encoded(_image("1", Modality="MG"))
    assert isinstance(deidentify(made, tmp_path / "copy.dcm", profile(**_MORE)), Written)


@pytest.mark.parametrize("name", ["private class", "encapsulated PDF", "report", "overlay in the pixels"])
def test_no_device_rule_lets_everything_pass(name: str, profile: Callable[..., Profile], tmp_path: Path):
    """What cannot be clean stays, whatever a site writes."""
    made = _QUARANTINED[name][0]()
    made.ManufacturerModelName = "model"
    bound = profile(devices=[{**_DEVICE, "regions": []}], **_MORE)
    assert isinstance(deidentify(encoded(made), tmp_path / "copy.dcm", bound), Quarantined)


@pytest.mark.parametrize("name", ["ultrasound", "secondary capture", "derived", "converted", "OT", "CR"])
def test_device_rule_without_regions_is_the_sites_word(name: str, profile: Callable[..., Profile], tmp_path: Path):
    """A device that was looked at and found clean goes, in the size that was looked at."""
    made = _QUARANTINED[name][0]()
    rule = {**_DEVICE, "regions": []}
    assert isinstance(deidentify(encoded(made), tmp_path / "1.dcm", profile(devices=[rule])), Written)
    for other in ({"rows": 17}, {"columns": 15}, {"model": "other"}, {"manufacturer": "other"}):
        bound = profile(devices=[{**rule, **other}])
        assert isinstance(deidentify(encoded(made), tmp_path / "2.dcm", bound), Quarantined)


def test_burned_in_is_believed_above_a_rule_without_regions(profile: Callable[..., Profile], tmp_path: Path):
    """What says that it has text is not clean because its device usually is."""
    bound = profile(devices=[{**_DEVICE, "regions": []}])
    made = _image(BurnedInAnnotation="YES")
    assert isinstance(deidentify(encoded(made), tmp_path / "copy.dcm", bound), Quarantined)


def _pixels(samples: int, bits: int, frames: int, photometric: str, *, signed: int = 0, planar: int = 0) -> Dataset:
    """Return an image whose bytes are all 0x55."""
    made = _image("6.1", SamplesPerPixel=samples, PhotometricInterpretation=photometric)
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = signed
    if samples > 1:
        made.PlanarConfiguration = planar
    if frames > 1:
        made.NumberOfFrames = frames
    made.SmallestImagePixelValue, made.LargestImagePixelValue = 1, 2
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    made.PixelData = b"\x55" * (16 * 16 * samples * frames * bits // 8)
    return made


@pytest.mark.parametrize(
    ("samples", "bits", "frames", "photometric", "more", "black"),
    [
        (1, 8, 1, "MONOCHROME2", {}, [0]),
        (1, 8, 3, "MONOCHROME1", {}, [255]),
        (1, 16, 2, "MONOCHROME2", {}, [0]),
        (1, 16, 2, "MONOCHROME2", {"signed": 1}, [-32768]),
        (1, 16, 1, "MONOCHROME1", {"signed": 1}, [32767]),
        (3, 8, 2, "RGB", {}, [0, 0, 0]),
        (3, 8, 2, "RGB", {"planar": 1}, [0, 0, 0]),
        (3, 8, 1, "YBR_FULL", {}, [0, 128, 128]),
        (3, 8, 2, "YBR_FULL", {"planar": 1}, [0, 128, 128]),
    ],
)
def test_region_is_black_in_every_frame_and_nothing_else(
    samples: int,
    bits: int,
    frames: int,
    photometric: str,
    more: dict[str, int],
    black: list[int],
    profile: Callable[..., Profile],
    tmp_path: Path,
):
    """Each pixel of the region is black by photometric interpretation, and each other one what it was."""
    made = _pixels(samples, bits, frames, photometric, **more)
    outcome = deidentify(encoded(made), tmp_path / "copy.dcm", profile(devices=[{**_DEVICE, "regions": [_REGION]}]))
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert isinstance(outcome, Written)
    assert len(copy.PixelData) == len(made.PixelData)
    left, top, right, bottom = _REGION
    other = int.from_bytes(b"\x55" * (bits // 8), "little")
    for frame in range(frames):
        for row in range(16):
            for column in range(16):
                inside = left <= column < right and top <= row < bottom
                found = [_sample(copy, frame, row, column, sample) for sample in range(samples)]
                assert found == (black if inside else [other] * samples)


def _sample(copy: Dataset, frame: int, row: int, column: int, sample: int) -> int:
    size, samples = copy.BitsAllocated // 8, copy.SamplesPerPixel
    at = frame * 256 * samples
    is_planar = samples > 1 and copy.PlanarConfiguration == 1
    at += sample * 256 + row * 16 + column if is_planar else (row * 16 + column) * samples + sample
    return int.from_bytes(copy.PixelData[at * size : (at + 1) * size], "little", signed=copy.PixelRepresentation == 1)


def test_masked_copy_says_so(profile: Callable[..., Profile], tmp_path: Path):
    """(0028,0301) is NO, the codes have Clean Pixel Data, and the extremes of the old pixels are gone."""
    bound = profile(devices=[{**_DEVICE, "regions": [_REGION]}])
    made = _pixels(1, 8, 1, "MONOCHROME2")
    made.BurnedInAnnotation = "YES"
    deidentify(encoded(made), tmp_path / "copy.dcm", bound)
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert copy.BurnedInAnnotation == "NO"
    assert [item.CodeValue for item in copy.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert "SmallestImagePixelValue" not in copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
        ({"BitsAllocated": 1}, "bits allocated"),
        ({"NumberOfFrames": "2"}, "number of bytes"),
    ],
)
def test_pixels_that_cannot_be_masked_are_quarantined(
    change: dict[str, Any], words: str, profile: Callable[..., Profile], tmp_path: Path
):
    """Half a mask is none, and leaves no file."""
    made = _pixels(1, 8, 1, "MONOCHROME2")
    for keyword, value in change.items():
        setattr(made, keyword, value)
    outcome = deidentify(encoded(made), tmp_path / "copy.dcm", profile(devices=[{**_DEVICE, "regions": [_REGION]}]))
    assert isinstance(outcome, Quarantined)
    assert words in outcome.reason
    assert list(tmp_path.iterdir()) == []


def test_region_that_leaves_the_image_is_refused(profile: Callable[..., Profile]):
    """A rule that cannot be meant stops the start, and not an image."""
    with pytest.raises(ValueError, match="leaves the image"):
        profile(devices=[{**_DEVICE, "regions": [[0, 0, 17, 4]]}])
