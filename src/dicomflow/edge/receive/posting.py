"""Images that come over the web, into the same spool and under the same promises as those of a C-STORE.

The data set is kept as it came; the file meta information is written as for a C-STORE, so that an object that comes by
both ways is the same file. The archive's STOW-RS is one user; it sees this by its own interface.
"""

import io
import re
import threading
import uuid
from dataclasses import dataclass, field
from typing import Final

from dicomflow.dicom.part10 import FileMeta, decode_file_meta
from dicomflow.dicom.scan import Identity, identify
from dicomflow.dicom.uids import (
    is_storage_sop_class,
    is_storage_transfer_syntax,
    is_usable,
    strip_padding,
)
from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.status import Status
from dicomflow.edge.receive.storage import REFUSALS, StoreReception
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.spool.lane import Lane
from dicomflow.errors import PeerError

__all__ = ["Posted", "Posting", "PostingSession"]

# The head that file meta information and the four UIDs are looked for in.
_HEAD_BYTES: Final = 64 << 10
_TRANSFER_SYNTAX_NOT_TAKEN: Final = 0xC122  # PS3.18 Table I.2-2
_NOT_OF_A_TITLE: Final = re.compile(r"[^ -\[\]-~]")
_AE_TITLE_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of one object, with its UIDs as far as they could be read; status 0 for stored."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    status: int = Status.SUCCESS


class Posting:
    """A lane of the spool for what comes over the web. Threads: any.

    Args:
        lane: of this process alone.
        watermark: of the spool.
        ae_title: ours, as the manifest names whom the images were sent to.
        draining: set when no more is taken.
    """

    def __init__(self, lane: Lane, watermark: Watermark, ae_title: str, draining: threading.Event) -> None:
        self.lane = lane
        self.watermark = watermark
        self.ae_title = ae_title
        self.draining = draining

    def open(self, sender: str, peer: str, study_instance_uid: str | None) -> "PostingSession":
        """Begin a request; its objects are told as of one association."""
        title = _NOT_OF_A_TITLE.sub("?", sender).strip()[:_AE_TITLE_LENGTH] or "WEB"
        return PostingSession(self, title, peer, study_instance_uid)


@dataclass(slots=True)
class PostingSession:
    """One request. Thread: one at a time."""

    posting: Posting
    calling_ae_title: str
    peer: str
    study_instance_uid: str | None
    association_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _number: int = 0
    _is_marked: bool = False
    _head: bytearray | None = None
    _reception: StoreReception | None = None
    _posted: Posted = field(default_factory=Posted)

    def begin(self) -> None:
        """Begin an object."""
        self._drop()
        self._head, self._posted = bytearray(), Posted()

    def take(self, data: bytes) -> None:
        """Take the next bytes of its file."""
        if self._head is not None:
            self._head += data
            if len(self._head) >= _HEAD_BYTES:
                self._open()
        elif self._reception is not None:
            self._reception.take([data], is_last=False)
            pause = self.posting.watermark.pause_seconds(len(data))
            if pause:
                self.posting.draining.wait(pause)

    def end(self) -> Posted:
        """Make the object durable, or say why not."""
        if self._head is not None:
            self._open()
        reception, self._reception = self._reception, None
        if reception is None:
            return self._posted
        try:
            reception.take([], is_last=True)
            is_stored = reception.finish(self.peer)
        except Exception as error:  # noqa: BLE001  # around one object of many: it is refused, and its neighbours go on
            reception.fail(error)
            is_stored = False
        self._number += 1
        if not is_stored:
            self._refuse((reception.refusal or REFUSALS["internal"]).status)
        return self._posted

    def close(self) -> None:
        """End the request."""
        self._drop()
        if self._is_marked:
            self._is_marked = False
            self.posting.lane.associations.note_end(self.association_id, "released")

    def _open(self) -> None:
        """Read what the head says of the object, and begin to receive it, or refuse it."""
        head, self._head = bytes(self._head or b""), None
        try:
            meta = decode_file_meta(head)
        except PeerError:
            self._refuse(Status.CANNOT_UNDERSTAND)
            return
        uids = _uids(head, meta)
        self._posted = Posted(*uids)
        status = self._judged(meta)
        if status is not None:
            self._refuse(status)
            return
        sop_class_uid, sop_instance_uid, _, _ = uids
        command = Command(
            CommandField.C_STORE_RQ,
            affected_sop_class_uid=sop_class_uid.encode("ascii"),
            affected_sop_instance_uid=sop_instance_uid.encode("ascii"),
            data_set_type=1,
        )
        reception = StoreReception(AcceptedContext(1, sop_class_uid, meta.transfer_syntax_uid), command)
        try:
            self._mark()
            reception.begin(
                self.posting.lane,
                self.posting.watermark,
                association_id=self.association_id,
                number=self._number,
                calling_ae_title=self.calling_ae_title,
                called_ae_title=self.posting.ae_title,
                is_draining=self.posting.draining.is_set(),
            )
            reception.take([head[meta.data_set_offset :]], is_last=False)
        except OSError as error:
            reception.fail(error)
        self._reception = reception

    def _judged(self, meta: FileMeta) -> int | None:
        """Return the status that an object is refused with by what its head says; None where it may come."""
        if not is_storage_sop_class(self._posted.sop_class_uid):
            return Status.SOP_CLASS_NOT_SUPPORTED if self._posted.sop_class_uid else Status.CANNOT_UNDERSTAND
        if not is_storage_transfer_syntax(meta.transfer_syntax_uid):
            return _TRANSFER_SYNTAX_NOT_TAKEN
        if self.study_instance_uid is not None and self._posted.study_instance_uid != self.study_instance_uid:
            return Status.PROCESSING_FAILURE
        return None

    def _refuse(self, status: int) -> None:
        posted = self._posted
        self._posted = Posted(
            posted.sop_class_uid, posted.sop_instance_uid, posted.study_instance_uid, posted.series_instance_uid, status
        )

    def _mark(self) -> None:
        if not self._is_marked:
            self.posting.lane.associations.note_open(self.association_id)
            self._is_marked = True

    def _drop(self) -> None:
        self._head = None
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.discard()


def _uids(head: bytes, meta: FileMeta) -> tuple[str, str, str, str]:
    """Return class, instance, study and series as the data set names them; class and instance else as its meta does."""
    try:
        found = identify(io.BytesIO(head), head, meta)
    except PeerError:
        found = Identity(None, None, None, None)
    values = (found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid, found.series_instance_uid)
    sop_class_uid, sop_instance_uid, study, series = (_usable(value) for value in values)
    return sop_class_uid or meta.sop_class_uid, sop_instance_uid or meta.sop_instance_uid, study, series


def _usable(value: bytes | None) -> str:
    uid = strip_padding(value or b"")
    return uid if is_usable(uid) else ""
