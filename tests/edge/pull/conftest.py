"""Sources of another make, and one edge that all tests of this folder fetch to: each has studies of its own."""

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from edge_daemon import EdgeDaemon
from pydicom.dataset import Dataset
from sources import Source
from waiting import WAIT_SECONDS, free_ports

from dicomflow import samples
from dicomflow.edge.pull.fetch import peer_of
from dicomflow.edge.pull.here import Holdings
from dicomflow.edge.pull.jobs import Job, Jobs
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.work import Pull, Surroundings
from dicomflow.edge.settings import EdgeSettings, load_settings
from dicomflow.edge.settings import Source as SourceSettings

_seeds = itertools.count(10_000)


@pytest.fixture
def source_of() -> Iterator[Callable[..., Source]]:
    """Give sources with images."""
    made: list[Source] = []

    def _source(images: list[Dataset], **options: Any) -> Source:
        made.append(Source(images, **options))
        return made[-1]

    yield _source
    for each in made:
        each.close()


@pytest.fixture
def ct() -> Callable[..., list[Dataset]]:
    """Give CT studies that no other test has."""

    def _ct(studies: int = 1, *, series: int = 1, slices: int = 1, **values: Any) -> list[Dataset]:
        images: list[Dataset] = []
        for _ in range(studies):
            study = list(samples.ct_study(next(_seeds), series=series, slices=slices, side=8))
            for image in study:
                for keyword, value in values.items():
                    setattr(image, keyword, value)
            images += study
        return images

    return _ct


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeDaemon]:
    """Give one edge for all tests."""
    (port,) = free_ports(1)
    dimse = {"port": port, "bind": "127.0.0.1", "ae_title": "EDGE"}
    daemon = EdgeDaemon(tmp_path_factory.mktemp("pull"), dimse=dimse, spool={"workers": 1})
    daemon.start()
    yield daemon
    daemon.close()


class Site:
    """An edge and a source of it, whose jobs run in this process."""

    def __init__(self, edge: EdgeDaemon, source: Source, folder: Path, **options: Any) -> None:
        settings = load_settings(edge.config)
        options = {"move_destination": "EDGE", "quiet_seconds": 0.3, "timeout_seconds": WAIT_SECONDS} | options
        at = SourceSettings(host="127.0.0.1", port=source.port, ae_title="SOURCE", **options)
        source.destinations["EDGE"] = ("127.0.0.1", settings.dimse.port)
        self.settings: EdgeSettings = settings.model_copy(update={"sources": {"PACS1": at}})
        self.source = source
        self.stopping = threading.Event()
        self.told: list[str] = []
        folder.mkdir(exist_ok=True)
        self.now: datetime | None = None
        self.jobs = Jobs(folder, lambda: self.now or datetime.now(UTC))
        self.interrupted = ""

    def pull(self, question: Question | None = None, *, is_dry: bool = False, patience_seconds: float = 2.0) -> Job:
        """Run a job to its end."""
        around = Surroundings(self.stopping, self.settings.spool, self.told.append, patience_seconds=patience_seconds)
        work = Pull(peer_of("PACS1", self.settings), Holdings(self.settings), self.jobs, around)
        job = work.run(self.jobs.begin("PACS1", question or Question(), is_dry=is_dry))
        self.interrupted = work.interrupted
        return job


@pytest.fixture
def site_of(edge: EdgeDaemon, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Give sites."""
    made: list[Site] = []

    def _site(source: Source, **options: Any) -> Site:
        made.append(Site(edge, source, tmp_path / "jobs", **options))
        return made[-1]

    yield _site
    for each in made:
        each.jobs.close()
