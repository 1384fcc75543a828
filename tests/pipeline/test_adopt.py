"""Adoption: what something else put into the bucket becomes deliveries, once, whatever interrupts it."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, ObjectStore

from dicomflow import samples
from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import ADOPTED, heartbeat_key, instance_key, manifest_key
from dicomflow.bucket.listing import list_objects
from dicomflow.bucket.manifest import Manifest
from dicomflow.errors import PermanentError, TransientError
from dicomflow.pipeline import adopt
from dicomflow.pipeline.adopt import Adopting, adopt_objects
from dicomflow.pipeline.adoptions import Adoptions


@pytest.fixture
def bucket(tmp_path: Path) -> ObjectStore:
    """Give a bucket."""
    (tmp_path / "objects").mkdir()
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def adopting(bucket: ObjectStore, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Adopt a prefix of the bucket, with what was remembered."""

    def _adopt(prefix: str = "old/", **options: Any) -> dict[str, int]:
        state = Adoptions(tmp_path / "adopt.db", "bucket")
        try:
            return adopt_objects(Adopting(options.pop("store", bucket), state, **options), prefix)
        finally:
            state.close()

    return _adopt


def _put(bucket: ObjectStore, tmp_path: Path, seed: int, name: Callable[[int, Any], str], **options: Any) -> list[Any]:
    """Put a study under names of another's making."""
    study = list(samples.ct_study(seed, **{"series": 2, "slices": 2, "side": 8} | options))
    paths = samples.write(iter(study), tmp_path / f"study-{seed}")
    for number, path in enumerate(paths):
        obstore.put(bucket, name(number, study[number]), path.read_bytes())
    return study


def _manifests(bucket: ObjectStore) -> list[Manifest]:
    keys = [each.key for each in list_objects(bucket, "manifests/")]
    return [Manifest.from_json(bytes(obstore.get(bucket, key).bytes())) for key in keys]


def test_objects_of_any_name_become_deliveries(bucket: ObjectStore, adopting: Any, tmp_path: Path):
    """Each study is a delivery of `adopted`, with digests, and the objects are untouched."""
    first = _put(bucket, tmp_path, 1, lambda number, _: f"old/EDGE/{number:032}/{number}")
    second = _put(bucket, tmp_path, 2, lambda number, _: f"old/a b/IM{number}")
    told: list[tuple[str, int]] = []
    counts = adopting(announce=told.extend)
    assert (8, 8, 0, 2, 2) == tuple(counts[name] for name in ("listed", "adopted", "problems", "deliveries", "studies"))
    manifests = _manifests(bucket)
    assert {ADOPTED} == {each.edge for each in manifests}
    for manifest in manifests:
        for instance in manifest.instances():
            content = bytes(obstore.get(bucket, instance.key).bytes())
            assert hashlib.sha256(content).hexdigest() == instance.sha256
    instances = {each.sop_instance_uid for manifest in manifests for each in manifest.instances()}
    assert {image.SOPInstanceUID for image in (*first, *second)} == instances
    assert 8 + 2 == len(told)
    assert all(manifest_key(ADOPTED, each.delivery) in dict(told) for each in manifests)
    assert 8 == len([*list_objects(bucket, "old/")])


def test_a_repeat_changes_nothing_and_a_lost_memory_makes_the_same(bucket: ObjectStore, adopting: Any, tmp_path: Path):
    """Keys are a function of the objects."""
    _put(bucket, tmp_path, 1, lambda number, _: f"old/{number}")
    adopting()
    before = sorted(each.key for each in list_objects(bucket, ""))
    told: list[Any] = []
    assert 4 == adopting(announce=told.extend)["adopted"]
    assert [] == told
    for path in tmp_path.glob("adopt.db*"):
        path.unlink()
    assert 4 == adopting()["adopted"]
    assert before == sorted(each.key for each in list_objects(bucket, ""))


def test_what_comes_later_is_adopted_by_another_call(bucket: ObjectStore, adopting: Any, tmp_path: Path):
    """A copy that still runs is adopted as far as it is."""
    study = _put(bucket, tmp_path, 1, lambda number, _: f"old/{number}")
    adopting()
    obstore.put(bucket, "old/late", (tmp_path / "study-1" / f"{study[0].SOPInstanceUID}.dcm").read_bytes())
    _put(bucket, tmp_path, 2, lambda number, _: f"old/second/{number}", series=1, slices=1)
    counts = adopting()
    assert (6, 6, 3) == (counts["listed"], counts["adopted"], counts["deliveries"])


@pytest.mark.parametrize("calls", range(1, 12, 2))
def test_an_end_at_any_copy_is_gone_on_from(bucket: ObjectStore, adopting: Any, tmp_path: Path, calls: int):
    """The store goes away: nothing has a manifest whose objects are not there, and the next call has the rest."""
    for seed in (1, 2):
        _put(bucket, tmp_path, seed, lambda number, _, seed=seed: f"old/{seed}/{number}")

    class Failing:
        left = calls

        def __getattr__(self, name: str) -> Any:
            return getattr(bucket, name)

        def copy(self, source: str, target: str) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError("gone")
            bucket.copy(source, target)

    failing = Failing()
    state = Adoptions(tmp_path / "adopt.db", "bucket")
    real = Adopting(bucket, state)
    adopt._list(real, "old/")
    adopt._read(real)
    with pytest.raises(OSError, match="gone") if calls < 8 else contextlib.nullcontext():
        for study in iter(state.next_study, None):
            for delivery in adopt._group(state, study):
                adopt._adopt(Adopting(failing, state), delivery)  # type: ignore[arg-type]
    state.close()
    for manifest in _manifests(bucket):
        assert all(obstore.head(bucket, each.key)["size"] == each.bytes for each in manifest.instances())
    assert 8 == adopting()["adopted"]
    assert 8 == len({each.sop_instance_uid for manifest in _manifests(bucket) for each in manifest.instances()})


def test_what_is_no_dicom_is_listed_and_stops_nothing(bucket: ObjectStore, adopting: Any, tmp_path: Path):
    """A text, an empty object, a file that is cut short: each with its reason, and the study beside them is adopted."""
    _put(bucket, tmp_path, 1, lambda number, _: f"old/{number}")
    obstore.put(bucket, "old/README.txt", b"hello")
    obstore.put(bucket, "old/empty", b"")
    obstore.put(bucket, "old/cut", b"\0" * 128 + b"DICM")
    assert (7, 4, 3) == tuple(adopting()[name] for name in ("listed", "adopted", "problems"))
    state = Adoptions(tmp_path / "adopt.db", "bucket")
    problems = dict(state.problems())
    state.close()
    assert {"old/README.txt", "old/empty", "old/cut"} == problems.keys()
    assert "the object is empty" == problems["old/empty"]


def test_what_an_edge_received_is_left_alone(bucket: ObjectStore, adopting: Any, tmp_path: Path):
    """With a manifest or under way, of an edge whose heartbeat is there; the bucket as a whole may be adopted."""

    def key(edge: str, delivery: str) -> Callable[[int, Any], str]:
        return lambda _, image: instance_key(
            edge, delivery, image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID
        )

    _put(bucket, tmp_path, 1, key("site-1", "d1"))
    obstore.put(bucket, manifest_key("site-1", "d1"), b"{}")
    _put(bucket, tmp_path, 2, key("site-2", "d2"))
    from datetime import UTC, datetime

    beat = Heartbeat("site-2", "1", datetime.now(UTC), "EDGE", 0, 0, 0, 0, 0.0)
    obstore.put(bucket, heartbeat_key("site-2"), beat.to_json())
    _put(bucket, tmp_path, 3, key("copied", "d3"))
    _put(bucket, tmp_path, 4, lambda number, _: f"old/{number}")
    counts = adopting("")
    assert (8, 8) == (counts["listed"], counts["adopted"])
    assert 8 == adopting("")["listed"]


def test_two_contents_of_one_instance_are_two_deliveries(bucket: ObjectStore, adopting: Any, tmp_path: Path):
    """One key holds one object: neither is lost."""
    study = _put(bucket, tmp_path, 1, lambda number, _: f"old/{number}", series=1, slices=1)
    study[0].PatientComments = "corrected"
    (path,) = samples.write(iter(study), tmp_path / "second")
    obstore.put(bucket, "old/second", path.read_bytes())
    assert (2, 2) == tuple(adopting()[name] for name in ("adopted", "deliveries"))
    assert 2 == len({each.sha256 for manifest in _manifests(bucket) for each in manifest.instances()})


def test_a_study_beyond_an_imports_limits_is_several_deliveries(
    bucket: ObjectStore, adopting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """5,000 files, of which there are three here."""
    monkeypatch.setattr(adopt, "MOST_FILES", 3)
    _put(bucket, tmp_path, 1, lambda number, _: f"old/{number}")
    assert (4, 2) == tuple(adopting()[name] for name in ("adopted", "deliveries"))


def test_state_of_another_store_is_refused(tmp_path: Path):
    """Its keys are of other objects."""
    Adoptions(tmp_path / "adopt.db", "one").close()
    with pytest.raises(PermanentError, match="is the state of an adoption in one, not in two"):
        Adoptions(tmp_path / "adopt.db", "two")
    (tmp_path / "text").write_text("no database, but long enough to be looked at as one" * 100)
    with pytest.raises(PermanentError, match="cannot use"):
        Adoptions(tmp_path / "text", "one")


def test_a_store_that_does_not_answer_is_told_as_such(adopting: Any, tmp_path: Path, bucket: ObjectStore):
    """It ends the run, and is no empty prefix."""
    _put(bucket, tmp_path, 1, lambda number, _: f"old/{number}")
    (tmp_path / "objects").rename(tmp_path / "away")
    with pytest.raises(TransientError, match="call again"):
        adopting("")
