"""The other side of storage commitment: requests as a modality encodes them, and pynetdicom that takes reports."""

import threading
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from waiting import WAIT_SECONDS

from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicomflow.dimse.command import Command, CommandField

__all__ = ["ACTION", "CT", "Modality", "action_dataset", "action_information"]

CT = "1.2.840.10008.5.1.4.1.1.2"
ACTION = Command(
    CommandField.N_ACTION_RQ,
    message_id=1,
    requested_sop_class_uid=STORAGE_COMMITMENT.encode(),
    requested_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE.encode(),
    data_set_type=1,
    action_type_id=1,
)


def action_dataset(transaction: str | None, *sops: str) -> Dataset:
    """Return Action Information; without a transaction or references where none are given."""
    information = Dataset()
    if transaction is not None:
        information.TransactionUID = transaction
    items = []
    for sop in sops:
        item = Dataset()
        item.ReferencedSOPClassUID = CT
        item.ReferencedSOPInstanceUID = sop
        items.append(item)
    if items:
        information.ReferencedSOPSequence = items
    return information


def action_information(transaction: str | None = "1.2.9", *sops: str, syntax: str = IMPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    """Encode Action Information."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(buffer, action_dataset(transaction, *sops))
    return bytes(buffer.getvalue())


class Modality:
    """pynetdicom as the SCU of commitment that takes reports, with the role item or without."""

    def __init__(self, *, grants_role: bool = True, status: int = 0x0000) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self._status = status
        application = AE("CT1")
        roles = {"scu_role": False, "scp_role": True} if grants_role else {}
        application.add_supported_context(StorageCommitmentPushModel, **roles)
        before = set(threading.enumerate())
        self._server = application.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._take)]
        )
        self._threads = set(threading.enumerate()) - before
        self.port = self._server.socket.getsockname()[1]

    def _take(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return self._status, None

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        associations = (each for each in threading.enumerate() if type(each).__module__.startswith("pynetdicom"))
        for thread in (*self._threads, *associations):
            thread.join(WAIT_SECONDS)
