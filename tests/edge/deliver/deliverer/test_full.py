"""A volume that is full, at whatever the deliverer writes: nothing is lost or stuck, and it drains by itself."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool import segments
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.view import count_files

Site = Any  # conftest's
CALLS = ("mkdir", "open", "write", "fsync", "rename", "replace", "link", "pwrite", "utime", "chmod")
FAILING = 12  # calls in a row


class FullVolume:
    """Has each call that may need room fail from one on, for some calls; `calls` has their names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self._number = number
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def _call(*arguments: Any, **keywords: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                self.calls.append(name)
                count = len(self.calls)
                if self.fail_at is not None and self.fail_at <= count < self.fail_at + FAILING:
                    raise OSError(self._number, os.strerror(self._number))
            return original(*arguments, **keywords)

        return _call


@pytest.fixture
def prepared(site: Site, spool: Spool, tmp_path: Path) -> Callable[[], None]:
    """Give what puts the site back to three received instances of two studies, one of them large."""

    def _prepare() -> None:
        for folder in (spool.root, site.objects):
            shutil.rmtree(folder, ignore_errors=True)
        site.spool = Spool(spool.root)
        site.lane = Lane(spool.root, segment_bytes=64 << 10)
        site.receive("1.2.1")
        site.receive("1.2.2", pixels=bytes(100_000))
        site.receive("1.9.1", study_instance_uid="1.9")
        site.spool.associations.note_end("a1", "released")
        site.lane.segments = None

    return _prepare


@pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")
def test_full_volume_at_each_write_of_a_delivery_holds_up_nothing_for_good(
    site: Site, prepared: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    """Whichever call finds no room first, everything is stored once there is some, and the process lives on."""
    monkeypatch.setattr("dicomflow.edge.deliver.gather._UNPACK_SECONDS", 0.01)
    monkeypatch.setattr("dicomflow.edge.progress._WRITE_SECONDS", 0.02)
    received = ["1.2.1", "1.2.2", "1.9.1"]

    def _stored() -> list[str]:
        return sorted(each.sop_instance_uid for manifest in site.manifests() for each in manifest.instances())

    def _deliver(fail_at: int | None) -> list[str]:
        prepared()
        with pytest.MonkeyPatch.context() as patched:
            volume = FullVolume(patched, errno.ENOSPC)
            volume.fail_at = fail_at
            # A study may come in two deliveries: one that cannot be synced is taken up again later.
            site.run(lambda: site.is_empty() and _stored() == received)
        assert {"received": 0, "delivering": 0, "quarantined": 0} == count_files(site.spool.root)
        return volume.calls

    steps = len(_deliver(None))
    assert steps > 30
    for step in range(1, steps, 1 if os.environ.get("DICOMFLOW_TEST_FULL") else FAILING // 2):
        _deliver(step)
