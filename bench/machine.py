"""What the figures were measured on, and what its disk can do."""

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

__all__ = ["describe", "sync_cost_ms"]


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


def sync_cost_ms(size_bytes: int, rounds: int = 60) -> float:
    """Return the median milliseconds to write a new file of this size, fsync, rename, and fsync the folder."""
    content = os.urandom(size_bytes)
    costs = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as base:
        folder = os.open(base, os.O_RDONLY)
        for number in range(rounds):
            started = time.perf_counter()
            descriptor = os.open(f"{base}/{number}.part", os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, content)
            os.fsync(descriptor)
            os.close(descriptor)
            os.rename(f"{base}/{number}.part", f"{base}/{number}")  # noqa: PTH104  # as bare as the rest
            os.fsync(folder)
            costs.append((time.perf_counter() - started) * 1000)
        os.close(folder)
    return statistics.median(costs)


def _file_system() -> str:
    here, best, kind = str(Path.cwd()), "", "unknown file system"
    mounts = Path("/proc/mounts")
    if mounts.exists():
        for line in mounts.read_text(encoding="utf-8").splitlines():
            _, point, found, *_ = line.split()
            if here.startswith(point) and len(point) > len(best):
                best, kind = point, found
    return kind
