"""Faults that this code once had, planted again one at a time by replacing a function: the box must find each."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DataError

import dicomflow.catalog.index
import dicomflow.catalog.jobs
import dicomflow.edge.deliver.resent
import dicomflow.pipeline.follow
import dicomflow.pipeline.index
import dicomflow.pipeline.rebuild
from dicomflow.catalog import engine, merging, tables
from dicomflow.dicom import values
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.deliver import deliverer, instances
from dicomflow.edge.deliver.leftovers import Leftovers
from dicomflow.edge.deliver.resent import Resent
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.ledger import Ledger
from dicomflow.edge.spool.lane import Lane
from dicomflow.errors import PeerError, TransientError
from dicomflow.healthimaging import client
from dicomflow.pipeline import settle
from tests.simulation import edge_seams, service

_Replaced = list[tuple[Any, str, Any]]
PLANTED: dict[str, Callable[[], Any]] = {}
HALF: dict[str, str] = {}
"""In which half a fault is looked for."""


def _plant(half: str) -> Callable[[Callable[[], _Replaced]], Callable[[], _Replaced]]:
    def keep(make: Callable[[], _Replaced]) -> Callable[[], _Replaced]:
        @contextmanager
        def planted() -> Iterator[None]:
            with ExitStack() as stack:
                for where, name, what in make():
                    stack.enter_context(patch.object(where, name, what))
                yield

        PLANTED[make.__name__] = planted
        HALF[make.__name__] = half
        return make

    return keep


@_plant("cloud")
def empty_wins() -> _Replaced:
    """An object with empty values blanks its study and patient (H15)."""
    return [(merging, "is_filled", lambda _value: True)]


@_plant("cloud")
def same_token() -> _Replaced:
    """A row that is made anew has the token of the one before (H16)."""
    whole = dicomflow.catalog.jobs._client_token

    def without_nonce(target: Any, prefix: str, rows: Any) -> str:
        return whole(target, prefix, [SimpleNamespace(**dict(row._mapping) | {"nonce": None}) for row in rows])

    return [(dicomflow.catalog.jobs, "_client_token", without_nonce)]


def _text_for_a_date() -> _Replaced:
    """Give a date's column the text that is none, as the readers of then did."""
    parse = values._parse_date
    parsers = values._PARSERS | {"DA": lambda text: parse(text) or text}
    return [(values, "_PARSERS", parsers), (values, "_convert_short", values._convert)]


@_plant("cloud")
def value_ends_batch() -> _Replaced:
    """A value that a column does not take fails its batch for ever (H5)."""
    modules = (dicomflow.pipeline.index, dicomflow.pipeline.rebuild)
    old = [(module, "is_of_a_value", lambda error: isinstance(error, DataError)) for module in modules]
    return old + _text_for_a_date()


@_plant("cloud")
def unreadable_is_tried_for_ever() -> _Replaced:
    """An object that no reader can read is taken for one that may be read later (H5)."""
    read = dicomflow.pipeline.index._read

    async def old(*args: Any) -> Any:
        try:
            return await read(*args)
        except PeerError as error:
            raise TransientError("it cannot be read") from error

    return [(dicomflow.pipeline.index, "_read", old)]


@_plant("cloud")
def job_ends_drive() -> _Replaced:
    """One job whose results cannot be read ends every run of the driver (H5)."""
    settle_all = settle._settle_completed

    def raise_it(_deps: Any, _job: Any, _told: Any, error: Exception) -> None:
        raise error

    return [
        (dicomflow.pipeline.follow, "settle_completed", settle_all),
        (dicomflow.pipeline.follow, "keep_trouble", raise_it),
    ]


@_plant("cloud")
def values_in_errors() -> _Replaced:
    """An error of the database quotes what was to be written (H18)."""
    return [(engine, "make_engine", create_engine), *_text_for_a_date()]


@_plant("cloud")
def token_of_its_own() -> _Replaced:
    """Each try to start a job has a token of its own, so one whose answer was lost is started twice (H16)."""
    start = client.start_import_job

    def anew(*args: Any, client_token: str, **options: Any) -> Any:
        return start(*args, client_token=f"{client_token[:50]}{service.CURRENT.service.steps}", **options)

    return [(client, "start_import_job", anew)]


@_plant("cloud")
def one_series_a_uid() -> _Replaced:
    """A Series Instance UID that two studies use is one series (H15)."""
    whole, series = dicomflow.catalog.index.write_merged, tables.series.c

    def by_uid(connection: Any, target: Any, rows: Any) -> Any:
        found = whole(connection, target, rows)
        if target.table is tables.series:
            first = select(func.min(series.series_key))
            found = {key: connection.scalar(first.where(series.series_instance_uid == key[1])) for key in found}
        return found

    return [(dicomflow.catalog.index, "write_merged", by_uid)]


@_plant("cloud")
def last_written_wins() -> _Replaced:
    """A row has the values of the object that was indexed last, so a rebuild gives others (section 5 of P's notes)."""
    merge = merging.merge

    def last(known: Any, new: Any, columns: Any) -> Any:
        return merge(known, new, columns) | {name: new[name] for name in columns if merging.is_filled(new[name])}

    return [(merging, "merge", last)]


@_plant("cloud")
def failed_is_imported() -> _Replaced:
    """A file that HealthImaging did not import counts as imported."""
    record = settle.record_outcomes

    def imported(connection: Any, import_job_id: int, outcomes: Any) -> None:
        believed = (replace(each, outcome=type(each.outcome)("imported")) for each in outcomes)
        record(connection, import_job_id, believed)

    return [(settle, "record_outcomes", imported)]


@_plant("edge")
def resend_believed() -> _Replaced:
    """What the ledger says is stored is not asked of the store that is configured now (H1)."""

    async def yes(*_args: Any) -> bool:
        return True

    took = lambda _resent, known: known.stored_at is not None  # noqa: E731
    return [(Resent, "_took", took), (Resent, "_is_named", yes), (Uploader, "is_stored", yes)]


@_plant("edge")
def rotten_copy_preferred() -> _Replaced:
    """A good resend is dropped for a copy in the spool that has rotted (H2)."""
    modules = (dicomflow.edge.deliver.resent, deliverer)
    return [(module, "is_whole", lambda _file: True) for module in modules]


@_plant("edge")
def commitment_too_early() -> _Replaced:
    """Commitment says 0112 of what was acknowledged and is not gathered yet (H13)."""
    settings = partial(edge_seams.CommitmentSettings, settle_seconds=0)
    return [(edge_seams, "read_gathered_until", lambda _root: math.inf), (edge_seams, "CommitmentSettings", settings)]


@_plant("edge")
def commitment_believes() -> _Replaced:
    """Commitment goes by the ledger and does not ask the store (H1)."""

    async def yes(_witness: Any, _store: Any, wanted: Any) -> dict[str, bool]:
        return dict.fromkeys(wanted, True)

    return [(StoreWitness, "_ask", yes)]


@_plant("edge")
def last_by_the_clock() -> _Replaced:
    """Of two contents of one instance the ledger takes the one for the last that has the later time."""
    find = Ledger.find
    return [(Ledger, "find", lambda ledger, uid: sorted(find(ledger, uid), key=lambda each: each.received_at))]


@_plant("edge")
def rotten_is_not_asked_for() -> _Replaced:
    """A file that rots after its put, whose answer was lost, is quarantined though the store has it."""

    async def no(*_args: Any) -> bool:
        return False

    return [(Uploader, "_has", no)]


@_plant("edge")
def left_behind() -> _Replaced:
    """What an earlier run has left in a delivery's folder is not taken up."""
    return [(Leftovers, "look", lambda _leftovers: None)]


@_plant("edge")
def descriptor_stays_open() -> _Replaced:
    """A file that is read is not closed."""
    read = instances.read_instance

    def leak(file: Any) -> Any:
        os.open(file.path, os.O_RDONLY)
        return read(file)

    return [(instances, "read_instance", leak)]


@_plant("edge")
def answered_before_its_sync() -> _Replaced:
    """An instance is answered 0000 before its bytes and its name are on the disk."""
    return [(Lane, "rename_durably", lambda _lane, rename, _descriptor: rename())]


@_plant("edge")
def ledger_is_not_synced() -> _Replaced:
    """A delivery is removed from the spool before the ledger's entries of it are on the disk."""
    return [(Ledger, "sync", lambda _ledger: None)]
