"""Retrieval from a DICOMweb origin: searches say what there is, WADO-RS gives the objects, some of them ahead.

An object is taken as the origin has it where that is accepted, else as the origin decompresses it. What is fetched is
kept in a file without a name as long as it is read.
"""

import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO, Final, cast

from dicomflow.archive.errors import BadQueryError, NotHeldError
from dicomflow.archive.query import Keys, Question
from dicomflow.archive.remote.client import NotAcceptableError, OriginClient
from dicomflow.archive.remote.query import RemoteQuery
from dicomflow.archive.retrieval import Pair, Reading, Selection, StoredInstance
from dicomflow.bucket.ranged import RangedFile
from dicomflow.dicom.attributes import Level
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, is_usable
from dicomflow.errors import PeerError, PermanentError

__all__ = ["RemoteRetrieval"]

_AT_ONCE: Final = 8
"""Objects of one operation that are fetched at once: at HealthImaging's rate each takes a sixth of a second."""
_AHEAD: Final = 16
_IN_MEMORY_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 4 << 20
_HEAD_BYTES: Final = 64 << 10
_ANY: Final = "*"
_SOP_CLASS, _SYNTAX, _NUMBER, _SERIES_NUMBER = 0x00080016, 0x00083002, 0x00200013, 0x00200011
_UIDS: Final = (0x0020000D, 0x0020000E, 0x00080018)
_PATIENT_ID: Final = 0x00100020
_ROOT: Final = "1.2.840.10008.1.2.4."
_LIKELY: Final = (*(_ROOT + last for last in ("202", "201", "90", "50", "91", "203")), EXPLICIT_VR_LITTLE_ENDIAN)
"""What HealthImaging keeps objects in; which of them tells the object alone."""
_PLAIN: Final = frozenset({EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN})


@dataclass(slots=True)
class _Held:
    """An object that was fetched."""

    instance: StoredInstance
    file: BinaryIO
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int, length: int) -> bytes:
        with self.lock:
            self.file.seek(start)
            return self.file.read(length)


class RemoteRetrieval:
    """The instances of an origin. Threads: any; `_lock` guards what is held."""

    def __init__(self, client: OriginClient) -> None:
        self._client = client
        self._query = RemoteQuery(client)
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    @property
    def at_once(self) -> int:
        """Return 1: `reading` fetches ahead."""
        return 1

    def find(self, selection: Selection) -> list[StoredInstance]:
        """Return what a selection means; see `Retrieval`. All of a series are read, however many."""
        if selection.version is not None:
            raise BadQueryError("an origin is not asked for versions")
        keys: dict[int, Any] = {
            tag: "\\".join(uids)
            for tag, uids in zip(_UIDS, (selection.studies, selection.series, selection.instances), strict=True)
            if uids
        }
        if not keys and selection.patient_id is None:
            raise BadQueryError("nothing is given to select by")
        if not keys:
            studies = [uid for (uid,) in self._rows(Level.STUDY, {_PATIENT_ID: selection.patient_id or ""}, _UIDS[:1])]
            return self._instances({_UIDS[0]: "\\".join(studies)}) if studies else []
        if selection.patient_id is not None:
            keys[_PATIENT_ID] = selection.patient_id
        return self._instances(keys)

    def stored_syntaxes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return nothing: an origin does not say what it has most of."""
        return ()

    def syntaxes_of(self, instance: StoredInstance) -> tuple[str, ...]:
        """Return an instance's transfer syntax, or those that it is likely in; see `Retrieval`."""
        return (instance.transfer_syntax_uid,) if instance.transfer_syntax_uid else _LIKELY

    def reading(self, waiting: Sequence[StoredInstance]) -> Reading:
        """Begin to fetch instances; see `Retrieval`."""
        return _RemoteReading(self, waiting)

    def open(self, instance: StoredInstance) -> BinaryIO:
        """Return an object as a file; see `Retrieval`."""
        held = self._of(instance)
        return cast("BinaryIO", RangedFile(held.instance.size_bytes, lambda start, length: _read(held, start, length)))

    def read(self, instance: StoredInstance, start: int, length: int) -> bytes:
        """Return bytes of an object; see `Retrieval`."""
        return _read(self._of(instance), start, length)

    def chunks(self, instance: StoredInstance) -> Iterator[bytes]:
        """Yield an object's bytes; see `Retrieval`."""
        held = self._of(instance)
        for start in range(0, held.instance.size_bytes, _CHUNK_BYTES):
            yield _read(held, start, min(_CHUNK_BYTES, held.instance.size_bytes - start))

    def fetch(self, instance: StoredInstance, accepted: Collection[str]) -> _Held:
        """Fetch an object in one of the accepted transfer syntaxes, or as it is where it cannot be had so.

        Raises:
            NotHeldError: the origin does not have it, or gives what is another's.
            PermanentError, TransientError: it refuses, or does not answer.
        """
        known = instance.transfer_syntax_uid
        wants_plain = bool(_PLAIN & set(accepted))
        if wants_plain and known not in accepted and (known or set(accepted) <= _PLAIN):
            try:
                return self._fetched(instance, EXPLICIT_VR_LITTLE_ENDIAN)
            except NotAcceptableError:
                return self._fetched(instance, _ANY)
        held = self._fetched(instance, _ANY)
        if held.instance.transfer_syntax_uid in accepted or not wants_plain:
            return held
        try:
            plain = self._fetched(instance, EXPLICIT_VR_LITTLE_ENDIAN)
        except NotAcceptableError:
            return held
        held.file.close()
        return plain

    @contextmanager
    def holding(self, held: _Held) -> Iterator[StoredInstance]:
        """Give what was fetched to be read by its location, for as long as this lasts."""
        with self._lock:
            self._held[held.instance.location] = held
        try:
            yield held.instance
        finally:
            with self._lock:
                del self._held[held.instance.location]
            held.file.close()

    def _of(self, instance: StoredInstance) -> _Held:
        with self._lock:
            held = self._held.get(instance.location)
        return held if held is not None else self.fetch(instance, ())

    def _fetched(self, instance: StoredInstance, transfer_syntax: str) -> _Held:
        path = instance.location.partition("#")[0]
        try:
            file = self._client.download(path, transfer_syntax, _new_file)
        except NotHeldError:
            raise
        except PermanentError as error:  # of one object, whose neighbours may be had
            raise NotHeldError(str(error)) from error
        try:
            size = file.tell()
            file.seek(0)
            meta = decode_file_meta(file.read(_HEAD_BYTES))
        except PeerError as error:
            file.close()
            raise NotHeldError(
                f"what the origin gives for {instance.sop_instance_uid} is no object: {error}"
            ) from error
        if meta.sop_instance_uid != instance.sop_instance_uid:
            file.close()
            raise NotHeldError(f"what the origin gives for {instance.sop_instance_uid} is another object")
        location = f"{path}#{id(file)}"
        changed = replace(
            instance, transfer_syntax_uid=meta.transfer_syntax_uid, size_bytes=size, sha256=None, location=location
        )
        return _Held(changed, file)

    def _instances(self, keys: Keys) -> list[StoredInstance]:
        wanted = (*_UIDS, _SOP_CLASS, _SYNTAX, _SERIES_NUMBER, _NUMBER)
        found = []
        for study, series, instance, sop_class, syntax, series_number, number in self._rows(
            Level.INSTANCE, keys, wanted
        ):
            uids = (study, series, instance)
            if not all(isinstance(uid, str) and is_usable(uid) for uid in uids):
                raise NotHeldError("the origin tells of an instance without a UID")
            path = "/studies/{}/series/{}/instances/{}".format(*uids)
            # Of several syntaxes that it can be had in the origin does not say which is its own.
            known = syntax if isinstance(syntax, str) else ""
            stored = StoredInstance(study, series, instance, str(sop_class or ""), known, 0, None, path)
            found.append(((study, _order(series_number), series, _order(number), instance), stored))
        return [stored for _, stored in sorted(found, key=lambda each: each[0])]

    def _rows(self, level: Level, keys: Keys, wanted: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        answers = self._query.ask(Question(level, keys, frozenset(wanted)))
        places = {each.tag: at for at, each in enumerate(answers.fields)}
        for batch in answers.batches:
            for row in batch:
                yield tuple(row[places[tag]] if tag in places else None for tag in wanted)


class _RemoteReading:
    """One operation's reading; what comes next is fetched meanwhile. Thread: one owner, beside those that fetch."""

    def __init__(self, retrieval: RemoteRetrieval, waiting: Sequence[StoredInstance]) -> None:
        self._retrieval = retrieval
        self._waiting = waiting
        self._pool = ThreadPoolExecutor(_AT_ONCE, "fetch")
        self._coming: dict[str, tuple[frozenset[str], Future[_Held]]] = {}

    @contextmanager
    def take(self, instance: StoredInstance, accepted: Collection[Pair]) -> Iterator[StoredInstance]:
        """Give an object that was fetched; see `Reading`."""
        future = self._begin(instance, accepted)
        for following in islice(self._waiting, _AHEAD):
            self._begin(following, accepted)
        del self._coming[instance.location]
        with self._retrieval.holding(future.result()) as held:
            yield held

    def close(self) -> None:
        """Fetch no more, and let go of what came."""
        for _, future in self._coming.values():
            _drop(future)
        self._coming.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, instance: StoredInstance, accepted: Collection[Pair]) -> "Future[_Held]":
        """Return an object that is being fetched in what is accepted of its class, or begin to."""
        syntaxes = frozenset(syntax for kind, syntax in accepted if kind == instance.sop_class_uid)
        begun = self._coming.get(instance.location)
        if begun is not None:
            if begun[0] == syntaxes:
                return begun[1]
            _drop(begun[1])  # another association was agreed on meanwhile
        future = self._pool.submit(self._retrieval.fetch, instance, syntaxes)
        self._coming[instance.location] = syntaxes, future
        return future


def _drop(future: "Future[_Held]") -> None:
    """Have a file closed that nobody takes, now or when it has come."""

    def close(done: "Future[_Held]") -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().file.close()

    if not future.cancel():
        future.add_done_callback(close)


def _read(held: _Held, start: int, length: int) -> bytes:
    found = held.read(start, length)
    if len(found) != length:
        raise NotHeldError(f"the object of {held.instance.sop_instance_uid} has fewer than {start + length:,} bytes")
    return found


def _new_file() -> BinaryIO:
    return cast("BinaryIO", tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES))


def _order(number: Any) -> tuple[bool, float]:
    """Return what to sort by; what has no number comes last."""
    try:
        return False, float(number)
    except (TypeError, ValueError):
        return True, 0.0
