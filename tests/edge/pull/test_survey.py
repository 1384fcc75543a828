"""Surveys: limits of answers are seen, keys that are ignored do no harm, and a failure is no empty answer."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sources import Source
from waiting import WAIT_SECONDS

from dicomflow.dicom.uids import STUDY_ROOT_FIND
from dicomflow.edge.pull.jobs import Study, StudyState
from dicomflow.edge.pull.look import Answers
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.survey import Survey
from dicomflow.errors import TransientError
from dicomflow.network.querying import QueryAssociation
from dicomflow.network.requesting import propose

# pynetdicom leaves sockets to the collector when a peer breaks off.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

TODAY = date(2026, 11, 30)
_ASKED = ("SOPClassUID", "StudyTime", "Modality", "PatientID", "AccessionNumber", "SeriesInstanceUID", "InstanceNumber")


class Asked:
    """What a survey found."""

    def __init__(self, source: Source, question: Question) -> None:
        self.studies: dict[str, Study] = {}
        association = QueryAssociation(
            *("127.0.0.1", source.port, propose([(STUDY_ROOT_FIND, ("1.2.840.10008.1.2",))])),
            calling_ae_title="EDGE",
            called_ae_title="SOURCE",
            timeout_seconds=WAIT_SECONDS,
        )
        with association:
            survey = Survey(association, question, self._take, answers=Answers(), today=TODAY)
            survey.run()
        self.cut, self.notes = survey.cut, survey.notes

    def _take(self, study: Study) -> None:
        self.studies[study.uid] = study


@pytest.fixture
def study_images(ct: Callable[..., list[Dataset]]) -> Callable[..., list[Dataset]]:
    """Give one image of each of some studies, a study a day."""

    def _images(count: int, **values: Any) -> list[Dataset]:
        (image,) = ct(1)
        images = []
        for number in range(count):
            one = Dataset()  # no deep copy: nothing but these is asked for, and hundreds are made
            for keyword in _ASKED:
                setattr(one, keyword, image.get(keyword))
            one.StudyInstanceUID = f"{image.StudyInstanceUID}.{number}"
            one.SOPInstanceUID = f"{image.SOPInstanceUID}.{number}"
            one.StudyDate = (date(2026, 1, 1) + timedelta(days=number)).strftime("%Y%m%d")
            for keyword, value in values.items():
                setattr(one, keyword, value)
            images.append(one)
        return images

    return _images


def _uids(images: list[Dataset]) -> set[str]:
    return {image.StudyInstanceUID for image in images}


@pytest.mark.parametrize("cut_status", [0x0000, 0xFE00])
def test_source_that_cuts_is_asked_in_halves(study_images: Any, source_of: Any, cut_status: int):
    """50 answers of 54, whatever it says at their end: all are found, and that undated ones may be unseen is told."""
    images = study_images(54)
    source = source_of(images)
    source.most, source.cut_status = 50, cut_status
    asked = Asked(source, Question())
    assert _uids(images) == asked.studies.keys()
    assert "without a Study Date may be unseen" in asked.cut
    dated = Asked(source, Question(study_date="20260101-20261231"))
    assert _uids(images) == dated.studies.keys()
    assert "" == dated.cut


def test_limit_of_57_is_found(study_images: Any, source_of: Any):
    """A number that no list has: no answer is believed that is as long as the longest, before it was asked in parts."""
    images = study_images(150)
    source = source_of(images)
    source.most = 57
    assert _uids(images) == Asked(source, Question(study_date="20260101-20260530")).studies.keys()
    source.most = 0
    source.questions.clear()
    found = Asked(source, Question(study_date="20260101-20260530"))
    assert (_uids(images), "", 3) == (found.studies.keys(), found.cut, len(source.questions))


def test_source_that_ignores_times_is_not_asked_for_each_minute(study_images: Any, source_of: Any):
    """It would answer the same 1,440 times."""
    source = source_of(study_images(60, StudyDate="20260131", StudyTime="101500"))
    source.most, source.ignored = 50, {"StudyTime"}
    asked = Asked(source, Question(study_date="20260131"))
    assert 50 == len(asked.studies)
    assert len(source.questions) < 30
    assert "may be as many as it ever gives" in asked.cut


def test_source_that_refuses_ranges_is_not_asked_for_each_day(study_images: Any, source_of: Any):
    """It would refuse 34,000 of them; what it gave is kept, and it is told what to do."""
    source = source_of(study_images(60))
    source.most, source.refuses_ranges = 50, True
    asked = Asked(source, Question())
    assert 50 <= len(asked.studies)
    assert len(source.questions) < 100
    assert "ask for one day at a time" in asked.cut


def test_limit_on_one_minute_is_reported_as_possibly_cut(study_images: Any, source_of: Any):
    """Nothing is left to halve: what is found is kept, and it is told that there may be more."""
    images = study_images(60, StudyDate="20260131", StudyTime="101500")
    source = source_of(images)
    source.most, source.cut_status = 50, 0xFE00
    asked = Asked(source, Question(study_date="20260131"))
    assert 50 == len(asked.studies)
    assert "101500" in asked.cut
    assert "FE00H (cancelled)" in asked.cut


def test_undated_studies_are_found_by_patient_where_the_source_cuts(study_images: Any, source_of: Any):
    """`--full`: no date finds them."""
    images = study_images(51) + study_images(3, StudyDate="", PatientID="Z1")
    source = source_of(images)
    source.most = 50
    assert "may be unseen" in Asked(source, Question()).cut
    for number, image in enumerate(source.images):
        image.PatientID = image.PatientID if image.PatientID == "Z1" else f"{number % 10}X"
    asked = Asked(source, Question(is_full=True))
    assert _uids(images) == asked.studies.keys()
    assert "" == asked.cut
    assert any("neither a Study Date nor a Patient ID" in note for note in asked.notes)


def test_study_without_date_is_named_as_unseen_by_date(study_images: Any, source_of: Any):
    """A dated survey says what it cannot see; one without dates sees it."""
    images = study_images(2) + study_images(1, StudyDate="")
    source = source_of(images)
    dated = Asked(source, Question(study_date="20260101-20261231"))
    assert 2 == len(dated.studies)
    assert ["studies without a Study Date are found by no date, and are not looked at"] == dated.notes
    assert _uids(images) == Asked(source, Question()).studies.keys()


def test_ignored_keys_do_not_list_other_studies(study_images: Any, source_of: Any):
    """Date, modality and patient: what was not asked for is left out, and that keys are ignored is told."""
    images = study_images(4)
    images[0].Modality, images[1].PatientID = "MR", "OTHER"
    source = source_of(images)
    source.ignored = {"Modality", "StudyDate", "PatientID"}
    patient = images[2].PatientID
    asked = Asked(source, Question(study_date="20260101-20260103", modality="CT", patient_id=patient))
    assert {images[2].StudyInstanceUID} == asked.studies.keys()
    assert any("ignores some keys" in note for note in asked.notes)


def test_modality_key_without_answers_is_asked_again_without_it(study_images: Any, source_of: Any):
    """Some servers know Modalities in Study of no study; the series tell then."""
    images = study_images(2)
    source = source_of(images)
    source.changes = {"ModalitiesInStudy": None}
    for image in images:
        image.Modality = "CT "
    asked = Asked(source, Question(modality="CT"))
    assert _uids(images) == asked.studies.keys()
    assert ["CT", None] == [each.get("ModalitiesInStudy") or None for each in source.questions]


def test_two_answers_for_one_study_are_one_study(study_images: Any, source_of: Any):
    """They are not counted twice, and are no limit."""
    images = study_images(3)
    source = source_of(images)
    source.repeats = 2
    assert _uids(images) == Asked(source, Question()).studies.keys()


@pytest.mark.parametrize("uid", [None, "", "no uid", "1.2.3/../.."])
def test_answer_without_a_usable_uid_is_told(study_images: Any, source_of: Any, uid: str | None):
    """A study that cannot be asked for may be missing."""
    source = source_of(study_images(2))
    source.changes = {"StudyInstanceUID": uid}
    asked = Asked(source, Question())
    assert {} == asked.studies
    assert "2 answers had no usable Study Instance UID" == asked.cut


def test_failing_source_is_no_empty_archive(study_images: Any, source_of: Any):
    """Whatever is asked fails: the survey does."""
    source = source_of(study_images(1))
    source.fails_find = 0xC000
    with pytest.raises(TransientError, match=r"C000H \(cannot understand or process\)"):
        Asked(source, Question())
    with pytest.raises(TransientError, match="C000H"):
        Asked(source, Question(uids=("1.2.3",)))


def test_listed_uid_that_the_source_does_not_know_is_absent(study_images: Any, source_of: Any):
    """Each is asked for by itself, and what is unknown stands in the report."""
    images = study_images(2)
    asked = Asked(source_of(images), Question(uids=(images[0].StudyInstanceUID, "1.2.3")))
    assert {images[0].StudyInstanceUID: StudyState.LISTED, "1.2.3": StudyState.ABSENT} == {
        uid: study.state for uid, study in asked.studies.items()
    }


def test_odd_values_go_no_further_and_hide_no_study(study_images: Any, source_of: Any):
    """Control characters, formulas and names in the place of a modality or a date are left out of the report."""
    images = study_images(1)
    source = source_of(images)
    source.changes = {"ModalitiesInStudy": "=cmd|'x'\x1b[31m", "StudyTime": "Doe^Jane"}
    (study,) = Asked(source, Question()).studies.values()
    assert ("", "") == (study.modalities, study.study_time)
    source.changes = {"PatientID": images[0].PatientID.lower()}
    assert _uids(images) == Asked(source, Question(patient_id=images[0].PatientID)).studies.keys()
