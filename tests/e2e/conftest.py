"""A sender that remembers what was acknowledged: one association a call."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dicomflow.errors import DicomflowError
from dicomflow.send.association import SendAssociation
from dicomflow.send.files import read_stored_file

# It makes a whole stack, which takes a minute: DICOMFLOW_TEST_TWIN=1 asks for it.
collect_ignore = [] if os.environ.get("DICOMFLOW_TEST_TWIN") == "1" else ["test_cloud_twin.py"]

Send = Callable[..., dict[str, int | None]]


@pytest.fixture(scope="session")
def send() -> Send:
    """Send files in one association; give the status of each SOP instance, None where there was no answer."""

    def _send(
        port: int, paths: Sequence[Path], acknowledged: Callable[[str], None] = lambda _: None
    ) -> dict[str, int | None]:
        files = [read_stored_file(path) for path in paths]
        statuses: dict[str, int | None] = {file.meta.sop_instance_uid: None for file in files}
        pairs = list({(file.meta.sop_class_uid, file.meta.transfer_syntax_uid) for file in files})
        try:
            with SendAssociation(
                "127.0.0.1", port, pairs, calling_ae_title="SENDER", called_ae_title="ANY", timeout_seconds=120
            ) as association:
                for file in files:
                    outcome = association.store(file)
                    statuses[file.meta.sop_instance_uid] = outcome.status
                    if outcome.status == 0:
                        acknowledged(file.meta.sop_instance_uid)
        except (DicomflowError, OSError):
            pass  # the association is gone: what is left has no answer
        return statuses

    return _send
