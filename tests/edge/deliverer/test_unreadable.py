"""Files that the disk does not give: a bad page is quarantine, and what may pass is tried again by the next process."""

import errno
import os
from typing import Any

import pytest

from dicomflow.edge import gather, resent

Site = Any  # conftest's


def _fail(number: int = errno.EIO) -> Any:
    raise OSError(number, os.strerror(number))


@pytest.fixture(params=[False, True], ids=["open", "closed"])
def left_behind(request: Any, site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any) -> Site:
    """Give a site with a delivery of two instances, as a run leaves it that ends while the store is away."""
    site.receive("1.2.1")
    site.receive("1.2.2")
    with monkeypatch.context() as patched:
        flaky_store(patched, lambda _key: True)
        if request.param:
            site.spool.associations.note_end("a1", "released")
            site.run(lambda: list(site.spool.delivering.glob("*/manifest.json")))
        else:
            site.run(lambda: len(list(site.spool.delivering.glob("*/*.dcm"))) == 2)
    return site


def test_file_with_a_bad_page_stops_no_other(site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """It is quarantined with its reason, and the others are stored; sent again, it is stored too."""
    bad = site.receive("1.2.1")
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    original = gather.read_instance
    monkeypatch.setattr(gather, "read_instance", lambda file: _fail() if file == bad else original(file))
    site.run(site.manifests)
    (manifest,) = site.manifests()
    assert ["1.2.2"] == [each.sop_instance_uid for each in manifest.instances()]
    ((file, reason),) = site.spool.scan_quarantined()
    assert (bad.path.name, "the disk does not give its bytes") == (file.path.name, reason)
    assert f"file_not_read file={bad.path.name}" in caplog.text
    site.receive("1.2.1", association="a2")
    site.spool.associations.note_end("a2", "released")
    site.run(lambda: len(site.manifests()) == 2)


def test_delivery_whose_file_has_a_bad_page_at_the_start_goes_on_without_it(
    left_behind: Site, monkeypatch: pytest.MonkeyPatch
):
    """The file is in quarantine, not gone with the delivery's folder; sent again, it is stored."""
    site = left_behind
    original = gather.read_instance
    with monkeypatch.context() as patched:
        patched.setattr(gather, "read_instance", lambda file: _fail() if file.number == 1 else original(file))
        site.spool.associations.note_end("a1", "released")
        site.run(lambda: site.manifests() and not list(site.spool.delivering.iterdir()))
        site.receive("1.2.2", association="a2")
        site.spool.associations.note_end("a2", "released")
        site.run(lambda: len(site.manifests()) == 2)
    assert [1] == [file.number for file, _ in site.spool.scan_quarantined()]
    assert ["1.2.1", "1.2.2"] == sorted(
        each.sop_instance_uid for manifest in site.manifests() for each in manifest.instances()
    )


def test_failure_that_may_pass_leaves_nothing_out(left_behind: Site, monkeypatch: pytest.MonkeyPatch):
    """The process ends, and the next one takes the delivery up whole."""
    site = left_behind
    original = gather.read_instance
    with monkeypatch.context() as patched:
        patched.setattr(gather, "read_instance", lambda file: _fail(errno.EMFILE) if file.number else original(file))
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            site.run(lambda: False)
    assert [] == site.manifests()
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert 2 == len(list(manifest.instances()))


def test_comparison_with_a_stored_file_that_cannot_be_read_stops_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """A bad page behind the head is met only where the data set is compared."""
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    monkeypatch.setattr(resent, "has_same_data_set", lambda *_: _fail())
    bad = site.receive("1.2.1", association="a2", calling="OTHER")
    site.receive("1.2.2", association="a2")
    site.spool.associations.note_end("a2", "released")
    site.run(lambda: len(site.manifests()) == 2)
    assert [bad.path.name] == [file.path.name for file, _ in site.spool.scan_quarantined()]
    assert f"file_not_read file={bad.path.name}" in caplog.text
