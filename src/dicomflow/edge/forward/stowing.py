"""Sends one destination's share by STOW-RS (PS3.18 10.5): a batch of instances a request, each as it was received.

What the answer says of each instance decides (PS3.18 Table 10.5.3-1, PS3.3 C.12.1.2): stored, refused, or to be tried
again. An origin that does not answer, or answers of itself and not of the instances, costs none of them a try.
"""

import contextlib
import http
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import urllib3
from urllib3.exceptions import HTTPError

from dicomflow.bucket.transfer import InstanceState, JobInstance
from dicomflow.edge.destinations import StowDestination
from dicomflow.edge.spool.handedover import SharedDelivery
from dicomflow.edge.spool.transfers import Answer
from dicomflow.edge.transfer.board import Batch, Board
from dicomflow.edge.transfer.verdict import Verdict, pause_of, verdict_of_status
from dicomflow.errors import PeerError, TransientError, text_of
from dicomflow.regularfiles import open_regular

__all__ = ["StowLane", "authorization_of", "pool_of"]

_LOOK_SECONDS: Final = 1.0
_CHUNK_BYTES: Final = 1 << 20
_CONNECT_SECONDS: Final = 10.0
_MOST_ANSWER_BYTES: Final = 16 << 20
# Of the request and not of the origin: what came with others is tried by itself.
_OF_THE_REQUEST: Final = frozenset(
    {
        http.HTTPStatus.BAD_REQUEST,
        http.HTTPStatus.CONFLICT,
        http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        http.HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_ANSWERED: Final = frozenset({http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED, http.HTTPStatus.CONFLICT})
_REFERENCED: Final = "00081199"
_FAILED: Final = "00081198"
_INSTANCE: Final = "00081155"
_REASON: Final = "00081197"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What an answer says: its status, the instances that it has, and why it has not the others."""

    status: int
    stored: frozenset[str] = frozenset()
    failed: Mapping[str, int] = field(default_factory=dict)


class StowLane:
    """One request at a time to one origin. Thread: one owner.

    Args:
        name: the destination's.
        destination: its settings.
        board: what is to be sent.
        stopping: ends the work after the request under way.
        count: told of each answer: the destination's name, and what it came to.
        tries: how often an instance is sent whose failure says neither that it is its own nor that it will pass.
        admit: returns when so many bytes may begin to be sent.
    """

    def __init__(
        self,
        name: str,
        destination: StowDestination,
        board: Board,
        *,
        stopping: threading.Event,
        count: Callable[[str, str], None] = lambda _destination, _result: None,
        tries: int,
        admit: Callable[[int], None] = lambda _size_bytes: None,
    ) -> None:
        self._name = name
        self._destination = destination
        self._board = board
        self._stopping = stopping
        self._count = count
        self._tries = tries
        self._admit = admit
        self._failures = 0
        self._pool = pool_of(destination, destination.timeout_seconds)

    def run(self) -> None:
        """Send until the stop; the thread's boundary."""
        while not self._stopping.is_set():
            try:
                if not self.step():
                    self._board.wait(_LOOK_SECONDS)
            except Exception:
                _logger.exception("stow_lane_failed destination=%s", self._name)
                self._failures += 1
            if self._failures:
                self._stopping.wait(pause_of(self._failures))

    def step(self) -> bool:
        """Send the next batch; False when nothing is due."""
        batch = self._board.take(self._name)
        if batch is None:
            self._failures = 0
            return False
        reason = ""
        try:
            files = self._files(batch)
            if files:
                answered = self._post(batch, files)
                self._write(batch, [self._judge(batch, each, answered, is_alone=len(files) == 1) for each in files])
            self._failures = 0
            self._board.hold_up(batch.transfer, "")
        except (TransientError, OSError) as error:
            self._failures += 1
            reason = text_of(error)
            _logger.warning(
                "share_held_up destination=%s delivery=%s reason=%s", self._name, batch.transfer.name, reason
            )
        finally:
            self._board.put_back(batch, reason)
        return True

    def _files(self, batch: Batch) -> list[JobInstance]:
        """Return the instances whose files are whole; what is not is written down."""
        folder = _folder_of(batch)
        whole = []
        for instance in batch.instances:
            try:
                folder.whole_file(instance.number)
                whole.append(instance)
            except PeerError as error:
                self._write(batch, [(self._answer(batch, instance, InstanceState.FAILED, str(error)), False)])
        return whole

    def _post(self, batch: Batch, instances: list[JobInstance]) -> _Stored:
        """Send instances in one request. Raises `TransientError` when the origin says nothing of them."""
        self._admit(sum(each.bytes for each in instances))
        boundary = uuid4().hex
        head = b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n"
        tail = b"--" + boundary.encode() + b"--\r\n"
        length = sum(len(head) + each.bytes + len(b"\r\n") for each in instances) + len(tail)
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(length),
            **authorization_of(self._destination),
        }
        try:
            response = self._pool.request(
                "POST",
                f"{self._destination.url.rstrip('/')}/studies",
                body=_body(_folder_of(batch), instances, head, tail),
                headers=headers,
                preload_content=False,
            )
        except HTTPError as error:
            raise TransientError(f"the origin does not answer: {type(error).__name__}") from error
        try:
            body = response.read(_MOST_ANSWER_BYTES, decode_content=True)
        except HTTPError as error:
            raise TransientError(f"the origin's answer breaks off: {type(error).__name__}") from error
        finally:
            response.release_conn()
        if response.status in _ANSWERED:
            return _stored(response.status, body)
        if response.status in _OF_THE_REQUEST:
            return _Stored(response.status)
        raise TransientError(f"the origin answers status {response.status}")

    def _judge(self, batch: Batch, instance: JobInstance, answered: _Stored, *, is_alone: bool) -> tuple[Answer, bool]:
        """Return what is to be written of an instance, and whether it is sent by itself the next time."""
        uid = instance.sop_instance_uid
        reason = answered.failed.get(uid)
        if reason is None and (uid in answered.stored or answered.status == http.HTTPStatus.OK):
            return self._answer(batch, instance, InstanceState.DONE, "", 0), False
        if reason is not None:
            match verdict_of_status(reason):
                case Verdict.STORED:
                    return self._answer(batch, instance, InstanceState.DONE, f"status {reason:04X}H", reason), False
                case Verdict.NEVER:
                    return self._answer(batch, instance, InstanceState.FAILED, f"status {reason:04X}H", reason), False
                case Verdict.AGAIN:
                    return self._answer(batch, instance, InstanceState.QUEUED, f"status {reason:04X}H", reason), False
                case Verdict.SOMETIMES:
                    return self._strike(batch, instance, f"status {reason:04X}H", reason), False
        told = f"the origin answers status {answered.status}, and nothing of it"
        if not is_alone:
            return self._answer(batch, instance, InstanceState.QUEUED, told), True
        return self._strike(batch, instance, told), True

    def _strike(self, batch: Batch, instance: JobInstance, reason: str, status: int | None = None) -> Answer:
        strikes = batch.transfer.strikes.get(instance.number, 0) + 1
        if strikes >= self._tries:
            return self._answer(batch, instance, InstanceState.FAILED, f"{reason}, {strikes} times", status)
        return self._answer(batch, instance, InstanceState.QUEUED, reason, status, is_strike=True)

    def _answer(
        self,
        batch: Batch,
        instance: JobInstance,
        state: InstanceState,
        reason: str,
        status: int | None = None,
        *,
        is_strike: bool = False,
    ) -> Answer:
        return self._board.answer_of(batch.transfer, instance.number, state, reason, status, is_strike=is_strike)

    def _write(self, batch: Batch, answers: list[tuple[Answer, bool]]) -> None:
        """Write answers down, then take them in. Raises `OSError`: then all of them are sent again."""
        batch.transfer.folder.record([answer for answer, _ in answers])
        for answer, is_alone in answers:
            self._board.note(batch.transfer, answer, is_alone=is_alone)
            self._count(self._name, "again" if answer.state is InstanceState.QUEUED else answer.state)


def pool_of(destination: StowDestination, timeout_seconds: float) -> urllib3.PoolManager:
    """Return connections to an origin, which may be through a proxy; nothing is tried again."""
    timeout = urllib3.Timeout(_CONNECT_SECONDS, timeout_seconds)
    ca = str(destination.ca_certificate) if destination.ca_certificate is not None else None
    shared: dict[str, Any] = {"maxsize": 1, "timeout": timeout, "ca_certs": ca, "retries": False}
    proxy = destination.proxy_url
    return urllib3.ProxyManager(proxy, **shared) if proxy else urllib3.PoolManager(**shared)


def authorization_of(destination: StowDestination) -> dict[str, str]:
    """Return the header that the file has; it is read each time, since it may be exchanged.

    Raises:
        TransientError: it cannot be read.
    """
    file = destination.authorization_file
    if file is None:
        return {}
    try:
        return {"Authorization": file.read_text("latin-1").strip()}
    except OSError as error:
        raise TransientError(f"authorization_file cannot be read: {error.strerror}") from error


def _folder_of(batch: Batch) -> SharedDelivery:
    folder = batch.transfer.folder
    assert isinstance(folder, SharedDelivery)
    return folder


def _body(folder: SharedDelivery, instances: list[JobInstance], head: bytes, tail: bytes) -> Iterator[bytes]:
    """Yield the parts, whatever their size, a piece at a time."""
    for instance in instances:
        yield head
        with open_regular(folder.file_of(instance.number)) as file:
            while piece := file.read(_CHUNK_BYTES):
                yield piece
        yield b"\r\n"
    yield tail


def _stored(status: int, body: bytes) -> _Stored:
    """Return what an answer in the DICOM JSON model says; what is none says nothing of any instance."""
    stored, failed = set(), {}
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        document = json.loads(body)
        document = document[0] if isinstance(document, list) else document
        for item in document.get(_FAILED, {}).get("Value", []):
            failed[str(item[_INSTANCE]["Value"][0])] = int(item.get(_REASON, {}).get("Value", [0x0110])[0])
        for item in document.get(_REFERENCED, {}).get("Value", []):
            stored.add(str(item[_INSTANCE]["Value"][0]))
    return _Stored(status, frozenset(stored), failed)
