"""Pulls from sources that lie, stop, refuse and change, to an edge that runs: the report says what is there."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset
from waiting import wait_for

from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.pull import look
from dicomflow.edge.pull.jobs import Job, JobState, Study, StudyState
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.report import summary
from dicomflow.edge.sources import Hours

# pynetdicom leaves sockets to the collector when a peer breaks off.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

_Ct = Callable[..., list[Dataset]]


def _only(site: Any, job: Job) -> Study:
    (study,) = site.jobs.studies(job.id)
    return study


def _uids(images: list[Dataset]) -> list[str]:
    return sorted(image.SOPInstanceUID for image in images)


@pytest.mark.parametrize("options", [{}, {"move_destination": None}], ids=["C-MOVE", "C-GET"])
def test_what_is_missing_is_fetched_and_the_second_run_asks_for_nothing(
    site_of: Any, source_of: Any, ct: _Ct, options: dict
):
    """Both ways of retrieval; what came is told as stored when the store has it."""
    images = ct(series=2, slices=3) + ct()
    source = source_of(images)
    site = site_of(source, **options)
    job = site.pull()
    assert (JobState.DONE, "", True) == (job.state, job.cut, summary(site.jobs, job)["is_whole"])
    assert _uids(images) == sorted(source.sent)
    source.moves.clear()
    wait_for(lambda: summary(site.jobs, site.pull(is_dry=True))["stored"] == 7)
    again = summary(site.jobs, site.pull())
    assert (7, 7, 0, []) == (again["source"], again["here"], again["missing"], source.moves)


def test_success_with_nothing_sent_is_missing(site_of: Any, source_of: Any, ct: _Ct):
    """0000H and a study that did not come: it is missing, and told with what the source said."""
    source = source_of(ct(slices=3))
    source.is_lazy = True
    site = site_of(source)
    job = site.pull()
    study = _only(site, job)
    assert (StudyState.INCOMPLETE, 3, 0, 3) == (study.state, study.source, study.here, study.missing)
    assert "the source answered success, and they did not come" == study.reason
    assert not summary(site.jobs, job)["is_whole"]
    source.is_lazy = False
    assert summary(site.jobs, site.pull())["is_whole"]


def test_one_in_ten_dropped_is_named_by_uid(site_of: Any, source_of: Any, ct: _Ct):
    """What did not come is named; a second run, when the source has mended, fetches that alone."""
    images = ct(slices=20)
    source = source_of(images)
    source.dropped = {image.SOPInstanceUID for image in images[::10]}
    site = site_of(source)
    job = site.pull()
    study = _only(site, job)
    assert (18, 2) == (study.here, study.missing)
    assert sorted(source.dropped) == [each.uid for each in site.jobs.missing(job.id, study.uid)]
    source.sent.clear()
    source.dropped, lacking = set(), source.dropped
    assert summary(site.jobs, site.pull())["is_whole"]
    assert lacking == source.sent.keys()


def test_success_before_the_last_store_is_waited_for(site_of: Any, source_of: Any, ct: _Ct):
    """An asynchronous source answers at once, and sends on: nothing is asked for twice."""
    images = ct(slices=4)
    source = source_of(images)
    site = site_of(source, quiet_seconds=2.0)
    from dicomflow.send.association import SendAssociation

    def later(event: Any) -> Any:
        def send() -> None:
            from dicomflow.dicom.part10 import decode_file_meta
            from dicomflow.send.files import StoredFile

            paths = site.settings.spool.dir.parent / f"late-{images[0].SOPInstanceUID}"
            paths.mkdir()
            pairs = [(images[0].SOPClassUID, "1.2.840.10008.1.2.1")]
            address = ("127.0.0.1", site.settings.dimse.port)
            with SendAssociation(
                *address, pairs, calling_ae_title="ANOTHER", called_ae_title="EDGE", timeout_seconds=60
            ) as association:
                for number, image in enumerate(images):
                    path = paths / f"{number}.dcm"
                    image.save_as(path, enforce_file_format=True)
                    meta = decode_file_meta(path.read_bytes()[:2048])
                    association.store(StoredFile(path, meta, path.stat().st_size))

        source.moves.append(event.identifier)
        threading.Timer(0.5, send).start()
        yield ("127.0.0.1", site.settings.dimse.port)
        yield 0

    source.replace_move(later)
    assert summary(site.jobs, site.pull())["is_whole"]
    assert 1 == len(source.moves)


@pytest.mark.parametrize("status", [0xC000, 0xA702])
def test_refused_lists_are_fetched_in_smaller_ones(site_of: Any, source_of: Any, ct: _Ct, status: int):
    """A source that fails whatever holds more than one image gives each by itself."""
    source = source_of(ct(slices=5))
    source.refuses = status
    site = site_of(source)
    assert summary(site.jobs, site.pull())["is_whole"]
    assert 5 == len(source.sent)


def test_unknown_destination_names_the_setting_and_ends_the_job(site_of: Any, source_of: Any, ct: _Ct):
    """A801H is the same for each study: one is asked for, and the operator is told what to change."""
    source = source_of(ct(3))
    site = site_of(source, move_destination="NOBODY", associations=1)
    job = site.pull()
    assert JobState.RUNNING is job.state
    assert "A801H (the move destination is unknown to it)" in site.interrupted
    assert "sources.PACS1.move_destination" in site.interrupted
    assert not summary(site.jobs, job)["is_whole"]


def test_get_without_a_role_is_told(site_of: Any, source_of: Any, ct: _Ct):
    """No image can come; the study is told as unread, with why."""
    source = source_of(ct(), roles=False)
    site = site_of(source, move_destination=None)
    job = site.pull()
    study = _only(site, job)
    assert StudyState.UNREAD is study.state
    assert "role of SCP" in study.reason
    assert not summary(site.jobs, job)["is_whole"]


def test_image_level_refused_gives_counted_not_complete(site_of: Any, source_of: Any, ct: _Ct):
    """Numbers agree, and no more is known of it: it is never called complete."""
    source = source_of(ct(slices=3))
    source.hidden_levels = {"IMAGE"}
    site = site_of(source, quiet_seconds=3600)  # all that was sent has come: nothing more is waited for
    study = _only(site, site.pull())
    assert (StudyState.COUNTED, 3, 3, 0) == (study.state, study.source, study.here, study.missing)
    assert "it tells no images of a series" == study.reason


def test_missing_counts_are_unknown_not_zero(site_of: Any, source_of: Any, ct: _Ct):
    """A source that leaves out its numbers is read all the same; one that tells no series either is unread."""
    source = source_of(ct(slices=2))
    source.changes = dict.fromkeys(("NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"))
    site = site_of(source)
    study = _only(site, site.pull())
    assert (StudyState.COMPLETE, 2) == (study.state, study.here)
    source.hidden_levels = {"SERIES"}
    job = site.pull(is_dry=True)
    assert StudyState.UNREAD is _only(site, job).state
    assert not summary(site.jobs, job)["is_whole"]


def test_series_that_may_be_cut_is_fetched_whole(
    site_of: Any, source_of: Any, ct: _Ct, monkeypatch: pytest.MonkeyPatch
):
    """Images without numbers that prove it, and no counts: what is told is fetched, and the whole study asked for."""
    monkeypatch.setattr(look, "_LEAST_LIMIT", 5)
    source = source_of(ct(slices=6, InstanceNumber="1"))
    source.changes = dict.fromkeys(("NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"))
    site = site_of(source)
    assert StudyState.UNREAD is _only(site, site.pull(is_dry=True)).state
    study = _only(site, site.pull())
    assert (StudyState.COUNTED, 6, 6, 0) == (study.state, study.source, study.here, study.missing)
    assert "may be as many as it ever does" in study.reason
    source.most = 5
    found = _only(site, site.pull())
    assert (StudyState.UNREAD, 1) == (found.state, found.unknown)


def test_fewer_images_than_the_source_counts_are_missing(site_of: Any, source_of: Any, ct: _Ct):
    """It tells two of three: whichever the third is, the study is not complete."""
    source = source_of(ct(slices=2))
    source.changes = {"NumberOfSeriesRelatedInstances": 3}
    site = site_of(source)
    job = site.pull()
    study = _only(site, job)
    assert (StudyState.COUNTED, 3, 2, 1) == (study.state, study.source, study.here, study.missing)
    assert not summary(site.jobs, job)["is_whole"]


def test_series_that_the_source_hides_keeps_its_study_from_being_complete(site_of: Any, source_of: Any, ct: _Ct):
    """It counts three images for the study, and its series have two: one may be in a series that it does not tell."""
    source = source_of(ct(slices=2))
    source.changes = {"NumberOfStudyRelatedInstances": 3}
    site = site_of(source)
    job = site.pull()
    study = _only(site, job)
    assert (StudyState.COUNTED, 3, 2, 1) == (study.state, study.source, study.here, study.missing)
    assert "it tells 2 images of a study that has 3" == study.reason
    assert not summary(site.jobs, job)["is_whole"]


def test_image_without_usable_uid_keeps_its_study_from_being_complete(site_of: Any, source_of: Any, ct: _Ct):
    """It cannot be compared, so it may be missing."""
    images = ct(slices=2)
    source = source_of(images)
    site = site_of(source)
    assert summary(site.jobs, site.pull())["is_whole"]
    source.changes = {"SOPInstanceUID": " "}
    job = site.pull()
    study = _only(site, job)
    assert (StudyState.INCOMPLETE, "2 answers of the source have no usable UID") == (study.state, study.reason)
    assert not summary(site.jobs, job)["is_whole"]


def test_images_here_that_the_source_does_not_know_are_told(site_of: Any, source_of: Any, ct: _Ct):
    """They are deleted there, or were never there; nothing of it is missing."""
    images = ct(slices=3)
    source = source_of(images)
    site = site_of(source)
    assert summary(site.jobs, site.pull())["is_whole"]
    source.images = images[:1]
    study = _only(site, site.pull())
    assert (StudyState.COMPLETE, 1, 3, 2) == (study.state, study.source, study.here, study.unknown)


def test_object_that_the_store_lost_is_missing_again(site_of: Any, source_of: Any, ct: _Ct, edge: Any):
    """The ledger says stored; the store that is configured now says what is there."""
    images = ct(slices=2)
    site = site_of(source_of(images))
    wait_for(lambda: summary(site.jobs, site.pull())["stored"] == 2)
    (path,) = edge.objects.rglob(f"{images[0].SOPInstanceUID}.dcm")
    path.unlink()
    assert 1 == _only(site, site.pull(is_dry=True)).missing
    assert summary(site.jobs, site.pull())["is_whole"]


def test_pulled_studies_stay_in_the_ledger(site_of: Any, source_of: Any, ct: _Ct, edge: Any, tmp_path: Any):
    """What is compared night after night would otherwise be fetched each year anew."""
    images = ct()
    site = site_of(source_of(images))
    wait_for(lambda: summary(site.jobs, site.pull())["stored"] == 1)
    import shutil
    from datetime import UTC, datetime, timedelta

    for name in (LEDGER_FILE, f"{LEDGER_FILE}-wal"):
        if (edge.spool.root / name).exists():
            shutil.copy(edge.spool.root / name, tmp_path / name)
    ledger = Ledger(tmp_path / LEDGER_FILE)
    ledger.forget_before(datetime.now(UTC) + timedelta(days=1), 0)
    assert 1 == len(ledger.of_study(images[0].StudyInstanceUID))
    ledger.close()


def test_modality_that_no_series_has_leaves_the_study_out(site_of: Any, source_of: Any, ct: _Ct):
    """The source ignores the key at the level of studies; its series tell."""
    images = ct(2)
    source = source_of(images)
    source.ignored, source.changes = {"Modality"}, {"ModalitiesInStudy": None}
    images[1].Modality = "MR"
    site = site_of(source)
    assert images[1].StudyInstanceUID == _only(site, site.pull(Question(modality="MR"))).uid
    assert [images[1].SOPInstanceUID] == list(source.sent)


def test_priors_are_the_newest_of_a_patient(site_of: Any, source_of: Any, ct: _Ct):
    """As many as are asked for, and no other patient's."""
    images = ct(4)
    for number, image in enumerate(images):
        image.PatientID, image.StudyDate = "P1" if number else "P2", f"2026010{number + 1}"
    source = source_of(images)
    site = site_of(source)
    site.pull(Question(patient_id="P1", priors=2))
    assert _uids(images[2:]) == sorted(source.sent)


def test_pause_stops_and_resume_goes_on(site_of: Any, source_of: Any, ct: _Ct):
    """At the next image, with what came kept; the job goes on where it was."""
    images = ct(slices=30)
    source = source_of(images)
    source.late_seconds = 0.05
    site = site_of(source)
    runs = threading.Thread(target=site.pull)
    runs.start()
    wait_for(lambda: len(source.sent) > 3)
    site.jobs.pause("PACS1", is_paused=True)
    runs.join(60)
    sent = len(source.sent)
    assert sent < 30
    assert "--resume" in site.interrupted or "stopped" in site.interrupted
    (job,) = site.jobs.unfinished("PACS1", JobState.RUNNING)
    assert StudyState.FETCHING is _only(site, job).state
    site.jobs.pause("PACS1", is_paused=False)
    assert summary(site.jobs, site.pull())["is_whole"]
    assert job.id == site.pull(is_dry=True).id - 1


def test_hours_are_waited_for(site_of: Any, source_of: Any, ct: _Ct):
    """Outside of them nothing is fetched, and an operator is told what is waited for."""
    source = source_of(ct())
    site = site_of(source, hours=(Hours(days=frozenset({0}), from_hour=0, to_hour=1),))
    runs = threading.Thread(target=site.pull)
    runs.start()
    wait_for(lambda: "it waits for the hours of the source" in site.told or not runs.is_alive())
    site.stopping.set()
    runs.join(60)
    assert [] == source.moves or "it waits for the hours of the source" not in site.told


def test_rate_is_kept(site_of: Any, source_of: Any, ct: _Ct):
    """What came is paid for in time, in lists short enough for that."""
    images = ct(slices=6)
    source = source_of(images)
    site = site_of(source, max_bytes_per_second=20_000, associations=1)
    import time

    started = time.monotonic()
    assert summary(site.jobs, site.pull())["is_whole"]
    size = 6 * 1500
    assert time.monotonic() - started > size / 20_000
    assert 6 == len(source.moves)


def test_source_that_is_gone_interrupts_and_a_second_run_goes_on(site_of: Any, source_of: Any, ct: _Ct):
    """Nothing is called complete or missing that was not looked at."""
    images = ct(2)
    source = source_of(images)
    site = site_of(source)
    port = source.port
    source.close()
    job = site.pull()
    assert (JobState.RUNNING, False) == (job.state, job.is_surveyed)
    assert f"port {port}" in site.interrupted
    assert not summary(site.jobs, job)["is_whole"]
    again = source_of(images)
    at = site.settings.sources["PACS1"].model_copy(update={"port": again.port})
    site.settings = site.settings.model_copy(update={"sources": {"PACS1": at}})
    again.destinations["EDGE"] = ("127.0.0.1", site.settings.dimse.port)
    done = site.pull()
    assert (job.id, JobState.DONE) == (done.id, done.state)
    assert summary(site.jobs, done)["is_whole"]
