"""A study's objects still name one another, and those of two recipients or two sites cannot be joined."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from planted import encoded, reading
from pydicom.dataset import Dataset

from dicomflow.deidentify.copying import deidentify
from dicomflow.deidentify.profile import Profile

_STANDARD = "1.2.840.10008."
_OURS = "2.25.204366271390529563721849561930487216531"  # the implementation class


def _copies(folder: Path, bound: Profile, *, only: slice = slice(None)) -> list[Dataset]:
    folder.mkdir()
    for number, made in list(enumerate(reading()))[only]:
        deidentify(encoded(made), folder / f"{number}.dcm", bound)
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def _uids(data_set: Dataset) -> Iterator[str]:
    for element in data_set.iterall():
        if element.VR == "UI" and element.value:
            yield from [element.value] if isinstance(element.value, str) else element.value


def _paths(data_set: Dataset, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the place of each UID, so that an original and its copy can be read side by side."""
    for element in data_set:
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _paths(item, (*path, int(element.tag), number))
        elif element.VR == "UI" and element.value:
            yield (*path, int(element.tag)), str(element.value)


def test_references_lead_where_they_led(profile: Callable[..., Profile], tmp_path: Path):
    """One UID is one new UID in images, structure set, segmentation and report, and two are never one."""
    bound = profile("clean_structured_content")
    copies = _copies(tmp_path / "copies", bound)
    mapped: dict[str, str] = {}
    for original, copy in zip(reading(), copies, strict=True):
        theirs = dict(_paths(original))
        for place, uid in _paths(copy):
            if place in theirs and original.Modality != "SR":
                assert mapped.setdefault(theirs[place], uid) == uid
    images = {copy.SOPInstanceUID for copy in copies if copy.Modality == "CT"}
    drawn, segmented, said = copies[3:]
    frames = segmented.PerFrameFunctionalGroupsSequence
    named = {
        "drawn": {
            item.ReferencedSOPInstanceUID
            for item in drawn.ReferencedFrameOfReferenceSequence[0]
            .RTReferencedStudySequence[0]
            .RTReferencedSeriesSequence[0]
            .ContourImageSequence
        },
        "segmented": {
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for frame in frames
        },
        "listed": {
            item.ReferencedSOPInstanceUID for item in segmented.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        },
    }
    assert named == {"drawn": images, "segmented": images, "listed": images}
    evidence = said.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == copies[0].StudyInstanceUID
    assert evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID in images
    changed = {old: new for old, new in mapped.items() if not old.startswith(_STANDARD)}
    assert len(set(changed.values())) == len(changed) > 10
    assert not set(changed) & set(changed.values())


def test_no_uid_of_the_originals_is_left(profile: Callable[..., Profile], tmp_path: Path):
    """Only the standard's own UIDs are the same afterwards, file meta information included."""
    before = {uid for each in reading() for uid in _uids(each)}
    copies = _copies(tmp_path / "copies", profile("clean_structured_content"))
    after = {uid for copy in copies for uid in (*_uids(copy), *_uids(copy.file_meta))}
    assert {uid for uid in before & after if not uid.startswith(_STANDARD)} == set()
    assert {uid for uid in after if not uid.startswith((_STANDARD, "2.25."))} == set()
    assert {copy.file_meta.ImplementationClassUID for copy in copies} == {_OURS}
    assert not any("SourceApplicationEntityTitle" in copy.file_meta for copy in copies)


def test_parts_of_a_study_map_alike_in_other_runs(profile: Callable[..., Profile], tmp_path: Path):
    """What comes next year joins what is there."""
    whole = _copies(tmp_path / "whole", profile("clean_structured_content"))
    late = _copies(tmp_path / "late", profile("clean_structured_content"), only=slice(3, None))
    assert [copy.SOPInstanceUID for copy in whole[3:]] == [copy.SOPInstanceUID for copy in late]
    assert {copy.PatientID for copy in whole} == {copy.PatientID for copy in late}


@pytest.mark.parametrize("other", [{"domain": "registry"}, {"secret": "another secret of a site, that is as long"}])
def test_two_recipients_cannot_join_their_sets(other: dict[str, str], profile: Callable[..., Profile], tmp_path: Path):
    """Another recipient, or another site, has other UIDs and other pseudonyms throughout."""
    ours = _copies(tmp_path / "ours", profile("clean_structured_content"))
    theirs = _copies(tmp_path / "theirs", profile("clean_structured_content", **other))
    for first, second in zip(ours, theirs, strict=True):
        shared = set(_uids(first)) & set(_uids(second))
        assert {uid for uid in shared if not uid.startswith(_STANDARD)} == set()
        assert first.PatientID != second.PatientID


def test_retained_uids_are_the_originals(profile: Callable[..., Profile], tmp_path: Path):
    """With the option every UID stays, and the codes say so."""
    copies = _copies(tmp_path / "copies", profile("clean_structured_content", "retain_uids"))
    for original, copy in zip(reading(), copies, strict=True):
        assert copy.SOPInstanceUID == original.SOPInstanceUID
        assert set(_uids(copy)) <= set(_uids(original)) | {uid for uid in _uids(copy) if uid.startswith(_STANDARD)}
    assert "113110" in {item.CodeValue for item in copies[0].DeidentificationMethodCodeSequence}


def test_patients_without_an_id_are_no_patient_in_common(profile: Callable[..., Profile], tmp_path: Path):
    """Without a Patient ID each study is a patient of its own, and two issuers' equal IDs are two patients."""
    found = set()
    for number, (identifier, issuer) in enumerate([("", ""), ("", ""), ("7", "A"), ("7", "B"), ("7", "A")]):
        made = reading(number)[0]
        made.PatientID, made.IssuerOfPatientID = identifier, issuer
        deidentify(encoded(made), tmp_path / f"{number}.dcm", profile())
        found.add(pydicom.dcmread(tmp_path / f"{number}.dcm").PatientID)
    assert len(found) == 4
    assert all(len(each) == 16 for each in found)
