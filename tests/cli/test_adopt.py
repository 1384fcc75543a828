"""`dicomflow adopt`: from a foreign layout in a local bucket to image sets."""

import json
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from dicomflow import samples
from dicomflow.bucket.manifest import Manifest
from dicomflow.cli import run


def _put(data: Path, seed: int) -> int:
    """Lay a study into the bucket as the AWS sample does: `EDGE/UUID/SOPInstanceUID`."""
    paths = samples.write(samples.ct_study(seed, series=2, slices=2, side=8), data / f"study-{seed}")
    folder = data / "objects" / "old-edge" / "7f1c"
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.rename(folder / path.stem)
    return len(paths)


def test_adopted_objects_are_imported_by_a_system_that_runs(
    local_daemon_factory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """They are told from received ones by their edge, and a second call adopts nothing."""
    daemon = local_daemon_factory(tmp_path)
    daemon.start()
    try:
        count = _put(daemon.data, 77)
        capsys.readouterr()
        assert 0 == run(["adopt", "old-edge", "--data", str(daemon.data), "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (count, count, 1, []) == (told["listed"], told["adopted"], told["deliveries"], told["not_adopted"])
        completed = "SELECT count(*) FROM series_import WHERE state = 'completed'"
        wait_for(lambda: daemon.query(completed) == [(2,)], explain=daemon.log_tail)
        assert [("adopted", count)] == [
            tuple(row)
            for row in daemon.query("SELECT edge, count(*) FROM stored_object WHERE edge <> '' GROUP BY edge")
        ]
        assert 0 == run(["adopt", "old-edge", "--data", str(daemon.data)])
    finally:
        daemon.close()


def test_what_is_no_instance_is_told_and_an_empty_prefix_is_an_error(tmp_path: Path, capsys: Any):
    """Exit 1 both times, in words; nobody needs a catalog for it."""
    _put(tmp_path, 78)
    (tmp_path / "objects" / "old-edge" / "notes.txt").write_text("hello")
    assert 1 == run(["adopt", "old-edge", "--data", str(tmp_path)])
    out = capsys.readouterr().out
    assert "4 of 5 objects adopted, in 1 deliveries of 1 studies" in out
    assert "not adopted: old-edge/notes.txt: " in out
    remembered = ("--state", str(tmp_path / "state.db"))
    assert 1 == run(
        ["adopt", "nowhere", "--data", str(tmp_path / "objects"), "--store-url", tmp_path.as_uri(), *remembered]
    )
    assert "there is nothing to adopt below nowhere" in capsys.readouterr().err


def test_prefix_of_another_bucket_is_refused(capsys: Any):
    """Nothing is copied between buckets here."""
    assert 1 == run(["adopt", "s3://theirs/old", "--store-url", "s3://ours"])
    assert "is not below s3://ours" in capsys.readouterr().err


def test_objects_of_a_bucket_are_adopted_by_its_url(
    s3_endpoint: str, s3_client: Any, bucket: str, aws_environment: Any, tmp_path: Path, capsys: Any
):
    """On an S3 server: copied within the bucket with their bytes, a manifest beside, and the old ones untouched."""
    aws_environment.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    aws_environment.chdir(tmp_path)  # where it keeps how far it is
    contents = []
    for number, path in enumerate(samples.write(samples.ct_study(79, series=2, slices=2, side=8), tmp_path / "study")):
        contents.append(path.read_bytes())
        s3_client.put_object(Bucket=bucket, Key=f"old archive/7f1c+{number}", Body=contents[-1])
    s3_client.put_object(Bucket=bucket, Key="old archive/notes.txt", Body=b"hello")
    for _ in range(2):  # a second call adopts nothing again
        assert 1 == run(["adopt", f"s3://{bucket}/old archive", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (5, 4, 1, 1) == (told["listed"], told["adopted"], told["deliveries"], told["problems"])
        assert ["old archive/notes.txt"] == [each["key"] for each in told["not_adopted"]]
        found = {
            each["Key"]: s3_client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            for each in s3_client.list_objects_v2(Bucket=bucket)["Contents"]
        }
        assert 10 == len(found)
        (manifest,) = (Manifest.from_json(found[key]) for key in found if key.startswith("manifests/adopted/"))
        assert sorted(contents) == sorted(found[each.key] for each in manifest.instances())
        assert sorted(contents) == sorted(found[f"old archive/7f1c+{number}"] for number in range(4))
