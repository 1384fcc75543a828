"""What the documents say of AWS: its commands and hosts are those of AWS's own models."""

import re
import shlex
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

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
