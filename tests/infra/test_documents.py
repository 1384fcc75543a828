"""What the documents say of AWS: its commands and hosts are those of AWS's own models."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import botocore.session
import pytest
from botocore import xform_name
from botocore.config import Config

from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {
        line.partition("    #")[0].strip()
        for document in DOCS.glob("*.md")
        for block in BLOCK.findall(document.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.startswith("aws ")
    }
)
SPOKEN = sorted(
    {call for document in DOCS.glob("*.md") for call in re.findall(r"`(aws [^`\n]+)`", document.read_text("utf-8"))}
)


@pytest.mark.parametrize("command", COMMANDS)
def test_aws_commands_of_the_documents_are_its_own(command: str):
    """Service, operation and parameters are in botocore's model, and what an operation needs is given."""
    _, service, called, *arguments = shlex.split(command)
    model = botocore.session.Session().get_service_model(service)
    (name,) = [name for name in model.operation_names if xform_name(name, "-") == called]
    shape = model.operation_model(name).input_shape
    members = {xform_name(member, "-"): member for member in shape.members}
    given = {members[argument.removeprefix("--")] for argument in arguments if argument.startswith("--")}
    assert set() == set(shape.required_members) - given


@pytest.mark.parametrize("call", SPOKEN)
def test_aws_commands_in_a_text_are_its_own(call: str):
    """So are those that a text speaks of, but for what they need."""
    _, service, called, *arguments = shlex.split(call)
    model = botocore.session.Session().get_service_model(service)
    (name,) = [name for name in model.operation_names if xform_name(name, "-") == called]
    members = {xform_name(member, "-") for member in getattr(model.operation_model(name).input_shape, "members", {})}
    assert {argument.removeprefix("--") for argument in arguments if argument.startswith("--")} <= members


def test_hosts_of_an_edge_are_those_of_its_clients(aws_environment: pytest.MonkeyPatch):
    """What the edge's store and AWS's own models call is in the table of docs/network.md."""
    table = (
        (DOCS / "network.md").read_text(encoding="utf-8").partition("## What an edge reaches")[2].partition("\n## ")[0]
    )
    hosts = set(re.findall(r"`([\w*.-]+\.(?:com|net))`", table))
    accelerated = build_store(DeliverySettings(store_url="s3://BUCKET", accelerate=True))
    aws_environment.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    fips = build_store(DeliverySettings(store_url="s3://BUCKET"))
    called = {urlsplit(str(store.config["endpoint"])).netloc for store in (accelerated, fips)}
    plain = Config(use_fips_endpoint=False)
    called |= {
        urlsplit(boto3.client(name, "us-east-2", config=plain).meta.endpoint_url).netloc
        for name in ("s3", "rolesanywhere")
    }
    assert set() == {re.sub(r"us-east-\d", "REGION", host) for host in called} - hosts
