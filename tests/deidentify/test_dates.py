"""Dates and times that are shifted by whole days, one number a patient, and what does not parse."""

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pydicom
import pytest
from planted import encoded, reading

from dicomflow.deidentify.copying import deidentify
from dicomflow.deidentify.dates import moved
from dicomflow.deidentify.profile import Profile


@pytest.mark.parametrize(
    ("value", "vr", "expected"),
    [
        (b"20260301", "DA", b"20260228"),
        (b"20240301 ", "DA", b"20240229"),
        (b"2026.01.01", "DA", b"2025.12.31"),
        (b"20260102\\20260103", "DA", b"20260101\\20260102"),
        (b"", "DA", b""),
        (b"20260101235959.123456+0100", "DT", b"20251231235959.123456+0100"),
        (b"20260101", "DT", b"20251231"),
        (b"235959.5", "TM", b"235959.5"),
        (b"10", "TM", b"10"),
        (b"2026", "DT", None),
        (b"202601", "DT", None),
        (b"202601", "DA", None),
        (b"20260230", "DA", None),
        (b"20260101-20260105", "DA", None),
        (b"00010101", "DA", None),
        (b"Zqwert", "DA", None),
        (b"Zqwert", "TM", None),
        (b"20260101\\Zqwert", "DA", None),
        (b"2560", "TM", None),
        ("\N{FULLWIDTH DIGIT TWO}0260101".encode(), "DA", None),
    ],
)
def test_value_is_a_day_earlier_or_none(value: bytes, vr: str, expected: bytes | None):
    """A date keeps its form, a time stays, and what is none is given up."""
    assert moved(value, vr, 1) == expected


def _shifts(copies: list[pydicom.Dataset]) -> set[int]:
    found = set()
    for original, copy in zip(reading(), copies, strict=True):
        for element in original.iterall():
            if (
                element.VR == "DA"
                and element.value
                and element.keyword in copy
                and element.keyword != "PatientBirthDate"
            ):
                new = copy[element.keyword].value
                found.add((_day(element.value) - _day(new)).days)
    return found


def _day(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007  # a day


def _copies(bound: Profile, folder: Path) -> list[pydicom.Dataset]:
    folder.mkdir()
    for number, made in enumerate(reading()):
        deidentify(encoded(made), folder / f"{number}.dcm", bound)
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_all_dates_of_a_patient_are_moved_by_one_number(profile: Callable[..., Profile], tmp_path: Path):
    """Images, structure set, segmentation and report stay as far from one another as they were."""
    copies = _copies(profile("clean_structured_content", "shift_dates"), tmp_path / "shifted")
    (shift,) = _shifts(copies)
    assert 1 <= shift <= 365
    assert {copy.LongitudinalTemporalInformationModified for copy in copies} == {"MODIFIED"}
    assert {copy.PatientBirthDate for copy in copies} == {""}
    assert copies[0].StudyTime == reading()[0].StudyTime
    dates = [item.Date for item in copies[-1].ContentSequence if item.ValueType == "DATE"]
    assert [(_day("20260131") - _day(each)).days for each in dates] == [shift]


def test_patients_are_moved_apart(profile: Callable[..., Profile], tmp_path: Path):
    """Another patient's dates are moved by another number, and within what the profile says."""
    found = set()
    for number in range(12):
        made = reading(number)[0]
        deidentify(encoded(made), tmp_path / f"{number}.dcm", profile("shift_dates", most_shift_days=3650))
        found.add((_day(made.StudyDate) - _day(pydicom.dcmread(tmp_path / f"{number}.dcm").StudyDate)).days)
    assert len(found) > 9
    assert all(1 <= each <= 3650 for each in found)


def test_full_dates_stay(profile: Callable[..., Profile], tmp_path: Path):
    """With the option dates are what they were, but that of birth."""
    copies = _copies(profile("clean_structured_content", "retain_full_dates"), tmp_path / "full")
    assert _shifts(copies) == {0}
    assert {copy.LongitudinalTemporalInformationModified for copy in copies} == {"UNMODIFIED"}
    assert {copy.PatientBirthDate for copy in copies} == {""}


def test_date_that_does_not_parse_goes_with_either_option(profile: Callable[..., Profile], tmp_path: Path):
    """A name in a date's place is no date that is retained."""
    for option in ("retain_full_dates", "shift_dates"):
        whole = encoded(reading()[0]).replace(b"20260131", b"Zqwertyu")
        deidentify(whole, tmp_path / f"{option}.dcm", profile(option))
        assert b"Zqwertyu" not in (tmp_path / f"{option}.dcm").read_bytes()
