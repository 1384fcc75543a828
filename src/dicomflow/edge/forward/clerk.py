"""Begins what was handed over to one destination, and ends it: files go, or to quarantine, and the deliverer is told.

What an instance came to is on disk before its file goes. A destination that is not required is given up after
`keep_days`; one that is required never is, and what it refuses for good is quarantined, where an operator sees it.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from dicomflow.bucket.manifest import Manifest
from dicomflow.bucket.transfer import InstanceState
from dicomflow.edge.spool.handedover import HandedOver, SharedDelivery
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.transfer.board import Board, Transfer
from dicomflow.errors import DicomflowError, text_of

__all__ = ["Clerk"]

_SECONDS_A_DAY: Final = 86_400.0
# Of deliveries at once, so that those to a destination that is dead for weeks take no memory but the disk's.
_MOST_BEGUN: Final = 200

_logger = logging.getLogger(__name__)


class Clerk:
    """What is done for all deliveries to one destination. Thread: one owner.

    Args:
        name: the destination's.
        edge: the edge's.
        is_required: whether it is.
        keep_days: when one that is not is given up.
        handed: where the files are.
        board: what is under way.
        quarantine: durably moves a file out of the way, with a reason.
        prepare: gives what is sent of what was handed over; raises as a copier does.
        finish: does what is left to do at the destination once all have an end, with the manifest of those that it has.
        clock: gives seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        edge: str,
        *,
        is_required: bool,
        keep_days: float,
        handed: HandedOver,
        board: Board,
        quarantine: Callable[[ReceivedFile, str], None],
        prepare: Callable[[SharedDelivery], SharedDelivery] = lambda folder: folder,
        finish: Callable[[Manifest], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._edge = edge
        self._is_required = is_required
        self._keep_days = keep_days
        self._handed = handed
        self._board = board
        self._quarantine = quarantine
        self._prepare = prepare
        self._finish = finish
        self._clock = clock
        self._settled: dict[str, set[int]] = {}  # by delivery: whose files are let go of
        self._told: set[str] = set()  # what the log has heard of

    def step(self) -> None:
        """Begin what is new, and end what has an end; what fails is done at the next step. Raises `OSError`."""
        if (room := _MOST_BEGUN - len(self._board.all())) > 0:
            for folder in self._not_begun()[:room]:
                self._of_one(folder.path.name, lambda folder=folder: self._begin(folder))  # type: ignore[misc]  # mypy has no bound defaults
        for transfer in self._board.all():
            self._of_one(transfer.name, lambda transfer=transfer: self._end(transfer))  # type: ignore[misc]  # as above

    def _not_begun(self) -> list[SharedDelivery]:
        """Return what is to be begun, the oldest first; what has ended is about to be removed by the deliverer."""
        found = [each for each in self._handed.of(self._name) if self._board.get(each.path.name) is None]
        return sorted((each for each in found if not each.is_ended), key=lambda each: each.handed_over_at)

    def _of_one(self, delivery: str, do: Callable[[], None]) -> None:
        """The boundary around one delivery of many."""
        try:
            do()
        except (DicomflowError, OSError) as error:
            reason = text_of(error)
            if (waits := f"{delivery} {reason}") not in self._told:
                self._told.add(waits)
                _logger.warning("share_waits destination=%s delivery=%s reason=%s", self._name, delivery, reason)
        except Exception:
            _logger.exception("share_failed destination=%s delivery=%s", self._name, delivery)

    def _begin(self, folder: SharedDelivery) -> None:
        if folder.returns() is None:  # else the deliverer is about to remove it
            folder = self._prepare(folder)
            transfer = self._board.add(folder.job(), folder, self._name)
            # What has an end and no file was let go of by an earlier run, and is where that has put it.
            self._settled[transfer.name] = {
                each.number for each in folder.ends() if not folder.original_of(each.number).exists()
            }

    def _end(self, transfer: Transfer) -> None:
        self._give_up(transfer)
        folder = transfer.folder
        assert isinstance(folder, SharedDelivery)
        settled = self._settled[transfer.name]
        ended = {
            number: each for number, each in list(transfer.returned.items()) if each.state is not InstanceState.QUEUED
        }
        for number in ended.keys() - settled:
            if ended[number].state is InstanceState.FAILED and self._is_required:
                self._set_aside(folder, number, ended[number].reason)
            folder.let_go(number)
            settled.add(number)
        # By what is settled above, not by what the lanes have noted since: the manifest has all that is done.
        if len(ended) < len(transfer.instances) or transfer.left:
            return
        done = {transfer.instances[number].sop_instance_uid for number, each in ended.items() if each.state == "done"}
        if done:
            self._finish(folder.manifest.only(done))
        folder.finish(self._board.returns_of(transfer, self._edge))
        self._board.remove(transfer)
        del self._settled[transfer.name]
        _logger.info(
            "share_ended destination=%s delivery=%s done=%d of=%d", self._name, transfer.name, len(done), len(ended)
        )

    def _set_aside(self, folder: SharedDelivery, number: int, reason: str) -> None:
        """Quarantine what a destination that is required will not have as it is."""
        path = folder.original_of(number)
        file = ReceivedFile.of(path)
        if file is None:  # it was gone when it was handed over
            instance = folder.originals[number]
            file = ReceivedFile(path, instance.association_id, 0, "", instance.sha256)
        self._quarantine(file, f"destination {self._name}: {reason}")

    def _give_up(self, transfer: Transfer) -> None:
        """End what a destination that is not required has not taken in its days."""
        folder = transfer.folder
        assert isinstance(folder, SharedDelivery)
        # From when its delivery was closed, however long it then waited for its turn.
        waited_seconds = self._clock() - folder.share.manifest.closed_at.timestamp()
        if self._is_required or waited_seconds < self._keep_days * _SECONDS_A_DAY:
            return
        answers = []
        for number in self._board.untried(transfer):
            last = transfer.returned.get(number)
            why = (last.reason if last else "") or transfer.reason
            reason = f"not taken within {self._keep_days:g} days" + (f": {why}" if why else "")
            answers.append(self._board.answer_of(transfer, number, InstanceState.CANCELLED, reason))
        if not answers:
            return
        self._board.end(transfer, answers)
        _logger.warning(
            "share_given_up destination=%s delivery=%s instances=%d", self._name, transfer.name, len(answers)
        )
