"""Requestors of C-MOVE and C-GET, and a node that objects are moved to, as pynetdicom has them."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from framed import ROOT
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove
from stored_archive import STUDY
from waiting import WAIT_SECONDS

from dicomflow.dicom.part10 import decode_file_meta

__all__ = [
    "CAPTURE",
    "EXPLICIT",
    "JPEG_LS",
    "MOVIE",
    "Destination",
    "Getter",
    "StudyGet",
    "StudyMove",
    "as_read",
    "counts",
    "data_set",
    "destined",
    "keys",
    "move",
    "told",
]

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT, JPEG_LS, MOVIE = f"{ROOT}.1", f"{ROOT}.4.80", f"{ROOT}.4.102"


class Destination:
    """A node that objects are moved to; `status` says how the n-th object is answered."""

    def __init__(
        self, *syntaxes: str, status: Callable[[int], int] = lambda _: 0, classes: tuple[str, ...] = (CAPTURE,)
    ) -> None:
        self.status = status
        self.received: list[tuple[Dataset, str]] = []
        self.originators: set[tuple[Any, Any]] = set()
        self.has_come = threading.Event()
        ae = AE("DEST")
        for each in classes:
            ae.add_supported_context(each, list(syntaxes or (EXPLICIT, ROOT, JPEG_LS, MOVIE)))
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self.port = self._server.socket.getsockname()[1]

    def _store(self, event: Any) -> int:
        status = self.status(len(self.received) + 1)
        if status < 0:
            event.assoc.abort()
        self.received.append((event.request, str(event.context.transfer_syntax)))
        self.originators.add(
            (event.request.MoveOriginatorApplicationEntityTitle, event.request.MoveOriginatorMessageID)
        )
        self.has_come.set()
        return max(status, 0)

    def data_sets(self) -> dict[str, tuple[bytes, str]]:
        """Return what came, by SOP Instance UID: the encoded data set and its syntax."""
        return {str(each.AffectedSOPInstanceUID): (each.DataSet.getvalue(), syntax) for each, syntax in self.received}

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()


@contextmanager
def destined(*syntaxes: str, **options: Any) -> Iterator[Destination]:
    """Give a destination."""
    found = Destination(*syntaxes, **options)
    try:
        yield found
    finally:
        found.close()


def keys(level: str = "STUDY", **values: str) -> Dataset:
    """Return an identifier."""
    found = Dataset()
    found.QueryRetrieveLevel = level
    for keyword, value in (values or {"StudyInstanceUID": STUDY}).items():
        setattr(found, keyword, value)
    return found


def told(responses: Any) -> tuple[list[int], Dataset, list[str]]:
    """Return all status codes, the final response, and the list of what failed."""
    codes, last, failed = [], Dataset(), []
    for status, identifier in responses:
        assert "Status" in status
        codes.append(status.Status)
        last = status
        if identifier:
            uids = identifier.FailedSOPInstanceUIDList
            failed = [uids] if isinstance(uids, str) else list(uids)
    return codes, last, failed


def move(
    port: int,
    identifier: Dataset,
    to: str = "DEST",
    model: str = StudyMove,
    calling: str = "READER",
    called: str = "ARCHIVE",
) -> Any:
    """Move as pynetdicom does."""
    ae = AE(calling)
    ae.add_requested_context(model)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_SECONDS
    association = ae.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established
    found = told(association.send_c_move(identifier, to, model, msg_id=7))
    association.release()
    return found


class Getter:
    """A requestor that gets objects; `status` says how the n-th is answered, and `cancel_at` when it has enough."""

    def __init__(self, *syntaxes: str, role: bool = True, status: Callable[[int], int] = lambda _: 0) -> None:
        self.received: dict[str, tuple[bytes, str]] = {}
        self._status = status
        self._syntaxes = list(syntaxes or (EXPLICIT, ROOT))
        self._role = role
        self.cancel_at = 0
        self._association: Any = None

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received[uid] = event.request.DataSet.getvalue(), str(event.context.transfer_syntax)
        if len(self.received) == self.cancel_at:
            self._association.send_c_cancel(7, query_model=StudyGet)
        return self._status(len(self.received))

    def get(self, port: int, identifier: Dataset, model: str = StudyGet, calling: str = "READER") -> Any:
        """Get as pynetdicom does."""
        ae = AE(calling)
        ae.add_requested_context(model)
        ae.add_requested_context(CAPTURE, self._syntaxes)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_SECONDS
        roles = [build_role(CAPTURE, scp_role=True)] if self._role else []
        handlers = [(evt.EVT_C_STORE, self._store)]
        association = ae.associate("127.0.0.1", port, ae_title="ARCHIVE", ext_neg=roles, evt_handlers=handlers)
        assert association.is_established
        self._association = association
        found = told(association.send_c_get(identifier, model, msg_id=7))
        association.release()
        return found


def data_set(content: bytes) -> bytes:
    """Return a file without its meta information."""
    return content[decode_file_meta(content).data_set_offset :]


def as_read(encoded: bytes, syntax: str) -> Dataset:
    """Read an encoded data set."""
    found = read_dataset(io.BytesIO(encoded), is_implicit_VR=syntax == ROOT, is_little_endian=True)
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = UID(syntax)
    return found


def counts(last: Dataset) -> tuple[int, int, int]:
    """Return the counts of a final response."""
    return (
        last.NumberOfCompletedSuboperations,
        last.NumberOfFailedSuboperations,
        last.NumberOfWarningSuboperations,
    )
