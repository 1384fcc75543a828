"""Deliveries: which received instances go to the store together, and when one is complete.

A delivery is what one edge receives of one study in one go. It closes when no open association carries the study
and nothing has arrived for `quiet_seconds`, or at the limits on files, bytes and time. No meaning is drawn from an
association's end alone (PS3.4 B.4). Pure state: no clock, no files.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dicomflow.bucket.keys import instance_key
from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.names import ReceivedFile

__all__ = ["Deliveries", "Delivery", "ReceivedInstance"]


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An acknowledged instance, as its file's name, meta information and header tell it."""

    file: ReceivedFile
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    bytes: int
    received_at: datetime
    calling_ae_title: str
    called_ae_title: str
    modality: str = ""


@dataclass(slots=True)
class Delivery:
    """One delivery; times are the caller's monotonic seconds, `unstored` counts instances that are not put yet."""

    delivery_id: str
    study_instance_uid: str
    opened_at: float
    touched_at: float
    instances: dict[str, ReceivedInstance] = field(default_factory=dict)
    bytes: int = 0
    unstored: int = 0
    is_closed: bool = False
    # False where only the ledger knows of it: its manifest may have been put by the run that removed the folder.
    has_folder: bool = True
    # Whether something of it was sent again: who was told of it may have forgotten since.
    is_resent: bool = False
    # Of what came for it and was in the store already: the objects of each manifest that names it, with their sizes,
    # and their files by SOP Instance UID, which go with the folder.
    elsewhere: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, list[ReceivedFile]] = field(default_factory=dict)
    rank: int = 0
    is_ranked: bool = False
    # When its oldest instance was received, in seconds since the epoch: the order of deliveries in the store's queue.
    oldest_at: float = float("inf")

    def add(self, instance: ReceivedInstance, now: float) -> None:
        """Take an instance; its SOP Instance UID must be new to this delivery."""
        self.instances[instance.sop_instance_uid] = instance
        self.bytes += instance.bytes
        self.unstored += 1
        self.touched_at = now
        self.oldest_at = min(self.oldest_at, instance.received_at.timestamp())

    def key_of(self, instance: ReceivedInstance, edge: str) -> str:
        """Return the object key of one of the instances."""
        return instance_key(
            edge,
            self.delivery_id,
            instance.study_instance_uid,
            instance.series_instance_uid,
            instance.sop_instance_uid,
        )

    def sizes(self, edge: str) -> dict[str, int]:
        """Return the bytes of each instance, by its object key."""
        return {self.key_of(each, edge): each.bytes for each in self.instances.values()}

    def manifest(
        self,
        edge: str,
        closed_at: datetime,
        ended: Callable[[str], str],
        originators: Callable[[str], tuple[str, ...]] = lambda _: (),
    ) -> Manifest:
        """Return the manifest; `ended` tells how an association stands, `originators` for whose C-MOVEs it stored."""
        series: dict[str, list[Instance]] = {}
        associations: dict[str, Association] = {}
        for instance in sorted(self.instances.values(), key=lambda each: (each.received_at, each.sop_instance_uid)):
            series.setdefault(instance.series_instance_uid, []).append(
                Instance(
                    sop_instance_uid=instance.sop_instance_uid,
                    sop_class_uid=instance.sop_class_uid,
                    transfer_syntax_uid=instance.transfer_syntax_uid,
                    key=self.key_of(instance, edge),
                    bytes=instance.bytes,
                    sha256=instance.file.sha256,
                    received_at=instance.received_at.isoformat(),
                    association_id=instance.file.association_id,
                )
            )
            associations.setdefault(
                instance.file.association_id,
                Association(
                    association_id=instance.file.association_id,
                    calling_ae_title=instance.calling_ae_title,
                    called_ae_title=instance.called_ae_title,
                    peer=instance.file.peer,
                    ended=ended(instance.file.association_id),
                    move_originators=originators(instance.file.association_id),
                ),
            )
        studies = tuple(Series(uid, tuple(instances)) for uid, instances in series.items())
        return Manifest(
            edge=edge,
            delivery=self.delivery_id,
            opened_at=min(instance.received_at for instance in self.instances.values()),
            closed_at=closed_at,
            associations=tuple(associations.values()),
            studies=(Study(self.study_instance_uid, studies),),
        )


class Deliveries:
    """The open deliveries, one a study; `is_whole` tells whether a file still has the bytes that were received."""

    def __init__(
        self,
        settings: DeliverySettings,
        new_id: Callable[[], str],
        is_whole: Callable[[ReceivedFile], bool] = lambda _: True,
    ) -> None:
        self._settings = settings
        self._new_id = new_id
        self._is_whole = is_whole
        self._open: dict[str, Delivery] = {}
        self._full: list[Delivery] = []

    @property
    def is_any_open(self) -> bool:
        """Whether there is a delivery that may become complete."""
        return bool(self._open or self._full)

    def associations(self) -> set[str]:
        """Return the associations that carried an open delivery."""
        return {
            instance.file.association_id for delivery in self._open.values() for instance in delivery.instances.values()
        }

    def find(self, instance: ReceivedInstance, now: float) -> Delivery | None:
        """Return the delivery that an instance is to be added to; None when its bytes are there already.

        Other bytes under the same SOP Instance UID would have the same key, so they begin the study's next delivery,
        also where the first are skipped and lie there until its end; so does a good copy of a file that has rotted
        meanwhile.
        """
        delivery = self._open.get(instance.study_instance_uid)
        if delivery is not None:
            known = delivery.instances.get(instance.sop_instance_uid)
            if known is not None and known.file.sha256 == instance.file.sha256 and self._is_whole(known.file):
                delivery.touched_at = now
                delivery.is_resent = True
                return None
            skipped = delivery.skipped.get(instance.sop_instance_uid, ())
            is_other = known is not None or any(each.sha256 != instance.file.sha256 for each in skipped)
            if is_other or self._would_overflow(delivery, instance):
                self._full.append(self._open.pop(instance.study_instance_uid))
                delivery = None
        if delivery is None:
            delivery = Delivery(self._new_id(), instance.study_instance_uid, now, now)
            self._open[instance.study_instance_uid] = delivery
        return delivery

    def reopen(self, delivery_id: str, instances: Sequence[ReceivedInstance], now: float) -> Delivery:
        """Take up a delivery that an earlier run left open; it holds at least one instance."""
        study_instance_uid = instances[0].study_instance_uid
        delivery = Delivery(delivery_id, study_instance_uid, now, now)
        for instance in instances:
            delivery.add(instance, now)
        if study_instance_uid in self._open:
            # Two were left open: a limit had closed the first, but its manifest was not written yet.
            self._full.append(self._open.pop(study_instance_uid))
        self._open[study_instance_uid] = delivery
        return delivery

    def put_back(self, delivery: Delivery) -> None:
        """Take back a delivery that could not be closed: it is due again."""
        self._full.append(delivery)

    def drop(self, delivery_id: str) -> None:
        """Forget an open delivery, which will be taken up again from its folder."""
        self._open = {study: each for study, each in self._open.items() if each.delivery_id != delivery_id}
        self._full = [each for each in self._full if each.delivery_id != delivery_id]

    def take_due(self, now: float, open_associations: Collection[str]) -> list[Delivery]:
        """Remove and return the deliveries that are complete."""
        due, self._full = self._full, []
        for delivery in list(self._open.values()):
            if self._is_due(delivery, now, open_associations):
                due.append(self._open.pop(delivery.study_instance_uid))
        return due

    def is_any_due(self, now: float, open_associations: Collection[str]) -> bool:
        """Tell whether `take_due` would return any."""
        return bool(self._full) or any(
            self._is_due(delivery, now, open_associations) for delivery in self._open.values()
        )

    def _is_due(self, delivery: Delivery, now: float, open_associations: Collection[str]) -> bool:
        if now - delivery.opened_at >= self._settings.max_seconds:
            return True
        if len(delivery.instances) >= self._settings.max_files or delivery.bytes >= self._settings.max_bytes:
            return True
        if now - delivery.touched_at < self._settings.quiet_seconds:
            return False
        carrying = {instance.file.association_id for instance in delivery.instances.values()}
        return carrying.isdisjoint(open_associations)

    def _would_overflow(self, delivery: Delivery, instance: ReceivedInstance) -> bool:
        return (
            len(delivery.instances) >= self._settings.max_files
            or delivery.bytes + instance.bytes > self._settings.max_bytes
        )
