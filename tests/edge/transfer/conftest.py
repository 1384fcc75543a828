"""An edge's transfers in this process, and the destination that they are for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clocks import Clock
from obstore.store import LocalStore
from transfer_site import Pacs, Site


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """Give a destination."""
    started = Pacs()
    yield started
    started.close()


@pytest.fixture
def site(tmp_path: Path, pacs: Pacs, clock: Clock, part10: Callable[..., bytes]) -> Site:
    """Give an edge that knows the destination."""
    return Site(tmp_path, pacs.port, clock, part10, LocalStore(tmp_path / "objects", mkdir=True))
