"""Faults that this code once had, planted again one at a time by replacing a function: the box must find each."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import create_engine
from sqlalchemy.exc import DataError

import dicomflow.catalog.jobs
import dicomflow.catalog.merging
import dicomflow.edge.deliver.resent
import dicomflow.pipeline.follow
import dicomflow.pipeline.index
import dicomflow.pipeline.settle
from dicomflow.catalog import engine
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.deliver import deliverer
from dicomflow.edge.deliver.resent import Resent
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.errors import PeerError, TransientError
from tests.simulation import edge_seams

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
    return [(dicomflow.catalog.merging, "is_filled", lambda _value: True)]


@_plant("cloud")
def same_token() -> _Replaced:
    """A row that is made anew has the token of the one before (H16)."""
    whole = dicomflow.catalog.jobs._client_token

    def without_nonce(target: Any, prefix: str, rows: Any) -> str:
        return whole(target, prefix, [SimpleNamespace(**dict(row._mapping) | {"nonce": None}) for row in rows])

    return [(dicomflow.catalog.jobs, "_client_token", without_nonce)]


@_plant("cloud")
def value_ends_batch() -> _Replaced:
    """A value that a column does not take fails its batch for ever (H5)."""
    return [(dicomflow.pipeline.index, "is_of_a_value", lambda error: isinstance(error, DataError))]


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
    settle = dicomflow.pipeline.settle._settle_completed

    def raise_it(_deps: Any, _job: Any, _told: Any, error: Exception) -> None:
        raise error

    return [
        (dicomflow.pipeline.follow, "settle_completed", settle),
        (dicomflow.pipeline.follow, "keep_trouble", raise_it),
    ]


@_plant("cloud")
def values_in_errors() -> _Replaced:
    """An error of the database quotes what was to be written (H18)."""
    return [(engine, "make_engine", create_engine)]


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
