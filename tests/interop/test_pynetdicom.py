"""pynetdicom as the requestor."""

import threading
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelFind, Verification
from waiting import WAIT_SECONDS

from dicomflow import samples

pytestmark = pytest.mark.interop


class _HeldReactor(threading.Event):
    """Holds the thread that pynetdicom runs beside a requestor.

    That thread sometimes takes a quick answer from the queue before the call that waits for it, and drops it:
    pausing it is not safe in pynetdicom 3.0.4. Here it stays held until the association ends.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self.is_held = threading.Event()
        self._association = association

    def set(self) -> None:
        """Release the thread only when it is to end."""
        if self._association._kill:
            super().set()

    def wait(self, timeout: float | None = None) -> bool:
        """Say that the thread is held, and hold it."""
        self.is_held.set()
        return super().wait(timeout)


def _associate(ae: AE, port: int, **options: Any) -> Association:
    association = ae.associate("127.0.0.1", port, **options)
    assert association.is_established
    association._reactor_checkpoint = held = _HeldReactor(association)
    assert held.is_held.wait(WAIT_SECONDS)
    return association


@pytest.fixture
def ae() -> AE:
    """Give an application entity that gives up in the end."""
    entity = AE("PYNETDICOM")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = WAIT_SECONDS
    return entity


def test_pynetdicom_echo_and_store_in_one_association(receiver: Any, ae: AE, study: tuple[Path, ...]):
    """Verification and storage share an association, and every store is answered Success."""
    ae.add_requested_context(Verification)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = _associate(ae, receiver.port)
    assert 0 == association.send_c_echo().Status
    assert [0] * len(study) == [association.send_c_store(dcmread(path)).Status for path in study]
    association.release()
    assert association.is_released
    receiver.wait_until_mapped(path.stem for path in study)


def test_pynetdicom_128_contexts_are_each_answered(receiver: Any, ae: AE, study: tuple[Path, ...]):
    """An association with the most contexts there can be is accepted, and stores."""
    ae.requested_contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian) for _ in range(128)]
    association = _associate(ae, receiver.port)
    assert 128 == len(association.accepted_contexts)
    assert 0 == association.send_c_store(dcmread(study[0])).Status
    association.release()


def test_pynetdicom_query_context_is_refused_and_the_rest_works(receiver: Any, ae: AE):
    """A context for a service that is not offered is refused with 3; the others of the association are accepted."""
    ae.add_requested_context(PatientRootQueryRetrieveInformationModelFind)
    ae.add_requested_context(Verification)
    association = _associate(ae, receiver.port)
    assert [Verification] == [context.abstract_syntax for context in association.accepted_contexts]
    assert [3] == [context.result for context in association.rejected_contexts]
    assert 0 == association.send_c_echo().Status
    association.release()


def test_pynetdicom_small_pdus_are_answered(receiver: Any, ae: AE, study: tuple[Path, ...]):
    """A requestor that takes only small PDUs, and so sends in many fragments, stores like any other."""
    ae.maximum_pdu_size = 4096
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = _associate(ae, receiver.port, max_pdu=4096)
    assert 0 == association.send_c_store(dcmread(study[0])).Status
    association.release()
    receiver.wait_until_mapped([study[0].stem])


def test_pynetdicom_aborted_association_keeps_what_was_acknowledged(receiver: Any, ae: AE, study: tuple[Path, ...]):
    """An abort after some instances loses none of them, and the next association works."""
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = _associate(ae, receiver.port)
    assert [0, 0] == [association.send_c_store(dcmread(path)).Status for path in study[:2]]
    association.abort()
    receiver.wait_until_mapped(path.stem for path in study[:2])
    again = _associate(ae, receiver.port)
    assert 0 == again.send_c_store(dcmread(study[2])).Status
    again.release()


def test_pynetdicom_private_sop_class_is_stored(receiver: Any, ae: AE):
    """An object under a private SOP class is stored and mapped like any other."""
    (private,) = (
        item for item in samples.demo_studies(seed=78) if item.SOPClassUID == samples.PRIVATE_SECONDARY_CAPTURE
    )
    ae.add_requested_context(samples.PRIVATE_SECONDARY_CAPTURE, ExplicitVRLittleEndian)
    association = _associate(ae, receiver.port)
    assert 0 == association.send_c_store(private).Status
    association.release()
    receiver.wait_until_mapped([str(private.SOPInstanceUID)])
