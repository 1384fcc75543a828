"""What the workers count, in files that the supervisor's `/metrics` reads: one of each kind for every process.

The files outlive a worker that died, so its counts stay; the supervisor removes them at its start. Labels are
bounded: after `_MAX_LABELS` of a kind the rest is counted as "other". Knows nothing of associations.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dicomflow.dimse.status import Status

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["ForwardMetrics", "Metrics", "TransferMetrics", "register_files", "wipe"]

# prometheus_client reads this at its import, and takes a value's file from it.
_FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_FOLDER: Final = "metrics"
_OTHER: Final = "other"
# What prometheus_client calls them, and their first size; a file that is all zeros is one that it has just made.
_KINDS: Final = ("counter", "histogram")
_FILE_BYTES: Final = 1 << 20
# An entry takes about 200 bytes of the 1 MiB that is allocated at the start.
_MAX_LABELS: Final = 500
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_logger = logging.getLogger(__name__)


def wipe(spool: Path) -> None:
    """Remove what an earlier run counted: counters begin at 0 with the edge."""
    folder = spool / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)  # it stays, since a full volume might not give it again
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            path.unlink()


def register_files(registry: "CollectorRegistry", spool: Path) -> None:
    """Let a registry give the sums over the files of all processes."""
    registry.register(_Files(spool / _FOLDER))


class _Files:
    """The files of all processes as a collector: prometheus_client's own opens whatever is named like one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Any:  # the metrics, which have no annotations
        """Return the sums."""
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415  # the supervisor's need only

        files = [str(path) for path in self._folder.glob("*.db") if path.is_file() and not path.is_symlink()]
        return MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]  # as above


class Metrics:
    """The counters of one worker process. Threads: any.

    Created before anything else imports prometheus_client in the process.
    """

    def __init__(self, spool: Path) -> None:
        _prepare(spool)
        from prometheus_client import CollectorRegistry, Counter, Histogram  # noqa: PLC0415  # as the class says

        registry = CollectorRegistry()
        associations = Counter(
            "dicomflow_associations", "Associations that ended.", ["result", "ae_title"], registry=registry
        )
        labels = ["sop_class", "ae_title"]
        instances = Counter("dicomflow_instances", "Instances acknowledged.", labels, registry=registry)
        instance_bytes = Counter("dicomflow_instance_bytes", "Bytes acknowledged.", labels, registry=registry)
        refusals = Counter("dicomflow_refusals", "Instances refused.", ["status"], registry=registry)
        self._latency = Histogram(
            "dicomflow_acknowledge_seconds",
            "From an instance's last byte to its answer.",
            registry=registry,
            buckets=_BUCKETS,
        )
        self._associations = _Children(associations.labels)
        self._instances = _Children(lambda *values: (instances.labels(*values), instance_bytes.labels(*values)))
        self._refusals = _Children(refusals.labels)
        self._refusals.of(f"{Status.OUT_OF_RESOURCES:04X}")  # makes the counters' file, and the series to alarm on

    def ended(self, result: str, ae_title: str) -> None:
        """Count an association that ended."""
        self._associations.of(result, ae_title).inc()

    def stored(self, sop_class_uid: str, ae_title: str, size_bytes: int, seconds: float) -> None:
        """Count an instance that is answered Success, `seconds` after its last byte."""
        count, size = self._instances.of(sop_class_uid, ae_title)
        count.inc()
        size.inc(size_bytes)
        self._latency.observe(seconds)

    def refused(self, status: Status) -> None:
        """Count an instance that is refused."""
        self._refusals.of(f"{status:04X}").inc()


class TransferMetrics:
    """The counters of the process that sends transfers. Threads: any; created as `Metrics` is."""

    def __init__(self, spool: Path) -> None:
        _prepare(spool)
        from prometheus_client import CollectorRegistry, Counter  # noqa: PLC0415  # as above

        registry = CollectorRegistry()
        transfers = Counter("dicomflow_transfers", "Transfers that ended.", ["result"], registry=registry)
        instances = Counter(
            "dicomflow_transfer_instances",
            "Instances by what a destination answered; one that is tried again counts each time.",
            ["destination", "result"],
            registry=registry,
        )
        self._transfers = _Children(transfers.labels)
        self._instances = _Children(instances.labels)
        for result in ("partial", "failed"):
            self._transfers.of(result)  # the series to alarm on

    def ended(self, result: str) -> None:
        """Count a transfer that ended."""
        self._transfers.of(result).inc()

    def answered(self, destination: str, result: str) -> None:
        """Count an answer."""
        self._instances.of(destination, result).inc()


class ForwardMetrics:
    """The counters of the process that sends destinations their shares. Threads: any; created as `Metrics` is."""

    def __init__(self, spool: Path) -> None:
        _prepare(spool)
        from prometheus_client import CollectorRegistry, Counter  # noqa: PLC0415  # as above

        instances = Counter(
            "dicomflow_destination_instances",
            "Instances that routes send, by what came of them; one that is tried again counts each time.",
            ["destination", "result"],
            registry=CollectorRegistry(),
        )
        self._instances = _Children(instances.labels)

    def answered(self, destination: str, result: str) -> None:
        """Count an answer."""
        self._instances.of(destination, result).inc()


class _Children:
    """The children of a metric by their labels, at most `_MAX_LABELS` of them; `_lock` guards the map."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: dict[tuple[str, ...], Any] = {}

    def of(self, *labels: str) -> Any:  # a counter, or two
        made = self._made.get(labels)
        if made is None:
            with self._lock:
                if len(self._made) >= _MAX_LABELS:
                    labels = (_OTHER,) * len(labels)
                made = self._made.get(labels)
                if made is None:
                    made = self._made[labels] = self._make(*labels)
        return made


def _prepare(spool: Path) -> None:
    """Have prometheus_client keep this process's values in files that others can read."""
    folder = spool / _FOLDER
    if _allocate(folder):
        os.environ[_FOLDER_VARIABLE] = str(folder)
    else:
        os.environ.pop(_FOLDER_VARIABLE, None)


def _allocate(folder: Path) -> bool:
    """Make this process's files with all their blocks: a write to a mapped one on a full volume would end the process.

    False where there is no room: then it counts for itself alone, and nobody reads it.
    """
    if not hasattr(os, "posix_fallocate"):
        folder.mkdir(parents=True, exist_ok=True)
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in _KINDS:
            with (folder / f"{kind}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    except OSError as error:
        _logger.error("metrics_not_kept errno=%s", error.errno)  # noqa: TRY400  # no bug
        for kind in _KINDS:
            with contextlib.suppress(OSError):
                (folder / f"{kind}_{os.getpid()}.db").unlink(missing_ok=True)
        return False
    return True
