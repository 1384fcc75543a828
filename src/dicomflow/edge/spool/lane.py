"""A worker's lane: instances come in here, and nothing of them is anywhere else until they are durable."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from dicomflow.edge.spool import segments
from dicomflow.edge.spool.associations import AssociationLog
from dicomflow.edge.spool.durable import is_named_by_fsync, sync_directory
from dicomflow.edge.spool.incoming import Incoming, IncomingFile, IncomingRecord
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.records import MAX_RECORD_BYTES
from dicomflow.edge.spool.spares import Spares

__all__ = ["Lane", "discard_incoming"]

_logger = logging.getLogger(__name__)


class Lane(Layout):
    """The lane of one process in a spool; opening it makes what is missing. Threads: any.

    Args:
        root: the spool's folder.
        name: the lane's; no other process has it.
        fsync: whether a commit waits for the disk.
        spare_bytes: how much is kept of stored instances; 0 writes over none.
        segment_bytes: the size of a segment; 0 receives each instance into a file of its own.
    """

    def __init__(
        self, root: Path, name: str = "0", *, fsync: bool = True, spare_bytes: int = 0, segment_bytes: int = 0
    ) -> None:
        super().__init__(root)
        self.make(name)
        self.folder = self.received / name
        self.fsync = fsync
        self.associations = AssociationLog(self.associations_folder)
        self.spares = Spares(self.spares_folder, spare_bytes)
        self.last_bytes = 0  # the size of the instance that was received last
        self.is_named_by_fsync = is_named_by_fsync(root)
        self.segments = self._prepared(segment_bytes) if segment_bytes and segments.is_supported else None

    def create(self, association_id: str, number: int, near_bytes: int = 0) -> Incoming:
        """Begin an instance, perhaps of a size known by others. Raises `OSError`."""

        def _create_file() -> IncomingFile:
            return IncomingFile(
                *(str(self.folder), association_id, number),
                near_bytes=near_bytes,
                spares=self.spares,
                fsync=self.fsync,
                rename_durably=self.rename_durably,
            )

        if self.segments is None or near_bytes > MAX_RECORD_BYTES:
            return _create_file()
        return IncomingRecord(self.segments.append, association_id, number, _create_file)

    def rename_durably(self, rename: Callable[[], None], descriptor: int) -> None:
        """Rename an open file within the lane, and make its bytes and its name durable.

        Bytes and name are synced after the rename, by one fsync where that commits both: power loss in between can
        leave a name whose bytes are not whole, which the digest in it gives away. Raises `OSError`.
        """
        rename()
        if self.fsync:
            os.fsync(descriptor)
            if not self.is_named_by_fsync:
                sync_directory(self.folder)

    def _prepared(self, segment_bytes: int) -> segments.Segments | None:
        """Return the lane's segments with one begun; None where there can be none."""
        prepared = segments.Segments(self.folder, segment_bytes, fsync=self.fsync, rename_durably=self.rename_durably)
        try:
            prepared.prepare()
        except OSError as error:
            _logger.warning("segments_not_used errno=%s", error.errno)
            return None
        return prepared


def discard_incoming(spool: Layout, process_id: int | None = None) -> int:
    """Remove what a process that died, or all processes of an earlier run, left half received; return how many."""
    pattern = "*/*.part" if process_id is None else f"*/*_{process_id}.part"
    count = 0
    for path in list(spool.received.glob(pattern)):
        try:
            path.unlink(missing_ok=True)
            count += 1
        except OSError as error:
            _logger.warning("incoming_not_discarded file=%s errno=%s", path.name, error.errno)
    return count
