"""An invented hospital in a catalog and a store: studies with images, imports in every state, edges, problems.

All people are invented. Rows come from the functions that write them in a deployment; only what the service answers is
made up here. The same seed gives the same bytes.
"""

import hashlib
import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
from obstore.store import LocalStore
from phantoms import chest_slice, disc, grid, head_slice, noise
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from sqlalchemy import Engine

from dicomflow.bucket.compared import ComparedDay, ComparedSource, LackingStudy
from dicomflow.bucket.heartbeat import Heartbeat, SeenPeer
from dicomflow.bucket.keys import heartbeat_key, instance_key, manifest_key
from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.catalog import imports, jobs, queue
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.outcomes import Outcome, StoredImageSet, outcomes_of_series, record_image_sets, record_outcomes
from dicomflow.catalog.states import JobState, SeriesState
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects
from dicomflow.pipeline.plan import plan_delivery

CT, MR, CR, US, SR = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.88.11",
)
EXPLICIT = "1.2.840.10008.1.2.1"
TARGET = jobs.JobTarget("0123456789abcdef0123456789abcdef", "images")
REASON = "PatientID differs from the primary image set"
FAMILIES = [
    "Abel",
    "Brandt",
    "Castell",
    "Dahl",
    "Ekström",
    "Fabre",
    "Grönlund",
    "Hartog",
    "Ivanova",
    "Jansen",
    "Kovač",
    "Lindqvist",
    "Moreau",
    "Nakamura",
]
GIVEN = (
    "Ada",
    "Bruno",
    "Clara",
    "David",
    "Elif",
    "Farid",
    "Greta",
    "Henrik",
    "Ines",
    "Jonas",
    "Katya",
)


@dataclass
class Hospital:
    """What was built: the catalog, the store, the time, and names that tests look for."""

    engine: Engine
    store: LocalStore
    now: datetime
    chest: str = ""
    chest_series: str = ""
    report_series: str = ""
    failed_series: str = ""
    partial_series: str = ""
    lacking_day: str = ""
    uids: random.Random = field(default_factory=lambda: random.Random(7))

    def uid(self) -> str:
        """Return an unused UID (PS3.5 B.2)."""
        return f"2.25.{self.uids.getrandbits(120)}"


def build_hospital(
    engine: Engine, store: LocalStore, now: datetime, *, slices: int = 6, side: int = 96, more: int = 0
) -> Hospital:
    """Fill an empty catalog and store; `more` adds studies of one small image."""
    hospital = Hospital(engine, store, now)
    hospital.chest = hospital.uid()
    hospital.lacking_day = f"{now - timedelta(days=3):%Y-%m-%d}"
    chest = _patient(hospital, "Lindqvist^Ada Maria", "HV-20417", "19610314", "F")
    arterial = _series(hospital, chest, "CT", 1, "Chest, lung", hospital.chest, "CT chest", 3)
    images = [_chest(hospital, arterial, number, slices, side) for number in range(1, slices + 1)]
    hospital.chest_series = str(images[0].SeriesInstanceUID)
    soft = _series(hospital, chest, "CT", 2, "Chest, soft tissue", hospital.chest, "CT chest", 3)
    images += [_chest(hospital, soft, number, slices // 2, side) for number in range(1, slices // 2 + 1)]
    report = _series(hospital, chest, "SR", 99, "Radiation dose report", hospital.chest, "CT chest", 3)
    images.append(_report(hospital, report))
    hospital.report_series = str(images[-1].SeriesInstanceUID)
    _deliver(hospital, "harbour", "CT_EAST", "10.20.4.11", images, minutes=34, state=SeriesState.COMPLETED)

    head = _patient(hospital, "Nakamura^Jonas=Накамура^Йонас", "HV-19880", "19880902", "M")
    study = hospital.uid()
    t1 = _series(hospital, head, "MR", 1, "T1 axial", study, "MR head", 2)
    images = [_head(hospital, t1, number, slices, side) for number in range(1, slices + 1)]
    hospital.partial_series = str(images[0].SeriesInstanceUID)
    _deliver(hospital, "harbour", "MR_1", "10.20.4.30", images, minutes=22, state=SeriesState.PARTIAL)

    wrist = _patient(hospital, "Dahl^Noor", "HV-22101", "20140519", "O")
    study = hospital.uid()
    view = _series(hospital, wrist, "CR", 1, "Wrist, two views", study, "Wrist", 1)
    images = [_wrist(hospital, view, number, side) for number in (1, 2)]
    hospital.failed_series = str(images[0].SeriesInstanceUID)
    _deliver(hospital, "hill", "CR_ER", "10.30.1.7", images, minutes=14, state=SeriesState.FAILED)

    thyroid = _patient(hospital, "Moreau^Clara", "HV-20990", "19750728", "F")
    study = hospital.uid()
    clip = _clip(hospital, _series(hospital, thyroid, "US", 1, "Left lobe", study, "Thyroid", 1), side)
    _deliver(
        hospital,
        "hill",
        "US_ROOM3",
        "10.30.1.19",
        [clip],
        minutes=6,
        state=SeriesState.IN_PROGRESS,
    )

    for number in range(more):
        name = f"{FAMILIES[number % len(FAMILIES)]}^{GIVEN[(number * 5 + number // 11) % len(GIVEN)]}"
        someone = _patient(
            hospital, name, f"HV-{18000 + number * 37}", f"19{40 + number % 55}0{1 + number % 9}12", "FM"[number % 2]
        )
        days = 2 + number * 2 // 3
        plain = _series(hospital, someone, "CR", 1, "Chest PA", hospital.uid(), "Chest", days)
        _deliver(
            hospital,
            ("harbour", "hill")[number % 2],
            ("CR_ER", "CR_WARD")[number % 2],
            "10.30.1.7",
            [_wrist(hospital, plain, 1, 48)],
            minutes=58 - number % 50,
            state=(SeriesState.COMPLETED, SeriesState.COMPLETED, SeriesState.QUEUED)[number % 3],
        )
    _problems(hospital, images[0])
    _heartbeats(hospital)
    _audit(hospital)
    return hospital


def _patient(hospital: Hospital, name: str, patient_id: str, born: str, sex: str) -> Dataset:
    patient = Dataset()
    patient.SpecificCharacterSet = "ISO_IR 192"
    patient.PatientName = name
    patient.PatientID = patient_id
    patient.IssuerOfPatientID = "HARBOUR VIEW"
    patient.PatientBirthDate = born
    patient.PatientSex = sex
    return patient


def _series(
    hospital: Hospital, patient: Dataset, modality: str, number: int, text: str, study: str, study_text: str, days: int
) -> Dataset:
    series = Dataset()
    series.update(patient)
    day = hospital.now - timedelta(days=days - 1)
    series.StudyInstanceUID = study
    series.StudyDate = series.SeriesDate = day.strftime("%Y%m%d")
    series.StudyTime = f"{8 + days % 9:02}{(days * 13) % 60:02}00"
    series.StudyDescription = study_text
    series.AccessionNumber = f"A{int(hashlib.sha256(study.encode()).hexdigest()[:6], 16) % 10**6:06}"
    series.ReferringPhysicianName = "Castell^Bruno"
    series.SeriesInstanceUID = hospital.uid()
    series.SeriesNumber = number
    series.SeriesDescription = text
    series.Modality = modality
    series.InstitutionName = "Harbour View"
    return series


def _image(hospital: Hospital, series: Dataset, sop_class: str, number: int, pixels: Any, **attributes: Any) -> Dataset:
    image = Dataset()
    image.update(series)
    image.SOPClassUID = sop_class
    image.SOPInstanceUID = hospital.uid()
    image.InstanceNumber = number
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = sop_class
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    if pixels is not None:
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.Rows, image.Columns = pixels.shape[-2:]
        image.BitsAllocated = image.BitsStored = 8 * pixels.dtype.itemsize
        image.HighBit = image.BitsStored - 1
        image.PixelRepresentation = int(pixels.dtype.kind == "i")
        image.add_new("PixelData", "OW" if image.BitsAllocated > 8 else "OB", pixels.tobytes())
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    return image


def _chest(hospital: Hospital, series: Dataset, number: int, slices: int, side: int) -> Dataset:
    window = (-600, 1500) if series.SeriesNumber == 1 else (40, 400)
    return _image(
        hospital,
        series,
        CT,
        number,
        chest_slice(side, number / (slices + 1), number),
        RescaleIntercept=0,
        RescaleSlope=1,
        WindowCenter=window[0],
        WindowWidth=window[1],
        BodyPartExamined="CHEST",
        PixelSpacing=[360 / side, 360 / side],
        SliceThickness=5,
        ImagePositionPatient=[-180, -180, 5.0 * number],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )


def _head(hospital: Hospital, series: Dataset, number: int, slices: int, side: int) -> Dataset:
    return _image(
        hospital, series, MR, number, head_slice(side, number / (slices + 1), number), BodyPartExamined="HEAD"
    )


def _wrist(hospital: Hospital, series: Dataset, number: int, side: int) -> Dataset:
    y, x = grid(side)
    levels = 900 * (np.abs(x) < 0.5) + sum(
        900 * disc(x, y, a, b, 0.13, 0.2) for a in (-0.2, 0.15) for b in (-0.45, 0.2)
    )
    return _image(
        hospital,
        series,
        CR,
        number,
        (levels + 150 + 40 * noise(side, number)).astype(np.uint16),
        BodyPartExamined="WRIST",
    )


def _clip(hospital: Hospital, series: Dataset, side: int) -> Dataset:
    y, x = grid(side)
    frames = [
        (
            110 * (np.hypot(x, y + 1) < 1.7) * (0.5 + 0.5 * noise(side, n))
            + 60 * disc(x, y, 0.1 + n / 60, 0.1, 0.3, 0.2)
        ).astype(np.uint8)
        for n in range(12)
    ]
    return _image(hospital, series, US, 1, np.stack(frames), NumberOfFrames=12)


def _report(hospital: Hospital, series: Dataset) -> Dataset:
    return _image(hospital, series, SR, 1, None, CompletionFlag="COMPLETE", VerificationFlag="UNVERIFIED")


def encode(dataset: Dataset) -> bytes:
    """Return a Part 10 file."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _deliver(
    hospital: Hospital, edge: str, sender: str, peer: str, images: list[Dataset], *, minutes: float, state: SeriesState
) -> None:
    """Store images and their manifest, index and plan them, and import them as far as `state`."""
    closed = hospital.now - timedelta(minutes=minutes)
    delivery = hospital.uid()[5:13]
    study = str(images[0].StudyInstanceUID)
    series: dict[str, list[Instance]] = {}
    for image in images:
        key = instance_key(edge, delivery, study, str(image.SeriesInstanceUID), str(image.SOPInstanceUID))
        encoded = encode(image)
        hospital.store.put(key, encoded)
        series.setdefault(str(image.SeriesInstanceUID), []).append(
            Instance(
                str(image.SOPInstanceUID),
                str(image.SOPClassUID),
                EXPLICIT,
                key,
                len(encoded),
                hashlib.sha256(encoded).hexdigest(),
                closed.isoformat(),
                "1",
            )
        )
    manifest = Manifest(
        edge,
        delivery,
        closed - timedelta(seconds=20),
        closed,
        (Association(f"{delivery}-1", sender, "DICOMFLOW", peer, "released"),),
        (Study(study, tuple(Series(uid, tuple(found)) for uid, found in series.items())),),
    )
    events = [StoredObjectEvent(str(n), TARGET.bucket, each.key) for n, each in enumerate(manifest.instances())]
    result = index_objects(hospital.engine, hospital.store, events, clock=lambda: closed + timedelta(seconds=8))
    assert (len(events), 0) == (result.indexed, result.problems)
    key = manifest_key(edge, delivery)
    hospital.store.put(key, manifest.to_json())
    plan_delivery(hospital.engine, hospital.store, key, import_enabled=True, now=closed + timedelta(seconds=10))
    if state != SeriesState.QUEUED:
        for uid in series:
            _import(hospital, uid, state, closed + timedelta(seconds=40))


def _import(hospital: Hospital, series_uid: str, state: SeriesState, at: datetime) -> None:
    with hospital.engine.begin() as connection:
        (row,) = imports.find_series(connection, series_uid)
        job = jobs.claim_job(connection, TARGET, row.input_prefix, [row], at, at + timedelta(minutes=5))
        assert job is not None
        job_id = hashlib.sha256(series_uid.encode()).hexdigest()[:32]
        jobs.record_submitted(connection, job, job_id, at, at + timedelta(minutes=5), at)
        if state == SeriesState.IN_PROGRESS:
            return
        objects = outcomes_of_series(connection, row)
        bad = {SeriesState.FAILED: len(objects), SeriesState.PARTIAL: len(objects) // 3}.get(state, 0)
        image_set = job_id[::-1]
        record_outcomes(
            connection,
            job.import_job_id,
            [
                Outcome(each.object_key, row.series_import_id, each.sop_instance_uid, "failed", None, REASON)
                if number < bad
                else Outcome(each.object_key, row.series_import_id, each.sop_instance_uid, "imported", image_set, None)
                for number, each in enumerate(objects)
            ],
        )
        if bad < len(objects):
            found = [StoredImageSet(row.study_instance_uid, series_uid, image_set, 1, is_primary=True)]
            record_image_sets(connection, TARGET.datastore_id, found, at)
        counters = (len(objects), len(objects) - bad, bad, 0)
        jobs.finish_job(connection, job, JobState.COMPLETED, now=at, ended_at=at, counters=counters)
        message = f"{bad} of {len(objects)} instances failed" if bad else None
        imports.finish_series(connection, row.series_import_id, job.import_job_id, state, message, at)


def _problems(hospital: Hospital, image: Dataset) -> None:
    """Store an object that is none, and an instance again with other bytes."""
    broken = instance_key("hill", "5e1f0a", hospital.uid(), hospital.uid(), hospital.uid())
    hospital.store.put(broken, b"\0" * 900)
    again = Dataset()
    again.update(image)
    again.file_meta = image.file_meta
    again.ImageComments = "sent again"
    _deliver(hospital, "hill", "CR_ER", "10.30.1.7", [again], minutes=3, state=SeriesState.QUEUED)
    event = StoredObjectEvent("1", TARGET.bucket, broken)
    index_objects(hospital.engine, hospital.store, [event], clock=lambda: hospital.now - timedelta(minutes=3))


def _heartbeats(hospital: Hospital) -> None:
    now = hospital.now
    peers = tuple(
        SeenPeer(title, address, count, now - timedelta(minutes=ago))
        for title, address, count, ago in (("CT_EAST", "10.20.4.11", 18233, 2), ("MR_1", "10.20.4.30", 7410, 21))
    )
    beats = _compared(hospital)
    other = (SeenPeer("CR_ER", "10.30.1.7", 1204, now - timedelta(minutes=14)),)
    for beat in (
        replace(beats, received=3, delivering=41, oldest_seconds=4.0, peers=peers),
        Heartbeat("hill", "0.1.0", now - timedelta(seconds=48), "HILL", 0, 0, 2, 7_300_000_000, 0.0, other),
        Heartbeat("lake", "0.1.0", now - timedelta(minutes=47), "LAKE", 12, 0, 0, 88 * 10**9, 0.0),
    ):
        hospital.store.put(heartbeat_key(beat.edge), beat.to_json())


def _compared(hospital: Hospital) -> Heartbeat:
    """Return the heartbeat of an edge that compares itself with three sources: one of each kind."""
    now = hospital.now
    at = now - timedelta(hours=3)
    days = []
    for ago in range(40):
        day = now.date() - timedelta(days=ago)
        seen_at = at - timedelta(days=max(0, ago - 7))
        images = 0 if day.weekday() == 6 else 1200 + 37 * ago
        missing = {3: 14, 9: 2}.get(ago, 0)
        lacking = [LackingStudy(hospital.chest, missing, "the source answered success, and they did not come")] * (
            missing > 0
        )
        if ago == 5:
            lacking = [LackingStudy("2.25.4711", 0, "the source did not answer in time")]
        days.append(ComparedDay(day, seen_at, images // 200, images, missing, ago != 5, tuple(lacking)))
    images = sum(each.images for each in days[:8])
    late = ComparedSource("ARCHIVE", now - timedelta(days=3), 900, 0, is_whole=True, days=tuple(days[10:]))
    sources = (ComparedSource("PACS1", at, images, 14, is_whole=False, days=tuple(days)), late)
    nightly = ("PACS1", "ARCHIVE", "VNA")
    return Heartbeat(
        *("harbour", "0.1.0", now - timedelta(seconds=22), "HARBOUR", 0, 0, 0, 412 * 10**9, 0.0),
        sources=sources,
        nightly=nightly,
    )


def _audit(hospital: Hospital) -> None:
    with hospital.engine.begin() as connection:
        for minutes, actor, action in ((300, "console:ines", "view_study"), (240, "cli:root", "delete_objects")):
            at = hospital.now - timedelta(minutes=minutes)
            record_audit_event(connection, at, actor=actor, action=action, uid=hospital.chest, details={})
        queue.send(connection, "index", "{}", hospital.now)
