"""Where the series of a delivery go, once it closes: decided, written down, and handed over to other destinations.

The order makes each step one that may be cut short and done again: the plan is durable, then each destination has its
share, whole, then the ledger knows, then what the default store does not get leaves the delivery's folder, and only
then is the manifest written that closes what is left of it. Without routes nothing of this happens.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver.delivery import Delivery
from dicomflow.edge.deliver.shared import Shared
from dicomflow.edge.destinations import DEFAULT_STORE, AnyDestination, Route
from dicomflow.edge.ledger import RoutedEntry
from dicomflow.edge.routes.attributes import read_values
from dicomflow.edge.routes.decision import ATTRIBUTES, Candidate, SeriesDecision, configuration_of, decide
from dicomflow.edge.spool.handedover import HandedOver
from dicomflow.edge.spool.names import MANIFEST_FILE
from dicomflow.edge.spool.shares import PLAN_FILE, Plan, SeriesRoute, Share
from dicomflow.edge.spool.view import scan
from dicomflow.errors import PermanentError
from dicomflow.regularfiles import free_name, read_regular

__all__ = ["Routing", "read_plan", "routed_entries"]

WAITING: Final = "waiting"
_IN_STORE: Final = "store"  # of a row on the default store: the instance's own says how far it is

_logger = logging.getLogger(__name__)


class Routing:
    """Decides and hands over. Event loop: one owner; what reads and links files does so in a thread.

    Args:
        shared: what the steps share.
        destinations: those of the settings.
        routes: gives the rules that are in force now.
        is_on: whether there were any at the start.
    """

    def __init__(
        self,
        shared: Shared,
        destinations: Mapping[str, AnyDestination],
        routes: Callable[[], tuple[Route, ...]],
        *,
        is_on: bool,
    ) -> None:
        self.is_on = is_on
        self.handed = HandedOver(shared.spool.root, fsync=shared.spool.fsync)
        self._shared = shared
        self._destinations = destinations
        self._routes = routes

    async def close(self, delivery: Delivery, manifest: Manifest) -> None:
        """Decide where a delivery's series go, unless that is decided, and leave in it what the default store gets.

        Raises `OSError`: then it is still all there, and this may be called again.
        """
        folder = self._shared.folder_of(delivery.delivery_id)
        plan = read_plan(folder)
        if plan is None:
            plan = await asyncio.to_thread(self._plan, delivery, manifest)
            await asyncio.to_thread(self._shared.spool.write_note, folder / PLAN_FILE, plan.to_json())
        await asyncio.to_thread(self._hand_over, folder, plan)
        self._leave_share(delivery, folder, plan)

    def resume(self, delivery: Delivery, plan: Plan, *, is_closed: bool) -> None:
        """Do what an earlier run has begun, and close what is left of the delivery. Raises `OSError`."""
        folder = self._shared.folder_of(delivery.delivery_id)
        if not is_closed:
            self._hand_over(folder, plan)
        self._leave_share(delivery, folder, plan)
        share = plan.share_of(DEFAULT_STORE)
        if not is_closed and share is not None:
            self._shared.spool.write_note(folder / MANIFEST_FILE, share.manifest.to_json())
        _logger.info("delivery_routed_on delivery=%s", delivery.delivery_id)

    def _plan(self, delivery: Delivery, manifest: Manifest) -> Plan:
        routes = self._routes()
        is_read = any(route.when.keys() & ATTRIBUTES.keys() for route in routes)
        candidates = [
            Candidate(
                each.sop_instance_uid,
                each.sop_class_uid,
                each.series_instance_uid,
                each.calling_ae_title,
                each.called_ae_title,
                read_values(each.file.path) if is_read else None,
            )
            for each in delivery.instances.values()
        ]
        decisions = decide(routes, self._destinations, candidates)
        for each in decisions:
            if each.doubt:
                _logger.warning(
                    "series_not_routed delivery=%s series=%s reason=%s",
                    *(delivery.delivery_id, each.series_instance_uid, each.doubt),
                )
        return Plan(tuple(self._shares(routes, decisions, candidates, manifest)))

    def _shares(
        self,
        routes: tuple[Route, ...],
        decisions: list[SeriesDecision],
        candidates: list[Candidate],
        manifest: Manifest,
    ) -> Iterator[Share]:
        by_series = {each.series_instance_uid: each for each in decisions}
        instances: dict[str, set[str]] = {}
        reasons: dict[str, dict[str, SeriesRoute]] = {}
        for each in candidates:
            decision = by_series[each.series_instance_uid]
            for choice in decision.of(each.sop_instance_uid):
                instances.setdefault(choice.destination, set()).add(each.sop_instance_uid)
                reasons.setdefault(choice.destination, {}).setdefault(
                    each.series_instance_uid, SeriesRoute(each.series_instance_uid, choice.route, decision.doubt)
                )
        configuration = configuration_of(routes, self._destinations)
        for name, uids in instances.items():
            destination = self._destinations.get(name)  # none of the default store
            yield Share(
                name,
                destination is None or destination.required,
                configuration,
                tuple(reasons[name].values()),
                manifest.only(uids),
                is_copied=destination is not None and destination.profile is not None,
            )

    def _hand_over(self, folder: Path, plan: Plan) -> None:
        """Durable: give each other destination its share. Raises `OSError`."""
        files = {each.sha256: each.path for each in scan(folder)}
        for share in plan.shares:
            if share.destination != DEFAULT_STORE:
                self.handed.hand_over(share, files)

    def _leave_share(self, delivery: Delivery, folder: Path, plan: Plan) -> None:
        """Note what was decided, and take out of the delivery what the default store does not get. Raises `OSError`."""
        ledger = self._shared.ledger
        share = plan.share_of(DEFAULT_STORE)
        kept = {each.sop_instance_uid for each in share.manifest.instances()} if share is not None else set()
        others = {
            each.sha256: each.sop_instance_uid
            for of_one in plan.shares
            for each in of_one.manifest.instances()
            if each.sop_instance_uid not in kept
        }
        entries = (entry for each in plan.shares for entry in routed_entries(each))
        ledger.note_routed(entries, ((uid, sha256, delivery.delivery_id) for sha256, uid in others.items()))
        ledger.write()
        for file in scan(folder):
            if file.sha256 in others:
                self._shared.spool.remove(file)
        for uid in [uid for uid, each in delivery.instances.items() if each.file.sha256 in others]:
            del delivery.instances[uid]
            delivery.unstored -= 1
        _logger.info(
            "delivery_routed delivery=%s %s",
            delivery.delivery_id,
            " ".join(f"{each.destination}={sum(1 for _ in each.manifest.instances())}" for each in plan.shares),
        )


def read_plan(folder: Path) -> Plan | None:
    """Return what was decided for a delivery; None where nothing was.

    A note that cannot be read is renamed, and decided is anew: what a destination has it is not given again.
    """
    path = folder / PLAN_FILE
    try:
        return Plan.from_json(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, PermanentError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _logger.error("plan_set_aside delivery=%s reason=%s", folder.name, reason)  # noqa: TRY400  # no bug
        path.replace(free_name(path.with_name(f"{PLAN_FILE}.damaged")))
        return None


def routed_entries(share: Share) -> Iterator[RoutedEntry]:
    """Yield what the ledger has of a share from its decision on."""
    reasons = share.route_of()
    for study in share.manifest.studies:
        for series in study.series:
            why = reasons.get(series.series_instance_uid)
            for each in series.instances:
                yield RoutedEntry(
                    sop_instance_uid=each.sop_instance_uid,
                    sha256=each.sha256,
                    delivery_id=share.manifest.delivery,
                    series_instance_uid=series.series_instance_uid,
                    destination=share.destination,
                    route=why.route if why is not None else "",
                    configuration=share.configuration,
                    is_required=int(share.is_required),
                    decided_at=share.manifest.closed_at.isoformat(),
                    state=_IN_STORE if share.destination == DEFAULT_STORE else WAITING,
                    reason=(why.doubt or None) if why is not None else None,
                )
