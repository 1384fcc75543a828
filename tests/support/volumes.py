"""Volumes of a test's own, which root mounts where that is allowed."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["mount_tmpfs", "mounted"]


@contextlib.contextmanager
def mounted(point: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory at a folder that is made for it; skip where that is not allowed."""
    point.mkdir()
    if os.name == "nt" or os.geteuid() != 0 or not mount_tmpfs(point, size):
        pytest.skip("nobody but root may mount, and not everywhere")
    try:
        yield point
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", point], check=True, capture_output=True)


def mount_tmpfs(point: Path, size: str) -> bool:
    """Mount it again; False where that does not work."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
