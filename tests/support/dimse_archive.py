"""An archive that is asked over DIMSE, by our own requestor's core or by foreign programs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_role
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind as PatientRoot
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot
from waiting import WAIT_SECONDS

from dicomflow.archive.archive import Archive
from dicomflow.archive.dimse.move import MoveDestination
from dicomflow.archive.dimse.peers import Peers
from dicomflow.archive.dimse.services import ArchiveSite, operations
from dicomflow.network.server import DimseServer
from dicomflow.network.settings import ArchivePeer, DimseSettings

__all__ = ["ALLOWED", "PatientRoot", "StudyRoot", "build_role", "find", "serving"]

ALLOWED = {"READER": ArchivePeer(query=True, retrieve=True), "NOBODY": ArchivePeer()}


@contextmanager
def serving(
    archive: Archive,
    peers: Mapping[str, ArchivePeer] = ALLOWED,
    destinations: Mapping[str, MoveDestination] | None = None,
    **settings: Any,
) -> Iterator[DimseServer]:
    """Serve an archive on a free port of this machine."""
    chosen = DimseSettings(ae_title="ARCHIVE", bind="127.0.0.1", port=0, **settings)
    server = DimseServer(chosen, ArchiveSite(archive, Peers(peers), operations(destinations or {})).serve)
    try:
        yield server
    finally:
        server.close()


def find(
    port: int,
    keys: Mapping[str, Any] | Dataset,
    model: str = StudyRoot,
    calling: str = "READER",
    ext_neg: Any = (),
    called: str = "ARCHIVE",
) -> tuple[list[Dataset], list[int], str]:
    """Ask as pynetdicom does; return the answers, all status codes, and the last comment."""
    ae = AE(calling)
    ae.add_requested_context(model)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_SECONDS
    identifier = keys if isinstance(keys, Dataset) else _data_set(keys)
    association = ae.associate("127.0.0.1", port, ae_title=called, ext_neg=list(ext_neg))
    assert association.is_established
    answers, statuses, comment = [], [], ""
    for status, answer in association.send_c_find(identifier, model):
        statuses.append(status.Status)
        comment = status.get("ErrorComment", "")
        if answer is not None:
            answers.append(answer)
    association.release()
    return answers, statuses, comment


def _data_set(keys: Mapping[str, Any]) -> Dataset:
    data_set = Dataset()
    for keyword, value in keys.items():
        setattr(data_set, keyword, value)
    return data_set
