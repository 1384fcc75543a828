"""Stored instances as data sets for a C-STORE: as stored where that is accepted, else converted to what is.

A small object is read into memory, a large one goes through a file without a name, which is mapped.
"""

import contextlib
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from dicomflow.archive.archive import Archive
from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.retrieval import Pair, Reading, StoredInstance
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomflow.errors import PeerError, PermanentError

__all__ = ["NoContextError", "PreparedObject", "pairs_of", "prepare"]

_IN_MEMORY_BYTES: Final = 16 << 20
_HEAD_BYTES: Final = 64 << 10
# What an object can be converted to, the first that is accepted.
_CONVERTED: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


class NoContextError(PermanentError):
    """The peer accepts no presentation context that an object can be sent on."""


class PreparedObject:
    """An object that is ready to be sent, until `close`. Thread: one owner."""

    def __init__(self, context_id: int, pieces: Iterator[bytes], size_bytes: int) -> None:
        self.context_id = context_id
        self._views: list[memoryview] = []
        self._mapped: mmap.mmap | None = None
        if size_bytes <= _IN_MEMORY_BYTES:
            parts = list(pieces)
            whole = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        else:
            # It has no name, and goes with the mapping.
            with tempfile.TemporaryFile() as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            whole = memoryview(self._mapped)
        self._views.append(whole)
        try:
            at = decode_file_meta(whole[:_HEAD_BYTES]).data_set_offset
        except PeerError as error:
            self.close()
            raise NotHeldError(f"an object cannot be read: {error}") from error
        self._views.append(whole[at:])

    @property
    def data_set(self) -> memoryview:
        """The encoded data set."""
        return self._views[-1]

    def close(self) -> None:
        """Let go of it; what is to be sent of it must have been."""
        while self._views:
            self._views.pop().release()
        if self._mapped is not None:
            with contextlib.suppress(BufferError):  # an association that broke may hold views of what it did not send
                self._mapped.close()
            self._mapped = None


def prepare(
    archive: Archive, reading: Reading, instance: StoredInstance, contexts: Mapping[Pair, int]
) -> PreparedObject:
    """Read an object for one of the contexts that are accepted, of which it takes its own syntax's first.

    Raises:
        NoContextError: none is for it.
        NotHeldError, FrameError: it is not there, or cannot be read or converted.
        TransientError: the store does not answer.
    """
    if not any(kind == instance.sop_class_uid for kind, _ in contexts):
        raise NoContextError(f"no presentation context for {instance.sop_class_uid}")
    with reading.take(instance, contexts.keys()) as held:
        return _prepared(archive, held, contexts)


def pairs_of(archive: Archive, instances: Sequence[StoredInstance], most: int) -> list[Pair]:
    """Return what to propose for instances, up to `most` contexts: each as stored, then what it can be converted to."""
    can_convert = archive.conversions.can_convert
    stored: dict[Pair, None] = {}
    for each in instances:
        with contextlib.suppress(NotHeldError):  # it is told of when its turn comes
            stored |= dict.fromkeys((each.sop_class_uid, syntax) for syntax in archive.retrieval.syntaxes_of(each))
    other = dict.fromkeys((kind, target) for target in _CONVERTED for kind, syntax in stored if can_convert(syntax))
    return list({**stored, **other})[:most]


def _prepared(archive: Archive, instance: StoredInstance, contexts: Mapping[Pair, int]) -> PreparedObject:
    (syntax,) = archive.retrieval.syntaxes_of(instance)
    context_id = contexts.get((instance.sop_class_uid, syntax))
    if context_id is not None:
        return PreparedObject(context_id, archive.retrieval.chunks(instance), instance.size_bytes)
    if archive.conversions.can_convert(syntax):
        for target in _CONVERTED:
            context_id = contexts.get((instance.sop_class_uid, target))
            if context_id is not None:
                is_implicit = target == IMPLICIT_VR_LITTLE_ENDIAN
                pieces = archive.conversions.convert(instance, is_implicit=is_implicit)
                # What comes of it is larger than what is stored; how large shows when it is made.
                return _converted(context_id, pieces)
    raise NoContextError(f"no presentation context for {instance.sop_class_uid} in {syntax}")


def _converted(context_id: int, pieces: Iterator[bytes]) -> PreparedObject:
    begin: list[bytes] = []
    size = 0
    for piece in pieces:
        begin.append(piece)
        size += len(piece)
        if size > _IN_MEMORY_BYTES:
            break
    return PreparedObject(context_id, chain(begin, pieces), size)
