"""A store SCU that remembers what was acknowledged: pynetdicom's, one association a call."""

from collections.abc import Callable, Iterable

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

Send = Callable[..., dict[str, int | None]]


@pytest.fixture(scope="session")
def send() -> Send:
    """Send data sets in one association; give the status of each SOP instance, None where there was no answer."""

    def _send(
        port: int,
        datasets: Iterable[Dataset],
        acknowledged: Callable[[str], None] = lambda _: None,
        calling_ae_title: str = "SENDER",
    ) -> dict[str, int | None]:
        waiting = list(datasets)
        ae = AE(calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        for context in {(item.SOPClassUID, item.file_meta.TransferSyntaxUID) for item in waiting}:
            ae.add_requested_context(*context)
        statuses: dict[str, int | None] = {str(item.SOPInstanceUID): None for item in waiting}
        association = ae.associate("127.0.0.1", port, ae_title="DICOMFLOW")
        if not association.is_established:
            return statuses
        for item in waiting:
            try:
                answer = association.send_c_store(item)
            except RuntimeError:  # the association is gone: what is left has no answer
                break
            if "Status" in answer:
                statuses[str(item.SOPInstanceUID)] = answer.Status
                if answer.Status == 0:
                    acknowledged(str(item.SOPInstanceUID))
        if association.is_established:
            association.release()
        return statuses

    return _send
