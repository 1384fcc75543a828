"""A destination that is a bucket: instances and their manifest under its prefix, and nothing while it is not there."""

import hashlib
from typing import Any

import pytest
from routed_site import RoutedSite

from dicomflow.bucket.manifest import Manifest


@pytest.fixture
def to_bucket(routed: RoutedSite, s3_endpoint: str, aws_environment: pytest.MonkeyPatch, bucket: str) -> RoutedSite:
    """Give an edge that sends all to a bucket."""
    destination = {"kind": "store", "url": f"s3://{bucket}", "endpoint": s3_endpoint, "prefix": "from/here"}
    routed.set(destinations={"second": destination}, routes=[{"to": ["second"]}])
    return routed


def test_a_bucket_has_each_instance_and_the_manifest_last(to_bucket: RoutedSite, s3_client: Any, bucket: str) -> None:
    """By digest, with the keys that the manifest tells, and with the checksum that S3 has kept."""
    to_bucket.receive_and_end("1.1", "1.2", pixels=100_000)
    to_bucket.run(to_bucket.is_level)
    listed = s3_client.list_objects_v2(Bucket=bucket, Prefix="from/here/")["Contents"]
    found = {each["Key"]: s3_client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed}
    (note,) = [key for key in found if "/manifests/" in key]
    manifest = Manifest.from_json(found.pop(note))
    told = {each.key: each.sha256 for each in manifest.instances()}
    assert told == {key: hashlib.sha256(content).hexdigest() for key, content in found.items()}
    assert sorted(told.values()) == sorted(to_bucket.digests("1.1", "1.2").values())
    times = {each["Key"]: each["LastModified"] for each in listed}
    assert times[note] == max(times.values())
    assert to_bucket.routed("1.1")[0].state == "done"


def test_a_bucket_that_is_missing_costs_nothing_but_time(
    to_bucket: RoutedSite, s3_client: Any, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits for it arrives when it is there, and nothing is quarantined."""
    s3_client.delete_bucket(Bucket=bucket)
    to_bucket.receive_and_end("1.1")
    to_bucket.run(lambda: "share_held_up destination=second" in caplog.text)
    s3_client.create_bucket(Bucket=bucket)
    to_bucket.run(to_bucket.is_level)
    assert list(to_bucket.spool.quarantined.iterdir()) == []
    keys = [each["Key"] for each in s3_client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert sum(key.endswith(".dcm") for key in keys) == 1
