"""Sends what is due to one destination, over one association at a time: fetch a batch, send it, write each answer down.

A destination that cannot be reached is asked again with growing pauses and costs no instance a try. An instance of
which an association broke is sent by itself the next time, so that one that a receiver dies of takes no other with it.
"""

import contextlib
import logging
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomflow.bucket.transfer import InstanceState, JobInstance
from dicomflow.edge.settings import Destination
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.transfers import Answer, TransferFolders
from dicomflow.edge.transfer.board import Batch, Board, Transfer
from dicomflow.edge.transfer.store import TransferStore
from dicomflow.edge.transfer.verdict import TRIES, Verdict, pause_of, verdict_of
from dicomflow.errors import DicomflowError, PeerError, PermanentError, TransientError, text_of
from dicomflow.send.association import Outcome, SendAssociation
from dicomflow.send.files import StoredFile, read_stored_file

__all__ = ["AWAITED", "Copies", "Lane", "Route"]

AWAITED: Final = "arrived, and its storage commitment is awaited"
_FETCHES_AT_ONCE: Final = 4
_KEPT_BYTES: Final = 1 << 30  # of copies that a destination does not take now, of one transfer
_LOOK_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)

_File = tuple[JobInstance, StoredFile]


@dataclass(frozen=True, slots=True)
class Route:
    """A destination as an association needs it."""

    name: str
    destination: Destination
    calling_ae_title: str
    tls: ssl.SSLContext | None = None


class Copies:
    """Gives the copies of transfers: those that are here, and those that the store gives. Threads: any.

    Args:
        folders: where copies are kept.
        store: where they come from.
        refuse_below_bytes: what receiving needs of the volume.
    """

    def __init__(self, folders: TransferFolders, store: TransferStore, refuse_below_bytes: int) -> None:
        self._folders = folders
        self._store = store
        self._refuse_below_bytes = refuse_below_bytes

    def __call__(self, transfer: Transfer, instance: JobInstance) -> Path:
        """Return the path of a copy.

        Raises:
            FileNotFoundError: it is nowhere any more.
            PermanentError: its bytes are not those that the job names, or there are more than the volume holds.
            TransientError: the store did not answer, or not to the end.
            OSError: it cannot be written.
        """
        path = transfer.folder.copy_of(instance)
        if path is not None:
            return path
        self._folders.check_room(instance.bytes, self._refuse_below_bytes)
        with contextlib.closing(self._store.copy(transfer.name, instance)) as chunks:
            return transfer.folder.fetch(instance, chunks)


class Lane:
    """One association's worth of sending. Thread: one owner.

    Args:
        route: where to.
        board: what is to be sent.
        copy: gives the file of an instance; raises as `Copies` does.
        stopping: ends the work after the instance at hand.
        count: told of each answer: the destination's name, and what it came to.
        tries: how often an instance is sent whose failure says neither that it is its own nor that it will pass.
        admit: returns when so many bytes may begin to be sent.
    """

    def __init__(
        self,
        route: Route,
        board: Board,
        copy: Callable[[Transfer, JobInstance], Path],
        *,
        stopping: threading.Event,
        count: Callable[[str, str], None] = lambda _destination, _result: None,
        tries: int = TRIES,
        admit: Callable[[int], None] = lambda _size_bytes: None,
    ) -> None:
        self._route = route
        self._board = board
        self._copy = copy
        self._tries = tries
        self._admit = admit
        self._stopping = stopping
        self._count = count
        self._association: SendAssociation | None = None
        self._unwritten: list[tuple[Transfer, Answer]] = []  # answers for which the volume had no room
        self._failures = 0

    def run(self) -> None:
        """Send until the stop; the thread's boundary."""
        while not self._stopping.is_set():
            try:
                if not self.step():
                    self._board.wait(_LOOK_SECONDS)
            except Exception:
                _logger.exception("transfer_lane_failed destination=%s", self._route.name)
                self._failures += 1
            if self._failures:
                self._stopping.wait(pause_of(self._failures))
        self._release()

    def step(self) -> bool:
        """Send the next batch; False when nothing is due."""
        self._write_down()
        batch = self._board.take(self._route.name)
        if batch is None:
            self._failures = 0
            self._release()
            return False
        reason = ""
        try:
            files = self._fetch(batch)
            if files:
                self._send(batch.transfer, files)
                self._failures = 0
        except _HeldUpError as error:
            self._failures += 1
            reason = str(error)
            _logger.warning(
                "transfer_held_up transfer=%s destination=%s reason=%s", batch.transfer.name, self._route.name, reason
            )
        except BaseException:
            self._break()
            raise
        finally:
            self._board.put_back(batch, reason, {answer.number for _, answer in self._unwritten})
        return True

    def _fetch(self, batch: Batch) -> list[_File]:
        """Return the files of a batch, those that are here and those that the store gives; the others wait.

        Raises:
            _HeldUpError: the store gives none.
        """
        transfer = batch.transfer
        with ThreadPoolExecutor(min(_FETCHES_AT_ONCE, len(batch.instances)), "fetch") as threads:
            fetches = [(each, threads.submit(self._copy, transfer, each)) for each in batch.instances]
        files: list[_File] = []
        held_up = ""
        for instance, fetch in fetches:
            try:
                files.append((instance, self._opened(instance, fetch)))
            except FileNotFoundError:
                self._end(transfer, instance, InstanceState.FAILED, "the copy to send is gone: it was kept too long")
            except PeerError as error:
                self._end(transfer, instance, InstanceState.FAILED, str(error))
            except PermanentError as error:
                self._strike(transfer, instance, str(error))
            except OSError as error:  # no room: smaller ones go on
                self._board.put_off(transfer, instance.number, text_of(error))
                self._board.hold_up(transfer, text_of(error))
            except TransientError as error:
                held_up = text_of(error)
                self._board.put_off(transfer, instance.number, held_up)
        if not files and held_up:
            raise _HeldUpError(held_up)
        return files

    @staticmethod
    def _opened(instance: JobInstance, fetch: Future[Path]) -> StoredFile:
        """Return a copy's file, which is of the instance that it is sent for: else that would be told as arrived."""
        file = read_stored_file(fetch.result())
        if file.meta.sop_instance_uid != instance.sop_instance_uid:
            raise PeerError(f"the copy is of SOP Instance {file.meta.sop_instance_uid}: it is not sent for another")
        return file

    def _send(self, transfer: Transfer, files: list[_File]) -> None:
        association = self._associated(files)
        self._board.hold_up(transfer, "")
        left = deque(files)
        try:
            for outcome in association.store_all(self._admitted(files)):
                instance, _ = left.popleft()
                self._take_in(transfer, instance, outcome, association)
                if self._stopping.is_set():
                    return  # nothing is under way: the next one is sent when this one's answer was taken
        except (DicomflowError, OSError) as error:
            self._break()
            if not left or self._unwritten:
                raise _HeldUpError(text_of(error)) from error
            instance, _ = left[0]
            self._again(transfer, instance, f"the association broke: {text_of(error)}", is_alone=True)

    def _admitted(self, files: list[_File]) -> Iterator[StoredFile]:
        for instance, file in files:
            self._admit(instance.bytes)
            yield file

    def _associated(self, files: list[_File]) -> SendAssociation:
        pairs = list(dict.fromkeys(_pair(file) for _, file in files))
        if self._association is not None and self._association.covers(pairs):
            return self._association
        self._release()
        destination = self._route.destination
        association = SendAssociation(
            destination.host,
            destination.port,
            pairs,
            calling_ae_title=self._route.calling_ae_title,
            called_ae_title=destination.ae_title,
            timeout_seconds=destination.timeout_seconds,
            tls=self._route.tls,
        )
        try:
            self._association = association.__enter__()
        except (DicomflowError, OSError) as error:
            raise _HeldUpError(text_of(error)) from error
        return association

    def _take_in(
        self, transfer: Transfer, instance: JobInstance, outcome: Outcome, association: SendAssociation
    ) -> None:
        status = outcome.status
        if status is None:
            if association.accepts(_pair(outcome.file)):
                transfer.folder.discard(instance.number)
                self._again(transfer, instance, "the copy could not be read: it is fetched again")
                return
            meta = outcome.file.meta
            reason = f"the destination accepts no context for {meta.sop_class_uid} in {meta.transfer_syntax_uid}"
            self._end(transfer, instance, InstanceState.FAILED, reason)
            return
        # The destination's comment may hold anything, so that it goes no further.
        reason = "" if status == 0 else f"status {status:04X}H"
        match verdict_of(outcome):
            case Verdict.STORED if self._route.destination.commitment:
                self._await_commitment(transfer, instance, status)
            case Verdict.STORED:
                self._end(transfer, instance, InstanceState.DONE, reason, status)
            case Verdict.NEVER:
                self._end(transfer, instance, InstanceState.FAILED, reason, status)
            case Verdict.AGAIN:
                self._again(transfer, instance, reason, status)
            case Verdict.SOMETIMES:
                self._strike(transfer, instance, reason, status)

    def _await_commitment(self, transfer: Transfer, instance: JobInstance, status: int) -> None:
        """The destination has it; whether it has arrived is `asker`'s to find out."""
        answer = self._board.answer_of(transfer, instance.number, InstanceState.QUEUED, AWAITED, status, is_stored=True)
        self._write(transfer, answer)
        self._board.note(transfer, answer)
        transfer.folder.discard(instance.number)
        self._count(self._route.name, "stored")

    def _strike(self, transfer: Transfer, instance: JobInstance, reason: str, status: int | None = None) -> None:
        """Try again, but not for ever."""
        strikes = transfer.strikes.get(instance.number, 0) + 1
        if strikes >= self._tries:
            self._end(transfer, instance, InstanceState.FAILED, f"{reason}, {strikes} times", status)
        else:
            self._again(transfer, instance, reason, status, is_strike=True)

    def _again(
        self,
        transfer: Transfer,
        instance: JobInstance,
        reason: str,
        status: int | None = None,
        *,
        is_alone: bool = False,
        is_strike: bool = False,
    ) -> None:
        if transfer.folder.kept_bytes > _KEPT_BYTES:
            transfer.folder.discard(instance.number)
        answer = self._board.answer_of(
            transfer, instance.number, InstanceState.QUEUED, reason, status, is_strike=is_strike
        )
        self._write(transfer, answer)
        self._board.note(transfer, answer, is_alone=is_alone)
        self._count(self._route.name, "again")

    def _end(
        self, transfer: Transfer, instance: JobInstance, state: InstanceState, reason: str, status: int | None = None
    ) -> None:
        answer = self._board.answer_of(transfer, instance.number, state, reason, status)
        self._write(transfer, answer)
        self._board.note(transfer, answer)
        transfer.folder.discard(instance.number)
        self._count(self._route.name, state)
        if state is InstanceState.FAILED:
            _logger.warning(
                "transfer_instance_failed transfer=%s sop_instance=%s reason=%s",
                transfer.name,
                instance.sop_instance_uid,
                reason,
            )

    def _write(self, transfer: Transfer, answer: Answer) -> None:
        """Write an answer down; on a full volume its copy makes room. Raises `OSError`: it is written later."""
        try:
            transfer.folder.record([answer])
        except OSError as error:
            if is_full(error):
                transfer.folder.discard(answer.number)
                with contextlib.suppress(OSError):
                    transfer.folder.record([answer])
                    return
            self._unwritten.append((transfer, answer))
            raise

    def _write_down(self) -> None:
        """Write what could not be written. Until it is, its instance stays taken, and nothing more is sent."""
        while self._unwritten:
            transfer, answer = self._unwritten[0]
            transfer.folder.record([answer])
            self._board.note(transfer, answer)
            self._unwritten.pop(0)

    def _release(self) -> None:
        association, self._association = self._association, None
        if association is not None:
            association.__exit__(None, None, None)

    def _break(self) -> None:
        association, self._association = self._association, None
        if association is not None:
            association.__exit__(TransientError, None, None)


class _HeldUpError(Exception):
    """Why nothing can be sent just now: it is no instance's fault."""


def _pair(file: StoredFile) -> tuple[str, str]:
    return file.meta.sop_class_uid, file.meta.transfer_syntax_uid
