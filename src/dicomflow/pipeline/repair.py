"""Makes a hidden image set visible: one side's values are given to the other, then it is promoted to primary.

HealthImaging shows primary image sets alone, and one that conflicts with those of its study stays hidden. What is done
next is read from the service each time, so that whoever is interrupted calls again and it goes on. No value is logged,
recorded or returned: the names of elements and the ids of image sets are. Must not know who asks.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.bucket.keys import repair_key
from dicomflow.bucket.repair import ImageSetState, RepairNote, encode
from dicomflow.catalog import hidden
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.engine import begin_read
from dicomflow.errors import PermanentError, TransientError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImageSet, ImageSetSummary
from dicomflow.healthimaging.patience import PACE_SECONDS, call_patiently
from dicomflow.healthimaging.primary import SERIES_ELEMENTS, SERIES_UID, STUDY_ELEMENTS, differing_elements

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging.client import HealthImagingClient

__all__ = ["Keep", "Repair", "Repaired", "Step"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_LOOKS: Final = 150
"""Ten minutes for one change of the service's: it is LOCKED meanwhile."""
MOST_STEPS: Final = 12
_FAILED: Final = frozenset({"UPDATE_FAILED", "COPY_FAILED", "IMPORT_FAILED"})
# Whose study it is changes with the Patient ID, so what else tells a patient goes with it.
_OF_PATIENT: Final[Mapping[str, str]] = {
    "PatientName": "DICOMPatientName",
    "PatientBirthDate": "DICOMPatientBirthDate",
    "PatientSex": "DICOMPatientSex",
}
_TAGS: Final = {**STUDY_ELEMENTS, **SERIES_ELEMENTS, **_OF_PATIENT}
_PATIENT_LEVEL: Final = frozenset({"PatientID", *_OF_PATIENT})
_NEEDS_FORCE: Final = frozenset({"StudyID"})


class Keep(StrEnum):
    """Whose values stay: those of the primary image sets, or those of the hidden one."""

    PRIMARY = "primary"
    THIS = "this"


@dataclass(frozen=True, slots=True)
class Step:
    """A change in the service: elements of an image set (and with `of_study` of all of its study), or its promotion."""

    image_set_id: str
    version: int
    elements: tuple[str, ...] = ()
    of_study: bool = False

    @property
    def action(self) -> str:
        """What it is, in a word."""
        return "update" if self.elements else "promote"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done, or would be: the steps; and once it is done the primary image set, and the series now complete."""

    study_instance_uid: str
    steps: tuple[Step, ...]
    primary_image_set_id: str | None = None
    series_completed: int = 0


@dataclass(slots=True)
class Repair:
    """The repair of one image set. Thread: one owner.

    `wait` sleeps for some seconds; `actor` is whom the audit trail names; `store` keeps a note on what was repaired,
    for a catalog that is rebuilt.
    """

    client: "HealthImagingClient"
    engine: Engine
    store: ObjectStore
    image_set_id: str
    keep: Keep
    actor: str
    clock: Callable[[], datetime]
    wait: Callable[[float], None]
    _datastore_id: str = field(init=False)
    _study: str = field(init=False)
    _elements: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raises PermanentError where the catalog does not know the image set."""
        with begin_read(self.engine) as connection:
            found = hidden.find_image_set(connection, self.image_set_id)
        if found is None:
            raise PermanentError(
                f"the catalog knows no image set {self.image_set_id}: see `dicomflow catalog conflicts`"
            )
        self._datastore_id, self._study, self._elements = found

    def foresee(self) -> Repaired:
        """Return what is to be done, and do nothing."""
        return Repaired(self._study, tuple(self._steps(self._look())))

    def run(self) -> Repaired:
        """Do it, and record what came of it.

        Raises:
            PermanentError: the service refuses, or there is no such image set any more.
            TransientError: it takes longer than there is patience, or the service does not answer; call again.
        """
        self._audit("repair_image_set_begun", {})
        done: list[Step] = []
        try:
            primary_id = self._run(done)
            completed = self._record(primary_id)
        except BaseException as error:
            self._audit("repair_image_set_failed", {"error": type(error).__name__, **_told(done)})
            raise
        self._audit("repair_image_set", {"primary_image_set": primary_id, "series_completed": completed, **_told(done)})
        logger.info(
            "image_set_repaired",
            extra={"image_set_id": self.image_set_id, "primary_image_set_id": primary_id, "series": completed},
        )
        return Repaired(self._study, tuple(done), primary_id, completed)

    def _run(self, done: list[Step]) -> str:
        while len(done) < MOST_STEPS:
            found = self._look()
            if self._this(found).is_primary:  # somebody was faster
                return self.image_set_id
            step = next(iter(self._steps(found)))
            if step.elements:
                self._update(step, found)
                done.append(step)
                continue
            primary_id = self._call(partial(self._promote, step))
            done.append(step)
            self._expect_primary(primary_id)
            return primary_id
        raise PermanentError(
            "the service takes changes, and the image set is in conflict all the same: look at it there"
        )

    def _look(self) -> list[ImageSetSummary]:
        found = self._call(
            lambda: healthimaging.search_image_sets(
                self.client, self._datastore_id, "DICOMStudyInstanceUID", self._study
            )
        )
        self._this(found)
        return found

    def _this(self, found: Sequence[ImageSetSummary]) -> ImageSetSummary:
        for each in found:
            if each.image_set_id == self.image_set_id:
                return each
        raise PermanentError(f"the data store has no image set {self.image_set_id} any more")

    def _steps(self, found: Sequence[ImageSetSummary]) -> Iterator[Step]:
        """Yield what is to be done, in order: the values that differ, then the promotion."""
        this = self._this(found)
        if this.is_primary:
            return
        primary = [each for each in found if each.is_primary]
        of_series = [each for each in primary if each.tags.get(SERIES_UID) == this.tags.get(SERIES_UID)]
        study_elements, series_elements = differing_elements(this, primary)
        if "PatientID" in study_elements:
            study_elements += tuple(_OF_PATIENT)
        if self.keep is Keep.PRIMARY:
            if elements := study_elements + series_elements:
                yield Step(this.image_set_id, _version(this), elements)
        else:
            if study_elements:
                yield Step(primary[0].image_set_id, _version(primary[0]), study_elements, of_study=True)
            if series_elements:
                for each in of_series:
                    yield Step(each.image_set_id, _version(each), series_elements)
        yield Step(this.image_set_id, _version(this))

    def _update(self, step: Step, found: Sequence[ImageSetSummary]) -> None:
        """Give an image set the other side's values, and wait until the service is done with all that it changes."""
        this = self._this(found)
        primary = [each for each in found if each.is_primary]
        same_series = [each for each in primary if each.tags.get(SERIES_UID) == this.tags.get(SERIES_UID)]
        kept = (same_series or primary)[0] if self.keep is Keep.PRIMARY else this
        changed = next(each for each in found if each.image_set_id == step.image_set_id)
        self._call(
            lambda: healthimaging.update_image_set(
                self.client,
                self._datastore_id,
                step.image_set_id,
                step.version,
                _documents(step.elements, kept, str(changed.tags.get(SERIES_UID))),
                is_forced=bool(_NEEDS_FORCE & set(step.elements)),
                of_study=step.of_study,
            )
        )
        self.wait(PACE_SECONDS)
        for image_set_id in [each.image_set_id for each in found] if step.of_study else [step.image_set_id]:
            self._settled(image_set_id)

    def _promote(self, step: Step) -> str:
        return healthimaging.promote_image_set(self.client, self._datastore_id, step.image_set_id, step.version)

    def _expect_primary(self, image_set_id: str) -> None:
        found = self._settled(image_set_id)
        if found.is_primary is not True:
            raise PermanentError(f"the service promoted to image set {image_set_id}, which is not primary")

    def _settled(self, image_set_id: str) -> ImageSet:
        """Wait until the service is done with an image set.

        Raises:
            PermanentError: it says that it has failed.
            TransientError: it takes too long.
        """
        for _ in range(MOST_LOOKS):
            found = self._call(lambda: healthimaging.get_image_set(self.client, self._datastore_id, image_set_id))
            if found.state != "LOCKED":
                if found.workflow_status in _FAILED:
                    raise PermanentError(f"the service says {found.workflow_status} of image set {image_set_id}")
                return found
            self.wait(PACE_SECONDS)
        raise TransientError(f"image set {image_set_id} is LOCKED still; call again, and it goes on")

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call at the service's rate, again while it has too much to do or something is locked."""
        return call_patiently(
            call,
            self.wait,
            lambda error: logger.info("repair_waits", extra={"reason": healthimaging.why_not(error)}),
        )

    def _record(self, primary_id: str) -> int:
        """Write down where the images are now, and complete the series that are visible with it.

        The note first: what was interrupted before the catalog has it is called again, and writes both.

        Raises:
            TransientError: the store does not take the note.
        """
        found = self._look()
        versions = {each.image_set_id: (each.version, each.is_primary) for each in found}
        states = tuple(ImageSetState(name, *state) for name, state in versions.items())
        rejected = self._rejected(found)
        note = RepairNote(self._datastore_id, self.image_set_id, primary_id, states, rejected, self._elements)
        try:
            obstore.put(self.store, repair_key(self._datastore_id, self.image_set_id), encode(note))
        except (BaseError, OSError) as error:
            raise TransientError(
                f"it is visible, and the store does not take the note of that ({type(error).__name__}): call again"
            ) from error
        with self.engine.begin() as connection:
            return hidden.record_repair(
                connection,
                self._datastore_id,
                self.image_set_id,
                primary_id,
                versions,
                self.clock(),
                rejected,
                self._elements,
            )

    def _rejected(self, found: Sequence[ImageSetSummary]) -> tuple[str, ...]:
        """Return the image sets whose objects have values that were decided against."""
        if self.keep is Keep.PRIMARY:
            return (self.image_set_id,)
        others = [each for each in found if each.is_primary and each.image_set_id != self.image_set_id]
        if self._elements and not set(self._elements) - SERIES_ELEMENTS.keys():
            series = self._this(found).tags.get(SERIES_UID)
            others = [each for each in others if each.tags.get(SERIES_UID) == series]
        return tuple(each.image_set_id for each in others)

    def _audit(self, action: str, details: Mapping[str, Any]) -> None:
        with self.engine.begin() as connection:
            record_audit_event(
                connection,
                self.clock(),
                actor=self.actor,
                action=action,
                uid=self._study,
                details={"image_set": self.image_set_id, "keep": str(self.keep), **details},
            )


def _told(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "steps": [{"action": step.action, "image_set": step.image_set_id, "elements": step.elements} for step in steps]
    }


def _version(found: ImageSetSummary) -> int:
    if found.version is None:
        raise TransientError(f"the service does not say which version image set {found.image_set_id} has")
    return found.version


def _documents(elements: Sequence[str], kept: ImageSetSummary, series_uid: str) -> dict[str, str]:
    """Return the updates and removals that give an image set what another has: SDK members and their JSON."""
    values = {element: kept.tags.get(_TAGS[element]) for element in elements}
    wanted = {name: value for name, value in values.items() if value not in {None, ""}}
    absent = {name: None for name in values if name not in wanted}
    found = {}
    for member, parts in (("updatableAttributes", wanted), ("removableAttributes", absent)):
        if parts:
            found[member] = json.dumps(_by_level(parts, series_uid))
    return found


def _by_level(values: Mapping[str, Any], series_uid: str) -> dict[str, Any]:
    patient = {name: value for name, value in values.items() if name in _PATIENT_LEVEL}
    series = {name: value for name, value in values.items() if name in SERIES_ELEMENTS}
    study = {name: value for name, value in values.items() if name not in patient and name not in series}
    document: dict[str, Any] = {"SchemaVersion": "1.1"}
    if patient:
        document["Patient"] = {"DICOM": patient}
    if study or series:
        document["Study"] = {"DICOM": study} if study else {}
        if series:
            document["Study"]["Series"] = {series_uid: {"DICOM": series}}
    return document
