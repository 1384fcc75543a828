"""`dicomflow edge-remove`: everything of a device goes, in an order that AWS takes, and nothing of another's."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.cli.edge_remove import remove_device

Run = Callable[..., tuple[int, str, str]]
POLICIES = ("hospital-ct-GG-Thing", "GreengrassTESCertificatePolicyhospital-ct-GG-Role-Alias")
DOCUMENT = json.dumps({"Version": "2012-10-17", "Statement": []})


class Greengrass:
    """Greengrass's one operation, of which there is no emulator: a device is there, and then it is not."""

    def __init__(self) -> None:
        self.devices = {"hospital-ct"}

    def delete_core_device(self, coreDeviceThingName: str) -> None:  # noqa: N803  # botocore's name
        """Delete it, or say that there is none."""
        if coreDeviceThingName not in self.devices:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "DeleteCoreDevice")
        self.devices.remove(coreDeviceThingName)


@pytest.fixture
def iot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Emulate AWS IoT with an installed edge: thing, certificate, and two policies on it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = boto3.client("iot", region_name="eu-west-1")
        client.create_thing(thingName="hospital-ct")
        certificate = client.create_keys_and_certificate(setAsActive=True)["certificateArn"]
        client.attach_thing_principal(thingName="hospital-ct", principal=certificate)
        for name in POLICIES:
            client.create_policy(policyName=name, policyDocument=DOCUMENT)
            client.attach_policy(policyName=name, target=certificate)
        yield client


def test_edge_remove_frees_the_stacks_policy(iot: Any):
    """Core device, certificate, thing and the installer's policy go; the stack's policy is attached to nothing."""
    greengrass = Greengrass()
    said: list[str] = []
    remove_device(greengrass, iot, "hospital-ct", said.append)
    assert set() == greengrass.devices
    assert [] == iot.list_things()["things"]
    assert [] == iot.list_certificates()["certificates"]
    assert ["hospital-ct-GG-Thing"] == [each["policyName"] for each in iot.list_policies()["policies"]]
    iot.delete_policy(policyName="hospital-ct-GG-Thing")  # what CloudFormation does next
    assert "removed the thing" in said


def test_edge_remove_again_finds_its_work_done(iot: Any):
    """A second call, or one after an interruption, ends well and says nothing was left."""
    greengrass = Greengrass()
    remove_device(greengrass, iot, "hospital-ct", lambda _: None)
    said: list[str] = []
    remove_device(greengrass, iot, "hospital-ct", said.append)
    assert [] == said


@pytest.mark.parametrize("step", ["detach_policy", "detach_thing_principal", "update_certificate", "delete_thing"])
def test_edge_remove_that_was_interrupted_goes_on(iot: Any, step: str):
    """Wherever the line was cut, the next call finishes: no certificate of the device stays able to do anything."""
    greengrass = Greengrass()

    def cut(**_: Any) -> None:
        raise ConnectionError(step)

    iot.meta.events.register_first(f"before-call.iot.{''.join(part.title() for part in step.split('_'))}", cut)
    with pytest.raises(ConnectionError):
        remove_device(greengrass, iot, "hospital-ct", lambda _: None)
    iot.meta.events.unregister(f"before-call.iot.{''.join(part.title() for part in step.split('_'))}", cut)
    remove_device(greengrass, iot, "hospital-ct", lambda _: None)
    assert [] == iot.list_things()["things"]
    active = [each for each in iot.list_certificates()["certificates"] if each["status"] == "ACTIVE"]
    assert [] == [each for each in active if iot.list_attached_policies(target=each["certificateArn"])["policies"]]


def test_certificate_of_two_things_stays_with_the_other(iot: Any):
    """Only this edge's policies leave it, and the other device goes on."""
    (certificate,) = [each["certificateArn"] for each in iot.list_certificates()["certificates"]]
    iot.create_thing(thingName="hospital-mr")
    iot.attach_thing_principal(thingName="hospital-mr", principal=certificate)
    iot.create_policy(policyName="hospital-mr-GG-Thing", policyDocument=DOCUMENT)
    iot.attach_policy(policyName="hospital-mr-GG-Thing", target=certificate)
    remove_device(Greengrass(), iot, "hospital-ct", lambda _: None)
    left = iot.list_attached_policies(target=certificate)["policies"]
    assert ["hospital-mr-GG-Thing"] == [each["policyName"] for each in left]
    assert ["hospital-mr"] == iot.list_principal_things(principal=certificate)["things"]
    assert ["ACTIVE"] == [each["status"] for each in iot.list_certificates()["certificates"]]


def test_policy_that_still_counts_as_attached_is_waited_for(iot: Any):
    """AWS takes up to five minutes to see a detachment."""
    pauses: list[float] = []
    refusals = [2]

    def refuse(**_: Any) -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise ClientError({"Error": {"Code": "DeleteConflictException"}}, "DeletePolicy")

    iot.meta.events.register_first("before-call.iot.DeletePolicy", refuse)
    remove_device(Greengrass(), iot, "hospital-ct", lambda _: None, pauses.append)
    assert 2 == len(pauses)
    assert ["hospital-ct-GG-Thing"] == [each["policyName"] for each in iot.list_policies()["policies"]]


@pytest.fixture
def bucket(served_aws: None) -> Any:
    """Serve a bucket of heartbeats."""
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="images")
    return client


@pytest.mark.parametrize(
    ("age", "received", "words"),
    [(timedelta(0), 0, "hospital-ct still runs: stop it"), (timedelta(hours=1), 7, "7 images wait in the spool")],
    ids=["runs", "waits"],
)
def test_edge_that_runs_or_holds_images_is_refused(
    bucket: Any, run: Run, tmp_path: Path, age: timedelta, received: int, words: str
):
    """What it wrote of itself last says so; nothing is removed."""
    told = Heartbeat("hospital-ct", "0.1.0", datetime.now(UTC) - age, "EDGE", received, 0, 0, 10**9, 0.0)
    bucket.put_object(Bucket="images", Key=heartbeat_key("hospital-ct"), Body=told.to_json())
    code, output, errors = run("edge-remove", "ct", "--stack", "hospital", "--store-url", "s3://images")
    assert (1, "") == (code, output)
    assert words in errors
