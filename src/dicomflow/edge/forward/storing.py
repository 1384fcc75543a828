"""Puts one destination's share into its store: instances under keys of their own, and their manifest last.

Keys are made of the delivery, so that a put that is repeated changes nothing. When all puts of a batch fail the store
is taken to be away, and costs no instance a try; one that fails beside others that do not is tried later by itself.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from dicomflow.bucket.keys import instance_key, manifest_key
from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.bucket.transfer import InstanceState, JobInstance
from dicomflow.edge.deliver.bandwidth import Bandwidth, InFlight
from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.deliver.uploader import UnreadableFileError, Uploader, describe
from dicomflow.edge.destinations import StoreDestination
from dicomflow.edge.spool.handedover import SharedDelivery
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.transfers import Answer
from dicomflow.edge.transfer.board import Batch, Board
from dicomflow.edge.transfer.verdict import pause_of
from dicomflow.errors import PermanentError, TransientError

__all__ = ["StoreLane"]

_LOOK_SECONDS: Final = 0.5

_logger = logging.getLogger(__name__)


class StoreLane:
    """All puts to one store, several at once. Thread: one owner, but for `finish`, which is the clerk's.

    Args:
        name: the destination's.
        destination: its settings.
        edge: the edge's name.
        board: what is to be put.
        uploader: puts.
        stopping: ends the work after the puts under way.
        count: told of each answer: the destination's name, and what it came to.
    """

    def __init__(
        self,
        name: str,
        destination: StoreDestination,
        edge: str,
        board: Board,
        uploader: Uploader,
        *,
        stopping: threading.Event,
        count: Callable[[str, str], None] = lambda _destination, _result: None,
    ) -> None:
        self._name = name
        self._destination = destination
        self._edge = edge
        self._board = board
        self._uploader = uploader
        self._stopping = stopping
        self._count = count
        self._failures = 0

    def run(self) -> None:
        """Put until the stop; the thread's boundary."""
        while not self._stopping.is_set():
            try:
                asyncio.run(self._run())
            except Exception:
                _logger.exception("store_lane_failed destination=%s", self._name)
                self._failures += 1
                self._stopping.wait(pause_of(self._failures))

    def finish(self, manifest: Manifest) -> None:
        """Put the manifest of what is stored; raises as the store does."""
        stored = _under(manifest, lambda *key: self._key(manifest.delivery, *key))
        sizes = {each.key: each.bytes for each in stored.instances()}
        key = self._destination.prefix + manifest_key(self._edge, manifest.delivery)
        try:
            self._uploader.open()
            asyncio.run(self._uploader.put_manifest(key, stored.to_json(), sizes))
        except Exception as error:
            raise TransientError(describe(error)) from error

    async def _run(self) -> None:
        bandwidth = Bandwidth(lambda: self._destination, lambda: datetime.now().astimezone())
        in_flight = InFlight(lambda: 0.0, time.monotonic)
        turn = asyncio.Semaphore(self._destination.concurrency)
        while not self._stopping.is_set():
            batch = self._board.take(self._name)
            if batch is None:
                self._failures = 0
                await asyncio.to_thread(self._board.wait, _LOOK_SECONDS)
                continue
            await self._put_batch(batch, bandwidth, in_flight, turn)
            if self._failures:
                await asyncio.to_thread(self._stopping.wait, pause_of(self._failures))

    async def _put_batch(
        self, batch: Batch, bandwidth: Bandwidth, in_flight: InFlight, turn: asyncio.Semaphore
    ) -> None:
        """Put a batch, and write down what it came to; without any answer all of it is put back."""
        folder = batch.transfer.folder
        assert isinstance(folder, SharedDelivery)
        reason, answers = "", []

        async def put(instance: JobInstance) -> Exception | None:
            async with turn:
                try:
                    await bandwidth.admit(instance.bytes)
                    async with in_flight.sending(self._uploader.sent_at_once(instance.bytes)):
                        received = _received(folder, instance.number)
                        key = self._key(folder.manifest.delivery, *_uids(received))
                        limit_seconds = in_flight.limit_seconds(self._failures)
                        await self._uploader.put_instance(received, key, limit_seconds, in_flight.moved)
                except Exception as error:  # noqa: BLE001  # a boundary around one of many
                    return error
                return None

        try:
            await asyncio.to_thread(self._uploader.open)
            errors = await asyncio.gather(*map(put, batch.instances))
            answers = [
                answer
                for instance, error in zip(batch.instances, errors, strict=True)
                if (answer := self._answer(batch, instance, error, has_others=None in errors)) is not None
            ]
            failed = next((each for each in errors if each is not None), None)
            reason = describe(failed) if failed is not None and not answers else ""
            if answers:
                folder.record(answers)
                for answer in answers:
                    self._board.note(batch.transfer, answer)
                    self._count(self._name, "again" if answer.state is InstanceState.QUEUED else answer.state)
        except (TransientError, OSError) as error:
            reason = describe(error)
        finally:
            self._board.put_back(batch, reason)
        self._failures = self._failures + 1 if reason else 0
        if reason:
            _logger.warning("share_held_up destination=%s delivery=%s reason=%s", self._name, folder.path.name, reason)
        else:
            self._board.hold_up(batch.transfer, "")

    def _answer(
        self, batch: Batch, instance: JobInstance, error: Exception | None, *, has_others: bool
    ) -> Answer | None:
        """Return what is to be written of a put; None where the store is to blame, and not the instance."""
        number, transfer = instance.number, batch.transfer
        if error is None:
            return self._board.answer_of(transfer, number, InstanceState.DONE, "")
        if isinstance(error, PermanentError):
            _logger.warning("put_refused destination=%s sop_instance=%s", self._name, instance.sop_instance_uid)
            return self._board.answer_of(transfer, number, InstanceState.FAILED, str(error))
        if has_others or isinstance(error, UnreadableFileError):
            return self._board.answer_of(transfer, number, InstanceState.QUEUED, describe(error))
        return None

    def _key(self, delivery: str, study: str, series: str, sop: str) -> str:
        return self._destination.prefix + instance_key(self._edge, delivery, study, series, sop)


def _under(manifest: Manifest, key_of: Callable[[str, str, str], str]) -> Manifest:
    """Return a manifest with the keys that its instances have in this store."""

    def moved(study: Study, series: Series, instance: Instance) -> Instance:
        uids = (study.study_instance_uid, series.series_instance_uid, instance.sop_instance_uid)
        return replace(instance, key=key_of(*uids))

    return replace(
        manifest,
        studies=tuple(
            replace(
                study,
                series=tuple(
                    replace(series, instances=tuple(moved(study, series, each) for each in series.instances))
                    for series in study.series
                ),
            )
            for study in manifest.studies
        ),
    )


def _uids(instance: ReceivedInstance) -> tuple[str, str, str]:
    return instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid


def _received(folder: SharedDelivery, number: int) -> ReceivedInstance:
    """Return an instance of a share as the uploader takes it."""
    instance, path = folder.instances[number], folder.file_of(number)
    study, series = folder.series_of(number)
    return ReceivedInstance(
        file=ReceivedFile(path, instance.association_id, 0, "", instance.sha256),
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        study_instance_uid=study,
        series_instance_uid=series,
        bytes=instance.bytes,
        received_at=datetime.now(UTC),
        calling_ae_title="",
        called_ae_title="",
    )
