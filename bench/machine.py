"""What the figures were measured on, and what its disk can do."""

import hashlib
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["describe", "digest_milliseconds", "durable_writes_per_second"]

_DIGESTS: Final = 200


def describe() -> str:
    """Return processor, cores, memory, file system kind and versions in one line."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()},"
        f" {_file_system()}, Python {platform.python_version()}"
    )


def digest_milliseconds(size_bytes: int) -> float:
    """Return how long a core takes for the SHA-256 of so many bytes, the median of some."""
    content = os.urandom(size_bytes)
    taken = []
    for _ in range(_DIGESTS):
        started = time.perf_counter()
        hashlib.sha256(content).digest()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def durable_writes_per_second(count: int, size_bytes: int, writers: int, base: Path) -> float:
    """Return how many new files a second the disk makes durable, their names too, when nothing else is done.

    Each writer is a thread that writes a file, renames it and fsyncs it, `count` files in all.
    """
    content = os.urandom(size_bytes)
    folder = tempfile.mkdtemp(prefix="disk-", dir=base)
    barrier = threading.Barrier(writers + 1)
    threads = [
        threading.Thread(target=_write, args=(folder, range(w, count, writers), content, barrier))
        for w in range(writers)
    ]
    for thread in threads:
        thread.start()
    os.sync()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - started)


def _write(folder: str, numbers: Iterable[int], content: bytes, barrier: threading.Barrier) -> None:
    barrier.wait()
    for number in numbers:
        descriptor = os.open(f"{folder}/{number}.part", os.O_CREAT | os.O_WRONLY)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.rename(f"{folder}/{number}.part", f"{folder}/{number}")  # noqa: PTH104  # as bare as the rest
        os.fsync(descriptor)
        os.close(descriptor)


def _file_system() -> str:
    here, best, kind = str(Path.cwd()), "", "unknown file system"
    mounts = Path("/proc/mounts")
    if mounts.exists():
        for line in mounts.read_text(encoding="utf-8").splitlines():
            _, point, found, *_ = line.split()
            if here.startswith(point) and len(point) > len(best):
                best, kind = point, found
    return kind
