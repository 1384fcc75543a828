"""Nothing that was planted is in a copy: every row of PS3.15 Table E.1-1, at every depth, and what is no row of it."""

import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from planted import Planter, encoded, reading
from pydicom.dataset import Dataset

from dicomflow.deidentify.copying import Quarantined, Written, deidentify
from dicomflow.deidentify.profile import Profile
from dicomflow.deidentify.tables import actions
from dicomflow.dicom.rewrite import element_header

_KINDS = ("CT", "RTSTRUCT", "SEG", "SR")
# Signs of a captured screen: such an object is quarantined, which another test shows.
_CAPTURED = frozenset({0x00181012, 0x00181014, 0x00181016, 0x00181018, 0x00181019})
_ROWS = sorted(frozenset(actions()) - _CAPTURED)
# Rows whose planted value stays in a copy with the option: those with K in the option's column that are values here.
_RETAINED = {
    "retain_uids": 47,
    "retain_device": 41,
    "retain_institution": 7,
    "retain_patient_characteristics": 11,
    "retain_full_dates": 150,
    "clean_descriptors": 0,
}


def _object(kind: str) -> Dataset:
    return next(each for each in reading() if each.Modality == kind)


def _planted(kind: str) -> tuple[Dataset, Planter]:
    """Return an object with the rows at the top, in items that stay, three levels down, and in a private sequence."""
    made, planter = _object(kind), Planter()
    planter.plant(made, rows=_ROWS)
    deepest, second, first = planter.plant(Dataset(), rows=_ROWS), Dataset(), Dataset()
    second.add_new(0x00409096, "SQ", [deepest])
    first.add_new(0x00209111, "SQ", [second])
    made.add_new(0x00209222, "SQ", [planter.plant(Dataset(), rows=_ROWS)])
    made.add_new(0x52009230, "SQ", [*made.get(0x52009230, []), first])
    block = made.private_block(0x0019, planter.text("private creator"), create=True)
    block.add_new(0x01, "LO", planter.text("private LO"))
    block.add_new(0x02, "UN", planter.text("private UN").encode() + b" ")
    block.add_new(0x03, "SQ", [planter.plant(Dataset(), rows=_ROWS)])
    return made, planter


@pytest.mark.parametrize("is_implicit", [False, True])
@pytest.mark.parametrize("kind", _KINDS)
def test_no_row_of_the_table_is_left(kind: str, *, is_implicit: bool, profile: Callable[..., Profile], tmp_path: Path):
    """Text, dates, UIDs, numbers and bytes of all rows are gone, in both encodings of the header."""
    made, planter = _planted(kind)
    outcome = deidentify(
        encoded(made, is_implicit=is_implicit), tmp_path / "copy.dcm", profile("clean_structured_content")
    )
    assert isinstance(outcome, Written), outcome
    assert len(planter.markers) > 3000
    assert planter.left_in((tmp_path / "copy.dcm").read_bytes()) == []


@pytest.mark.parametrize("kind", _KINDS)
def test_copy_has_no_error_that_the_original_had_not(
    kind: str, profile: Callable[..., Profile], flaws: Callable[[Path], Counter[str]], tmp_path: Path
):
    """Dummies, empty values and what is removed fit the IOD's types, in objects with all rows planted and with none."""
    for number, made in enumerate((_object(kind), _planted(kind)[0])):
        original, copy = tmp_path / f"{number}.dcm", tmp_path / f"{number}-copy.dcm"
        original.write_bytes(encoded(made))
        deidentify(original, copy, profile("clean_structured_content"))
        assert flaws(copy) - flaws(original) == Counter()


def test_entities_of_a_study_stay_what_they_were(profile: Callable[..., Profile], tmp_path: Path):
    """What patient, study and series say is the same in all their copies, as far as it was in the originals."""
    command = shutil.which("dcentvfy")
    if command is None:
        pytest.skip("dcentvfy (Debian's dicom3tools) is not installed")
    told = []
    for folder in (tmp_path / "originals", tmp_path / "copies"):
        folder.mkdir()
        for number, made in enumerate(reading()):
            path = folder / f"{number}.dcm"
            if folder.name == "originals":
                path.write_bytes(encoded(made))
            else:
                deidentify(tmp_path / "originals" / path.name, path, profile("clean_structured_content"))
        files = [str(path) for path in sorted(folder.iterdir())]
        done = subprocess.run([command, *files], capture_output=True, text=True, check=False)
        assert (len(files), done.returncode) == (6, 0)
        told.append(Counter(line.partition(" for file ")[0] for line in (done.stdout + done.stderr).splitlines()))
    assert told[1] - told[0] == Counter()


@pytest.mark.parametrize("option", _RETAINED)
def test_option_retains_its_column_and_nothing_else(option: str, profile: Callable[..., Profile], tmp_path: Path):
    """As many rows are left as the option's column of Table E.1-1 has for values that can be planted."""
    made, planter = _object("CT"), Planter()
    planter.plant(made, rows=_ROWS)
    deidentify(encoded(made), tmp_path / "copy.dcm", profile(option))
    left = set(planter.left_in((tmp_path / "copy.dcm").read_bytes()))
    assert len(left) == _RETAINED[option]
    assert [where for where in left if ">" in where] == []


@pytest.mark.parametrize("vr", ["UN", "OB", "UT", "LT", "LO", "CS", "UI", "PN", "DA"])
def test_row_with_an_odd_vr_is_still_that_row(vr: str, profile: Callable[..., Profile], tmp_path: Path):
    """Rows go by their tag, whatever VR a device writes."""
    names = {0x00081030: b"Zqwert study", 0x00100010: b"Zqwert^A", 0x00100020: b"Zq4711", 0x00104000: b"Zqwert said"}
    found = _with_raw(_object("CT"), {tag: (vr, value) for tag, value in names.items()})
    outcome = deidentify(found, tmp_path / "copy.dcm", profile())
    assert isinstance(outcome, Written)
    assert b"Zq" not in (tmp_path / "copy.dcm").read_bytes()


@pytest.mark.parametrize(
    ("character_set", "codec", "name"),
    [
        ("ISO_IR 192", "utf-8", "Zqwért^Ünal"),
        ("GB18030", "gb18030", "王^小东"),
        ("\\ISO 2022 IR 87", "iso2022_jp", "山田^太郎"),
        ("ISO_IR 144", "iso8859-5", "Иванова"),
    ],
)
@pytest.mark.parametrize("options", [(), ("clean_descriptors", "retain_patient_characteristics")])
def test_text_in_any_character_set_goes(
    character_set: str, codec: str, name: str, options: tuple[str, ...], profile: Callable[..., Profile], tmp_path: Path
):
    """Names, comments and descriptions go in whichever bytes they are written."""
    value = name.encode(codec)
    raw = {
        0x00080005: ("CS", character_set.encode()),
        0x00100010: ("PN", value),
        0x00104000: ("LT", b"CT of " + value),
        0x00081030: ("LO", value + b" abdomen"),
        0x00080070: ("LO", value),
    }
    deidentify(_with_raw(_object("CT"), raw), tmp_path / "copy.dcm", profile(*options))
    copy = (tmp_path / "copy.dcm").read_bytes()
    assert not any(part in copy for part in value.split(b"^"))


def test_what_is_no_row_goes_too(profile: Callable[..., Profile], tmp_path: Path):
    """Nothing is left of preamble, file meta, drawings, padding, unknown elements and sequences that stand as UN."""
    made, planter = _object("CT"), Planter()
    made.file_meta.SourceApplicationEntityTitle = planter.text("AE title")
    made.file_meta.PrivateInformationCreatorUID = planter.value(0, "UI")
    made.file_meta.PrivateInformation = planter.text("private information").encode()
    made.preamble = planter.text("preamble").encode().ljust(128, b"\0")
    made.add_new(0x00100033, "LO", planter.text("birth date in another calendar"))
    made.add_new(0x00100034, "LO", planter.text("death date in another calendar"))
    made.add_new(0x0040A067, "PN", planter.text("an author"))
    made.add_new(0x00160098, "LO", planter.text("an unknown element"))
    for group in (0x6000, 0x601E, 0x5000):
        made.add_new(group << 16 | 0x0022, "LO", planter.text("a drawing's description"))
        made.add_new(group << 16 | 0x1500, "LO", planter.text("a drawing's label"))
        made.add_new(group << 16 | 0x3000, "OW", planter.text("a drawing", "ZqXYZ").encode().ljust(12))
    made.add_new(0x60000100, "US", 1)
    made.add_new(0x00282000, "OB", planter.text("a colour profile").encode() + b" ")
    made.add_new(0xFFFCFFFC, "OB", planter.text("padding").encode().ljust(16))
    old = Dataset()
    old.PatientName = planter.text("old values")
    made.add_new(0x04000561, "SQ", [old])
    inner = pydicom.dataset.Dataset()
    inner.PatientComments = planter.text("in a sequence as UN")
    raw = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner.PatientComments) + 8)
    raw += struct.pack("<HHI", 0x0010, 0x4000, len(inner.PatientComments)) + inner.PatientComments.encode()
    outcome = deidentify(_with_raw(made, {0x52009229: ("UN", raw)}), tmp_path / "copy.dcm", profile())
    assert isinstance(outcome, Written), outcome
    assert planter.left_in((tmp_path / "copy.dcm").read_bytes()) == []


def test_file_that_is_a_directory_is_quarantined(profile: Callable[..., Profile], tmp_path: Path):
    """A DICOMDIR names patients, and is made new or left out (PS3.15 E.1.1)."""
    made = _object("CT")
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    assert isinstance(deidentify(encoded(made), tmp_path / "copy.dcm", profile()), Quarantined)


def _with_raw(made: Dataset, raw: dict[int, tuple[str, bytes]]) -> bytes:
    """Return a file in which elements stand as they are given, in the order of their tags."""
    for tag in raw:
        if tag in made:
            del made[tag]
    whole = encoded(made)
    start = len(whole) - len(_data_set(made))
    parts = {element.tag: _element(element, made) for element in made}
    for tag, (vr, value) in raw.items():
        padded = value + b" " * (len(value) % 2)
        parts[tag] = element_header(tag, vr, len(padded)) + padded
    return whole[:start] + b"".join(parts[tag] for tag in sorted(parts))


def _data_set(made: Dataset) -> bytes:
    return b"".join(_element(element, made) for element in made)


def _element(element: pydicom.DataElement, made: Dataset) -> bytes:
    one = Dataset()
    one.add(element)
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(buffer, one, parent_encoding=made.get("SpecificCharacterSet", "ISO_IR 100"))
    return buffer.getvalue()
