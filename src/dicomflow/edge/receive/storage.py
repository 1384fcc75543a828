"""The Storage service: one C-STORE from its command to its answer (PS3.4 B, PS3.7 9.1.1).

Success is answered only for an instance that its lane has made durable. The first check that fails decides the
refusal; the rest of the data set is read and thrown away. Nothing of the data set is decoded but four UIDs.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Final

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.scan import Identity, Outcome, read_identity, scan
from dicomflow.dicom.uids import is_usable, strip_padding
from dicomflow.dimse.command import Command
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.status import Refusal, Status
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.incoming import Incoming
from dicomflow.edge.spool.lane import Lane
from dicomflow.errors import PeerError

__all__ = ["REFUSALS", "StoreReception"]

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E

# What is kept of the data set's head for the scan; four UIDs stand within the first kilobytes.
_MAX_HEAD_BYTES: Final = 64 << 10
_FIRST_LOOK_BYTES: Final = 512

# Every refusal of a C-STORE with its fixed comment; the conformance statement is made from these.
REFUSALS: Final = {
    "sop_class": Refusal(Status.SOP_CLASS_NOT_SUPPORTED, "SOP class does not fit the presentation context"),
    "sop_instance": Refusal(Status.INVALID_SOP_INSTANCE, "Affected SOP Instance UID missing or illegal"),
    "no_data_set": Refusal(Status.CANNOT_UNDERSTAND, "C-STORE without a data set"),
    "low_space": Refusal(Status.OUT_OF_RESOURCES, "free space is below the limit"),
    "no_space": Refusal(Status.OUT_OF_RESOURCES, "no space left on the spool"),
    "write": Refusal(Status.OUT_OF_RESOURCES, "the spool cannot be written"),
    "draining": Refusal(Status.OUT_OF_RESOURCES, "the receiver is stopping"),
    "framing": Refusal(Status.CANNOT_UNDERSTAND, "data set begins with file meta information"),
    "unreadable": Refusal(Status.CANNOT_UNDERSTAND, "data set cannot be read up to group 0020"),
    "class_mismatch": Refusal(Status.DATA_SET_MISMATCH, "SOP Class UID differs from the command's", (_SOP_CLASS_UID,)),
    "instance_mismatch": Refusal(
        Status.DATA_SET_MISMATCH, "SOP Instance UID differs from the command's", (_SOP_INSTANCE_UID,)
    ),
    "class_missing": Refusal(Status.CANNOT_UNDERSTAND, "SOP Class UID missing or illegal", (_SOP_CLASS_UID,)),
    "instance_missing": Refusal(Status.CANNOT_UNDERSTAND, "SOP Instance UID missing or illegal", (_SOP_INSTANCE_UID,)),
    "study_missing": Refusal(Status.CANNOT_UNDERSTAND, "Study Instance UID missing or illegal", (_STUDY_INSTANCE_UID,)),
    "series_missing": Refusal(
        Status.CANNOT_UNDERSTAND, "Series Instance UID missing or illegal", (_SERIES_INSTANCE_UID,)
    ),
    "internal": Refusal(Status.PROCESSING_FAILURE, "internal error"),
}

_logger = logging.getLogger(__name__)


class StoreReception:
    """One C-STORE on its way into the spool. Thread: one owner. `finish` or `discard` ends it."""

    def __init__(self, context: AcceptedContext, command: Command) -> None:
        self.context = context
        self.command = command
        self.refusal: Refusal | None = None
        self.size_bytes = 0
        self._sop_class_uid = strip_padding(command.affected_sop_class_uid or b"")
        self._sop_instance_uid = strip_padding(command.affected_sop_instance_uid or b"")
        self._head: bytearray | None = bytearray()
        self._taken_bytes = 0  # of the data set, while its head is kept
        self._scan_at_bytes = 0  # how long the head must be for the next scan
        self._is_identified = False
        self._data_set_offset = 0
        self._unwritten_meta = b""  # goes to disk with the first bytes of the data set
        self._file: Incoming | None = None

    def begin(
        self,
        lane: Lane,
        watermark: Watermark,
        *,
        association_id: str,
        number: int,
        calling_ae_title: str,
        called_ae_title: str,
        is_draining: bool,
        near_bytes: int = 0,
    ) -> None:
        """Check the command and open the file, or set `refusal`. Raises `OSError`."""
        refusal = self._check_command(watermark, is_draining=is_draining)
        if refusal is not None:
            self._refuse(refusal)
            return
        meta = encode_file_meta(
            self._sop_class_uid,
            self._sop_instance_uid,
            self.context.transfer_syntax,
            calling_ae_title,
            called_ae_title,
        )
        self._data_set_offset = len(meta)
        self._unwritten_meta = meta
        self._file = lane.create(association_id, number, near_bytes)

    def take(self, fragments: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        """Write the next bytes of the data set, and check them while they are its head."""
        if self._file is None:
            return
        if self._head is not None:
            self._take_head(self._head, fragments, is_last=is_last)
        if self._file is not None and fragments:
            try:
                if self._unwritten_meta:
                    fragments, self._unwritten_meta = [self._unwritten_meta, *fragments], b""
                self._file = self._file.write(fragments)
            except OSError as error:
                self.fail(error)

    def finish(self, peer: str) -> bool:
        """End the data set: make the instance durable, or return False with `refusal` set."""
        if self._file is None:
            return False
        if not self._is_identified:
            self._walk(self._file)
        if self._file is None:
            return False
        self.size_bytes = self._file.size_bytes
        try:
            self._file.commit(peer)
        except OSError as error:
            self.fail(error)
            return False
        self._file = None
        return True

    def discard(self) -> None:
        """Throw away what came: the association ended, or it is refused."""
        if self._file is not None:
            file, self._file = self._file, None
            file.discard()

    def fail(self, error: Exception) -> None:
        """Refuse after the spool failed, when the sender may try again later, or after a bug of ours."""
        if isinstance(error, OSError):
            _logger.error("spool_failed error=%s errno=%s", type(error).__name__, error.errno)
            self._refuse(REFUSALS["no_space" if is_full(error) else "write"])
        else:
            self._refuse(REFUSALS["internal"])

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = self.refusal or refusal
        self._head = None
        self.discard()

    def _check_command(self, watermark: Watermark, *, is_draining: bool) -> Refusal | None:
        if self._sop_class_uid != self.context.abstract_syntax:
            return REFUSALS["sop_class"]
        if not is_usable(self._sop_instance_uid):
            return REFUSALS["sop_instance"]
        if is_draining:
            return REFUSALS["draining"]
        if watermark.refuses:
            return REFUSALS["low_space"]
        return None if self.command.has_data_set else REFUSALS["no_data_set"]

    def _take_head(self, head: bytearray, fragments: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        # Nearly always the first fragment has what is wanted; if not, the head is put together from what comes.
        if not head and fragments and len(fragments[0]) >= _FIRST_LOOK_BYTES:
            self._scan(fragments[0], is_whole=is_last and len(fragments) == 1)
            if self._head is None:
                return
        for fragment in fragments:
            head += fragment[: _MAX_HEAD_BYTES - len(head)]
            self._taken_bytes += len(fragment)
        if len(head) < min(self._scan_at_bytes, _MAX_HEAD_BYTES) and not is_last:
            return
        # Twice as much before it is scanned again, or a sender that drips would have it scanned at each byte.
        self._scan_at_bytes = 2 * len(head)
        self._scan(head, is_whole=is_last and self._taken_bytes == len(head))
        if len(head) >= _MAX_HEAD_BYTES:
            self._head = None

    def _scan(self, head: bytes | bytearray | memoryview, *, is_whole: bool) -> None:
        """Look for the identity in the head, and let go of it if no more of it is needed."""
        try:
            found = scan(head, self.context.transfer_syntax, complete=is_whole)
        except PeerError:
            self._refuse(REFUSALS["framing"])
            return
        if isinstance(found, Identity):
            self._head = None
            self._take_identity(found)
        elif found is Outcome.UNUSUAL:
            self._head = None

    def _walk(self, file: Incoming) -> None:
        """Look for the identity in all that was received."""
        try:
            with file.open_written() as written:
                written.seek(self._data_set_offset)
                self._take_identity(read_identity(written, self.context.transfer_syntax))
        except PeerError:
            self._refuse(REFUSALS["unreadable"])
        except OSError as error:
            self.fail(error)

    def _take_identity(self, identity: Identity) -> None:
        self._is_identified = True
        refusal = self._check_identity(identity)
        if refusal is not None:
            self._refuse(refusal)

    def _check_identity(self, identity: Identity) -> Refusal | None:
        """Compare the data set's UIDs with the command's and with the rules of PS3.5 9.1."""
        sop_class_uid = _uid(identity.sop_class_uid)
        sop_instance_uid = _uid(identity.sop_instance_uid)
        if sop_class_uid is None:
            return REFUSALS["class_missing"]
        if sop_instance_uid is None:
            return REFUSALS["instance_missing"]
        if sop_class_uid != self._sop_class_uid:
            return REFUSALS["class_mismatch"]
        if sop_instance_uid != self._sop_instance_uid:
            return REFUSALS["instance_mismatch"]
        if _uid(identity.study_instance_uid) is None:
            return REFUSALS["study_missing"]
        return REFUSALS["series_missing"] if _uid(identity.series_instance_uid) is None else None


@functools.lru_cache(maxsize=1024)  # all but one of an instance's UIDs came before
def _uid(value: bytes | None) -> str | None:
    """Return a usable UID's text; None for an absent, empty, illegal or multi-valued one."""
    uid = strip_padding(value or b"")
    return uid if is_usable(uid) else None
