"""What storage commitment means for an instance that routes send on: every destination that is required has it."""

from dicomflow.dimse.status import Status
from dicomflow.edge.destinations import DEFAULT_STORE
from dicomflow.edge.ledger import DONE, ELSEWHERE, Ledger, LedgerEntry
from dicomflow.edge.settings import CommitmentSettings

__all__ = ["judge_elsewhere"]


def judge_elsewhere(entry: LedgerEntry, ledger: Ledger, settings: CommitmentSettings) -> int | None:
    """Return why an instance is not (yet) where routes send it; None where nothing keeps it from the level.

    Beside the default store it is safe when every other required destination has it; what does not go to the default
    store is never imported from there.
    """
    if settings.level == "spooled":
        return None
    if settings.level == "imported" and entry.store == ELSEWHERE:
        return int(Status.PROCESSING_FAILURE)
    routed = [each for each in ledger.routed(entry.sop_instance_uid) if each.sha256 == entry.sha256]
    required = {each.destination for each in routed if each.is_required and each.destination != DEFAULT_STORE}
    left = required - {each.destination for each in routed if each.state == DONE}
    if any(each.destination in left and each.ended_at is not None for each in routed):
        return int(Status.PROCESSING_FAILURE)
    return int(Status.RESOURCE_LIMITATION) if left else None
