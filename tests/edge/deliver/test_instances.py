"""What the files of the spool tell, and whether their data sets were delivered before."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from spool_files import receive

from dicomflow.edge.deliver.delivery import Delivery, ReceivedInstance
from dicomflow.edge.deliver.instances import (
    MANIFEST_FILE,
    entry_of,
    has_same_data_set,
    rank_of,
    read_instance,
    read_manifest,
)
from dicomflow.edge.settings import DeliverySettings, PriorityRule
from dicomflow.edge.spool.folders import Spool
from dicomflow.errors import PeerError

Spooled = Callable[..., ReceivedInstance]


@pytest.fixture
def spooled(spool: Spool, part10: Callable[..., bytes]) -> Spooled:
    """Spool an instance and read it."""
    numbers = iter(range(100))

    def _spooled(sop: str = "1.2.1", **fields: Any) -> ReceivedInstance:
        return read_instance(receive(spool, part10(sop, **fields), number=next(numbers)))

    return _spooled


def _entry(instance: ReceivedInstance) -> Any:
    return entry_of(instance, Delivery("d1", instance.study_instance_uid, 0, 0), "site-1")


def test_instance_is_read_from_its_file(spooled: Spooled):
    """UIDs, AE titles, size and time are those of the file."""
    instance = spooled("1.2.1", calling="CT7")
    assert ("1.2.1", "1.2.3", "1.2.3.1", "CT7", "DICOMFLOW") == (
        instance.sop_instance_uid,
        instance.study_instance_uid,
        instance.series_instance_uid,
        instance.calling_ae_title,
        instance.called_ae_title,
    )
    assert instance.file.path.stat().st_size == instance.bytes
    assert abs((datetime.now(UTC) - instance.received_at).total_seconds()) < 60


@pytest.mark.parametrize("uid", [None, "", "not a uid", "../../etc"])
def test_keys_cannot_be_escaped_by_uid_or_ae_title(spooled: Spooled, uid: str | None):
    """A study whose UID is missing or could leave its folder is refused before it has a key."""
    with pytest.raises(PeerError, match="missing or illegal"):
        spooled("1.2.1", study_instance_uid=uid)


@pytest.mark.parametrize("calling", ["CT1", "WORKSTATION", "A"])
def test_same_data_set_is_known_whatever_its_meta_information(spooled: Spooled, calling: str):
    """Another AE title makes other bytes, and the data set is known by the digest of the first file."""
    known = _entry(spooled("1.2.1"))
    assert has_same_data_set(spooled("1.2.1", calling=calling), known)


def test_other_data_set_is_not_taken_for_a_known_one(spooled: Spooled):
    """One changed byte of the pixels, or one more, is another data set."""
    known = _entry(spooled("1.2.1", pixels=b"pixels"))
    assert not has_same_data_set(spooled("1.2.1", pixels=b"Pixels"), known)
    assert not has_same_data_set(spooled("1.2.1", pixels=b"pixels++"), known)
    assert not has_same_data_set(spooled("1.2.1", pixels=b"Pixels", calling="OTHER"), known)


def test_entry_of_an_instance_has_its_digest_and_key(spooled: Spooled):
    """The ledger gets what custody is shown with."""
    instance = spooled("1.2.1")
    entry = _entry(instance)
    assert (instance.file.sha256, "site-1/d1/1.2.3/1.2.3.1/1.2.1.dcm") == (entry.sha256, entry.object_key)
    assert (None, None, None) == (entry.stored_at, entry.imported_at, entry.problem)


def test_rank_is_of_the_first_rule_that_fits(spooled: Spooled):
    """A rule with both conditions wants both; one without any fits all."""
    settings = DeliverySettings(
        store_url="s3://bucket",
        priorities=(
            PriorityRule(calling_ae_title="STAT", modality="CT", rank=9),
            PriorityRule(calling_ae_title="STAT", rank=5),
            PriorityRule(calling_ae_title="ARCHIVE", rank=-5),
        ),
    )
    ranks = [rank_of(spooled("1.2.1", calling=calling), settings) for calling in ("STAT", "ARCHIVE", "CT1")]
    assert [5, -5, 0] == ranks


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_delivery_without_a_readable_manifest_is_not_closed(tmp_path: Path, content: bytes | None):
    """A missing note and one that is none leave a delivery open."""
    if content is not None:
        (tmp_path / MANIFEST_FILE).write_bytes(content)
    assert read_manifest(tmp_path, "site-1") is None


def test_delivery_with_its_manifest_is_closed(tmp_path: Path, spooled: Spooled):
    """The note that closing writes is known again."""
    delivery = Delivery(tmp_path.name, "1.2.3", 0, 0)
    delivery.add(spooled(), 0)
    manifest = delivery.manifest("site-1", datetime.now(UTC), lambda _: "released")
    (tmp_path / MANIFEST_FILE).write_bytes(manifest.to_json())
    assert manifest == read_manifest(tmp_path, "site-1")
