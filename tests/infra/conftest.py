"""Templates of four deployments, each synthesised once a session by the command that an operator runs."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
STORE = "0123456789abcdef0123456789abcdef"
_TEMPLATES = frozenset({"synthesiser", "template", "small", "adopted", "zoned"})


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of templates in one process, so that each template is synthesised once."""
    for item in items:
        if _TEMPLATES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("templates"))
            item.add_marker(pytest.mark.timeout(900))  # the first waits for a synthesis


@dataclass(frozen=True)
class Template:
    """A synthesised template, with those nested in it: the files, the resources of all, and what the command said."""

    paths: list[Path]
    document: dict[str, Any]
    nested: list[dict[str, Any]]
    said: str

    @property
    def all_resources(self) -> dict[str, dict[str, Any]]:
        """Give the resources of the stack and of its nested stacks, by logical id."""
        return {
            name: resource
            for document in [self.document, *self.nested]
            for name, resource in document["Resources"].items()
        }

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Give the properties of all resources of a type, by logical id."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.all_resources.items()
            if resource["Type"] == kind
        }

    def one(self, kind: str, **values: Any) -> dict[str, Any]:
        """Give the properties of the one resource of a type that has these values."""
        found = [
            properties
            for properties in self.resources(kind).values()
            if all(properties.get(key) == value for key, value in values.items())
        ]
        assert 1 == len(found), f"{len(found)} resources of type {kind} with {values}"
        return found[0]

    def resource(self, name: str) -> dict[str, Any]:
        """Give the resource of a name; CDK appends the hash of its path."""
        pattern = re.compile(rf"{name}[0-9A-F]{{8}}")
        (found,) = [value for key, value in self.all_resources.items() if pattern.fullmatch(key)]
        return found

    def statements(self, role: str) -> dict[str, dict[str, Any]]:
        """Give the statements of a role's own policy, or of a managed one, by Sid."""
        for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
            for name, properties in self.resources(kind).items():
                if name.startswith(role):
                    return {each["Sid"]: each for each in properties["PolicyDocument"]["Statement"]}
        raise AssertionError(f"no policy begins with {role}")


def write_config(folder: Path, **changes: Any) -> Path:
    """Write config.py with some values changed; give its path."""
    values = {name: value for name, value in runpy.run_path(str(ROOT / "config.py")).items() if name.isupper()}
    config = folder / "changed.py"
    config.write_text("".join(f"{name} = {value!r}\n" for name, value in {**values, **changes}.items()))
    return config


def environment_of_synthesis() -> dict[str, str]:
    """Give an environment that a synthesis cannot lean on; without bundles, which take a minute."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))}
    return kept | {"CDK_CONTEXT_JSON": json.dumps({"bundles": "skip"}), "PATH": "/usr/bin:/bin"}


class Synthesiser:
    """Runs the command that an operator runs, in one process for all. One owner: the session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.synthesiser"],
            cwd=ROOT,
            env=environment_of_synthesis(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, config: Path, output: Path, *, is_acknowledged: bool = True) -> tuple[int, Any]:
        """Have a deployment synthesised; give the exit code and what was said, or what breaks a rule."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"config": str(config), "output": str(output), "acknowledged": is_acknowledged}
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process of syntheses died: see its standard error"
        code, said = json.loads(line)
        return code, said

    def read(self, folder: Path, **changes: Any) -> Template:
        """Give the template of a deployment, which must synthesise."""
        output = folder / "cdk.out"
        code, said = self.ask(write_config(folder, **changes), output)
        assert 0 == code, said
        nested = sorted(output.glob("*.nested.template.json"))
        (path,) = set(output.glob("*.template.json")) - set(nested)
        documents = [json.loads(each.read_text()) for each in (path, *nested)]
        return Template([path, *nested], documents[0], documents[1:], said)

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture(scope="session")
def synthesiser() -> Iterator[Synthesiser]:
    """Give the process that synthesises."""
    started = Synthesiser()
    yield started
    started.close()


@pytest.fixture(scope="session")
def template(synthesiser: Synthesiser, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Give config.py's own deployment, with an edge on EC2 beside the one it has."""
    edges = [
        {"Name": "edge-1", "device_type": "LOCAL", "settings": {"dimse": {"port": 104, "called_ae_titles": ["CT"]}}},
        {
            "Name": "edge-2",
            "device_type": "EC2",
            "settings": {
                "dimse": {"max_associations": 7},
                "archive": {"dicomweb_url": f"https://dicom-medical-imaging.eu-west-1.amazonaws.com/datastore/{STORE}"},
            },
        },
    ]
    return synthesiser.read(
        tmp_path_factory.mktemp("template"),
        EDGE_CONFIG=edges,
        SITE_ISSUERS={"edge-1": "HOSPITAL", "edge-2/CT1": "CLINIC"},
        SITE_CHARACTER_SETS={"edge-1": "GBK"},
        MONITORING_CONFIG={"email": "it@example.org", "monthly_budget_usd": 500},
    )


@pytest.fixture(scope="session")
def small(synthesiser: Synthesiser, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Give a deployment that differs in all that can be switched: no imports, no internet, a key of the customer's."""
    return synthesiser.read(
        tmp_path_factory.mktemp("small"),
        CDK_APP_NAME="Other-1",
        AHLI_CONFIG={"ahli_enabled": False},
        DB_CONFIG={"db_engine_pause": 0, "min_acu_capacity": 0.5, "max_acu_capacity": 4, "deletion_protection": False},
        NETWORK_CONFIG={"private_endpoints": True},
        STORAGE_CONFIG={
            "transfer_acceleration": True,
            "retention_days": 90,
            "kms_key_arn": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        },
    )


@pytest.fixture(scope="session")
def adopted(synthesiser: Synthesiser, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Give a deployment without edges that takes a data store which is there."""
    return synthesiser.read(
        tmp_path_factory.mktemp("adopted"),
        CDK_APP_NAME="iep-01",
        EDGE_CONFIG=[],
        AHLI_CONFIG={"datastore_id": "0123456789abcdef0123456789abcdef"},
        STORAGE_CONFIG={"retention_days": 100},
    )


@pytest.fixture(scope="session")
def zoned(synthesiser: Synthesiser, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Give a deployment into a network that is there, of an account with a boundary, a qualifier and FIPS endpoints."""
    subnets = [f"subnet-0123456789abcdef{number}" for number in range(4)]
    return synthesiser.read(
        tmp_path_factory.mktemp("zoned"),
        EDGE_CONFIG=[{"Name": "edge-1", "device_type": "LOCAL"}, {"Name": "edge-2", "device_type": "EC2"}],
        NETWORK_CONFIG={
            "vpc_id": "vpc-0123456789abcdef0",
            "private_endpoints": True,
            "function_subnets": {"us-east-1a": subnets[0], "us-east-1b": subnets[1]},
            "database_subnets": {"us-east-1a": subnets[2], "us-east-1b": subnets[3]},
            "function_group": "sg-0123456789abcdef0",
            "database_group": "sg-0123456789abcdef1",
            "edge_group": "sg-0123456789abcdef2",
        },
        ACCOUNT_CONFIG={
            "permissions_boundary": "arn:aws:iam::123456789012:policy/Limit",
            "bootstrap_qualifier": "hosp1",
            "fips_endpoints": True,
        },
        DEVICE_CONFIG={
            "proxy_url": "http://proxy.example.org:3128",
            "proxy_excludes": "s3-fips.us-east-1.amazonaws.com,10.0.0.0/8",
            "only_port_443": True,
            "logs_to_cloudwatch": True,
            "nucleus_version": "2.18.2",
        },
    )
