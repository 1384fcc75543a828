"""The deployment's own order: what is asked of AWS, what is refused, what is set, and when the CDK is called."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from infra import deploy
from infra.deployed import DeployedStack
from infra.errors import ConfigError

BUCKET = {"Resources": {"iepdicombucket": {"Type": "AWS::S3::Bucket"}}, "Outputs": {"Bucket": {"Value": "left"}}}


class Stacks:
    """CloudFormation with one stack, as far as a deployment asks it: the emulator has none without Docker's library."""

    def __init__(self) -> None:
        self.template: dict[str, Any] | None = None
        self.state: dict[str, Any] = {"StackStatus": "CREATE_COMPLETE"}
        self.policy: dict[str, Any] = {}

    def create(self, template: dict[str, Any], **state: Any) -> None:
        """Make the stack."""
        self.template = template
        outputs = [
            {"OutputKey": name, "OutputValue": each["Value"]} for name, each in template.get("Outputs", {}).items()
        ]
        self.state = {"StackStatus": "CREATE_COMPLETE", "Outputs": outputs, **state}

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803  # botocore's name
        """Answer as CloudFormation does."""
        if self.template is None:
            error = {"Error": {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}}
            raise ClientError(error, "DescribeStacks")
        return {"Stacks": [self.state]}

    def get_template(self, **_: str) -> dict[str, Any]:
        """Give what botocore makes of JSON."""
        return {"TemplateBody": self.template}

    def set_stack_policy(self, StackPolicyBody: str, **_: str) -> None:  # noqa: N803  # botocore's name
        """Note the policy."""
        self.policy = json.loads(StackPolicyBody)


@pytest.fixture(autouse=True)
def stacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stacks]:
    """Give the stacks of an emulated account, in a region."""
    for name, value in {"REGION": "eu-west-1", "DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    found = Stacks()
    with mock_aws():
        monkeypatch.setattr(deploy, "DeployedStack", lambda name: DeployedStack(name, stacks=found))
        yield found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stacks: Stacks) -> list[Any]:
    """Stand for the two programs that a deployment calls, which have tests of their own; note what they are asked."""
    noted: list[Any] = []

    def synthesise(settings: Any, output: Path, context: Any = None) -> int:
        noted.append(("synth", settings.database.deletion_protection))
        output.mkdir(exist_ok=True)
        (output / f"{settings.name}.template.json").write_text(json.dumps(BUCKET))
        return 0

    def cdk(*arguments: str) -> int:
        noted.append((arguments[0], *arguments[3:]))
        if arguments[0] == "deploy":
            stacks.create(BUCKET)
        return 0

    monkeypatch.setattr(deploy, "synthesise_settings", synthesise)
    monkeypatch.setattr(deploy, "_cdk", cdk)
    monkeypatch.setattr(deploy, "_ASSEMBLY", tmp_path / "cdk.out")
    return noted


def test_first_deployment_is_made_unprotected_then_protected(calls: list[Any], stacks: Stacks):
    """A failure can be rolled back whole, since protection comes last; then nothing can be replaced any more."""
    assert 0 == deploy.main([])
    expected = [("synth", False), ("deploy",), ("synth", True), ("deploy", "--require-approval", "never")]
    assert expected == calls
    assert ["LogicalResourceId/iepdicombucket"] == stacks.policy["Statement"][1]["Resource"]


def test_second_deployment_is_one_pass(calls: list[Any]):
    """What stands is protected as it is deployed."""
    deploy.main([])
    del calls[:]
    assert 0 == deploy.main(["--exclusively"])
    assert [("synth", True), ("deploy", "--exclusively")] == calls


@pytest.mark.parametrize("command", [["diff"], []], ids=["diff", "deploy"])
def test_change_that_loses_images_is_refused(
    calls: list[Any], stacks: Stacks, command: list[str], capsys: pytest.CaptureFixture[str]
):
    """Before anything is deployed; with `--allow` and its name it goes through."""
    stacks.create({"Resources": {**BUCKET["Resources"], "Old": {"Type": "AWS::S3::Bucket"}}})
    assert 1 == deploy.main(command)
    assert [("synth", True)] == calls
    assert "the bucket with its images (Old) would be removed from the stack" in capsys.readouterr().err
    assert 0 == deploy.main([*command, "--allow", "Old"])


def test_diff_of_nothing_deployed_shows_everything(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Before the first deployment a look is a look, and says what is allowed and may not be meant."""
    config = deploy.CONFIG.read_text(encoding="utf-8")
    config = config.replace('"retention_days": 0', '"retention_days": 60').replace(
        '"db_engine_pause": 20', '"db_engine_pause": 0'
    )
    (tmp_path / "config.py").write_text(config, encoding="utf-8")
    monkeypatch.setattr(deploy, "CONFIG", tmp_path / "config.py")
    assert 0 == deploy.main(["diff"])
    said = capsys.readouterr().err
    for words in ("retention_days 60 is less than archive_after_days 30 and 90", "email in MONITORING_CONFIG is empty"):
        assert words in said
    assert "8 ACU cost about 704 USD a month" in said
    assert [("synth", True), ("diff",)] == calls


def test_bootstrap_is_made_as_the_account_demands(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The CDK's own roles have the boundary too, and are told from those of another bootstrap."""
    config = deploy.CONFIG.read_text(encoding="utf-8")
    config = config.replace('"permissions_boundary": ""', '"permissions_boundary": "arn:aws:iam::1234:policy/Limit"')
    config = config.replace("iam::1234:", f"iam::{'1' * 12}:")
    config = config.replace('"bootstrap_qualifier": ""', '"bootstrap_qualifier": "hosp1"')
    (tmp_path / "config.py").write_text(config, encoding="utf-8")
    monkeypatch.setattr(deploy, "CONFIG", tmp_path / "config.py")
    assert 0 == deploy.main(["bootstrap"])
    options = ["--qualifier", "hosp1", "--toolkit-stack-name", "CDKToolkit-hosp1"]
    assert ("bootstrap", *options, "--custom-permissions-boundary", "Limit") == calls[-1]
    assert 0 == deploy.main(["synth"])
    assert "nobody is told of alarms: email in MONITORING_CONFIG is empty" in capsys.readouterr().err


def test_deployment_with_an_address_asks_for_its_confirmation(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A subscription that nobody confirms gets no alarm, and says nothing of it."""
    config = deploy.CONFIG.read_text(encoding="utf-8").replace('"email": ""', '"email": "it@example.org"')
    (tmp_path / "config.py").write_text(config, encoding="utf-8")
    monkeypatch.setattr(deploy, "CONFIG", tmp_path / "config.py")
    assert 0 == deploy.main([])
    assert "if it@example.org has not done so yet, confirm AWS's mail to it" in capsys.readouterr().err
    assert calls


def test_destroy_says_what_stops_it_in_the_order_to_put_right(
    calls: list[Any], stacks: Stacks, capsys: pytest.CaptureFixture[str]
):
    """Edges first, which write every minute; then the bucket, then protection; and nothing is asked of the CDK."""
    boto3.client("s3").create_bucket(Bucket="left", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    boto3.client("s3").put_object(Bucket="left", Key="x", Body=b"x")
    boto3.client("iot").create_thing(thingName="iep-edge-1")
    stacks.create(BUCKET, EnableTerminationProtection=True)
    assert 1 == deploy.main(["destroy"])
    assert [] == calls
    lines = capsys.readouterr().err.splitlines()
    assert [
        "the stack cannot be removed yet:",
        "the edge edge-1 is still a device: dicomflow edge-remove edge-1",
        "the bucket left holds objects: empty it, with all versions, or copy it first",
        "deletion_protection is on: set it to False in DB_CONFIG, then run scripts/deploy",
    ] == lines


def test_destroy_of_what_can_go_asks_the_cdk(calls: list[Any], stacks: Stacks):
    """Without edges, objects and protection the stack is removed."""
    boto3.client("s3").create_bucket(Bucket="left", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    stacks.create(BUCKET)
    assert 0 == deploy.main(["destroy", "--force"])
    assert [("synth", True), ("destroy", "--force")] == calls


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "REVIEW_IN_PROGRESS"])
def test_stack_of_a_failed_first_deployment_counts_as_none(stacks: Stacks, status: str):
    """The CDK's command line deletes it and begins anew: unprotected again."""
    stacks.create(BUCKET, StackStatus=status)
    assert DeployedStack("iep", stacks=stacks).state() is None


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED"])
def test_destroy_removes_what_a_failed_first_deployment_left(calls: list[Any], stacks: Stacks, status: str):
    """The stack is there, though nothing works in it; one that is not there is said."""
    stacks.create({"Resources": {}}, StackStatus=status)
    assert 0 == deploy.main(["destroy", "--force"])
    assert ("destroy", "--force") == calls[-1]
    stacks.template = None
    assert 1 == deploy.main(["destroy", "--force"])


def test_allow_without_an_id_is_a_wrong_call(calls: list[Any], capsys: pytest.CaptureFixture[str]):
    """It says what is missing, and deploys nothing."""
    assert 2 == deploy.main(["--allow"])
    assert ([], True) == (calls, "--allow needs the ID" in capsys.readouterr().err)


def test_no_region_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Neither a variable nor a profile: the line says what to export."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no region is set: export AWS_REGION"):
        DeployedStack("iep")
