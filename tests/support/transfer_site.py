"""A destination that answers as it is told, and an edge's transfers in this process, a step at a time."""

import contextlib
import hashlib
import ssl
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
from clocks import Clock
from obstore.store import ObjectStore
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]  # made when it is imported
from scu import CT
from waiting import WAIT_SECONDS

from dicomflow.bucket.keys import job_key, outbound_key, pending_key, returns_key
from dicomflow.bucket.transfer import Job, JobInstance, Pending, PendingTransfer, Returns, decode, encode
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.settings import DeliverySettings, Destination, EdgeSettings, SpoolSettings
from dicomflow.edge.spool.transfers import TransferFolders
from dicomflow.edge.transfer.asker import Asker
from dicomflow.edge.transfer.board import Board
from dicomflow.edge.transfer.courier import Courier
from dicomflow.edge.transfer.lane import Copies, Lane
from dicomflow.edge.transfer.process import routes_of
from dicomflow.edge.transfer.store import TransferStore
from dicomflow.network.settings import DimseSettings

__all__ = ["DROP", "DROP_AFTER", "EDGE", "Pacs", "Site", "data_set_digest", "uid"]

EDGE = "edge-1"
StorageCommitmentPushModelInstance = UID("1.2.840.10008.1.20.1.1")
DROP = -1
DROP_AFTER = -2


class Pacs:
    """A receiver of another make. `script` has by SOP instance the answers that come before Success.

    `DROP` ends the connection before the object is taken, `DROP_AFTER` after it, without an answer.

    With `commits` it is asked for storage commitment, answers with `action_status`, and reports as `report` does.
    """

    def __init__(
        self,
        *syntaxes: str,
        classes: tuple[str, ...] = (CT,),
        tls: ssl.SSLContext | None = None,
        commits: bool = False,
    ) -> None:
        self._is_closed = False
        self.asked: list[tuple[Any, Dataset]] = []
        self.action_status = 0
        self.refuses: dict[str, int | None] = {}
        self.reports_at_once = False
        self.report_status: list[int] = []
        self.script: dict[str, list[int]] = defaultdict(list)
        self.seen: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.digests: dict[str, str] = {}
        self.associations = 0
        self._lock = threading.Lock()
        ae = AE("PACS")
        ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = WAIT_SECONDS
        for each in classes:
            ae.add_supported_context(each, list(syntaxes) or [EXPLICIT_VR_LITTLE_ENDIAN])
        if commits:
            ae.add_supported_context(StorageCommitmentPushModel)
        self._server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            ssl_context=tls,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_N_ACTION, self._act),
            ],
        )
        self.port = self._server.server_address[1]

    def close(self) -> None:
        """Take no more; twice does nothing more."""
        if not self._is_closed:
            self._is_closed = True
            self._server.shutdown()

    def report(self, which: int = -1, to: int | None = None, *, title: str = "PACS", **changes: Any) -> int | None:
        """Report on a request, on its association, or on one of its own to a port; return the status of the answer."""
        association, asked = self.asked[which]
        information = Dataset()
        information.TransactionUID = changes.get("transaction", asked.TransactionUID)
        committed, failed = [], []
        for item in asked.ReferencedSOPSequence:
            uid = str(item.ReferencedSOPInstanceUID)
            (failed if uid in self.refuses else committed).append(item)
            if (reason := self.refuses.get(uid)) is not None:
                item.FailureReason = reason
        information.ReferencedSOPSequence = changes.get("committed", committed)
        information.FailedSOPSequence = failed
        event = changes.get("event_type", 2 if failed else 1)
        arguments = (information, event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        if to is None:
            return getattr(association.send_n_event_report(*arguments)[0], "Status", None)
        ae = AE(title)
        ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = WAIT_SECONDS
        ae.add_requested_context(StorageCommitmentPushModel)
        own = ae.associate("127.0.0.1", to, ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)])
        try:
            if not own.is_established or not own.accepted_contexts:
                return None
            return getattr(own.send_n_event_report(*arguments)[0], "Status", None)
        finally:
            own.release()

    def _act(self, event: Any) -> tuple[int, None]:
        self.asked.append((event.assoc, event.action_information))
        if self.reports_at_once:
            threading.Thread(target=self._report_at_once).start()
        return self.action_status, None

    def _report_at_once(self) -> None:
        with contextlib.suppress(RuntimeError):  # who asked is gone
            status = self.report()
            if status is not None:
                self.report_status.append(status)

    def _accepted(self, _event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self.seen[uid] += 1
            answer = self.script[uid].pop(0) if self.script[uid] else 0
            if answer in {0, DROP_AFTER} or answer >> 12 == 0xB:
                self.taken[uid] += 1
                self.digests[uid] = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        if answer < 0:
            event.assoc.dul.socket.socket.close()
            event.assoc.kill()
            return 0
        return answer


class Site:
    """An edge's transfers in this process; `restart` forgets what is not on disk."""

    def __init__(self, folder: Path, port: int, clock: Clock, part10: Callable[..., bytes], store: ObjectStore) -> None:
        self.store = store
        self.clock = clock
        self.port = port
        self.part10 = part10
        self.spool = folder / "spool"
        self.spool.mkdir(parents=True, exist_ok=True)
        self.destinations = {
            "PACS": Destination(host="127.0.0.1", port=port, ae_title="PACS", timeout_seconds=WAIT_SECONDS)
        }
        self.counts: Counter[str] = Counter()
        self.refuse_below_bytes = 0
        self.listen_seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin again with what the disk has."""
        self.stopping = threading.Event()
        self.board = Board(self.clock)
        folders = TransferFolders(self.spool)
        store = TransferStore(EDGE, lambda: self.store)
        self.courier = Courier(EDGE, self.destinations, folders, self.board, store, clock=self.clock)
        self.courier.take_up()
        settings = EdgeSettings(
            name=EDGE,
            dimse=DimseSettings(ae_title="EDGE"),
            spool=SpoolSettings(dir=self.spool),
            delivery=DeliverySettings(store_url="file:///unused"),
            destinations=self.destinations,
        )
        self.lanes = [
            Lane(
                route,
                self.board,
                Copies(folders, store, self.refuse_below_bytes),
                stopping=self.stopping,
                count=lambda name, result: self.counts.update([f"{name} {result}"]),
            )
            for route in routes_of(settings)
        ]
        self.askers = [
            Asker(
                route,
                self.board,
                Questions(self.spool),
                stopping=self.stopping,
                clock=self.clock,
                listen_seconds=self.listen_seconds,
            )
            for route in routes_of(settings)
            if route.destination.commitment
        ]

    def offer(
        self, transfer: str = "t1", count: int = 3, *, destination: str = "PACS", number: int = 1, **changes: Any
    ) -> Job:
        """Put a transfer into the store: copies, job, and that it waits."""
        instances = []
        for index in range(count):
            content = self.part10(uid(index))
            obstore.put(self.store, outbound_key(EDGE, transfer, index), content)
            digest = hashlib.sha256(content).hexdigest()
            instances.append(JobInstance(index, CT, uid(index), EXPLICIT_VR_LITTLE_ENDIAN, len(content), digest))
        job = Job(EDGE, transfer, number, destination, tuple(changes.pop("instances", instances)))
        obstore.put(self.store, job_key(EDGE, transfer), encode(job))
        self.list(PendingTransfer(transfer, number))
        return job

    def list(self, *pending: PendingTransfer) -> None:
        """Say what waits."""
        obstore.put(self.store, pending_key(EDGE), encode(Pending(EDGE, pending)))

    def step(self) -> None:
        """Do all that is due now."""
        self.courier.step()
        for lane in self.lanes:
            while lane.step() and not lane._failures:
                pass
        for asker in self.askers:
            asker.step()
        self.courier.step()

    def returns(self, transfer: str = "t1") -> Returns:
        """Return what the store was told."""
        return decode(Returns, bytes(obstore.get(self.store, returns_key(EDGE, transfer)).bytes()))


def uid(index: int) -> str:
    """Return the SOP Instance UID of a number."""
    return f"1.2.3.4.{index}"


def data_set_digest(content: bytes) -> str:
    """Return the digest of a file's data set."""
    length = struct.unpack_from("<I", content, 140)[0]
    return hashlib.sha256(content[144 + length :]).hexdigest()
