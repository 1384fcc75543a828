"""The deployment without AWS: MiniStack as the cloud, given what it can make of the synthesised template.

MiniStack 1.5.33 makes the bucket with its notifications, queues, functions, event source mappings, keys, roles, alarms
and rules. It cannot make what NOT_MADE lists, so the twin has: `dicomflow simulator` for HealthImaging, a PostgreSQL of
the tests for Aurora, a schema migrated beforehand for the custom resource, and an edge started by the test for
Greengrass. No policy is enforced, and there is no VPC around a function.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from waiting import wait_for

from infra.packages import publish

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).parent / "ministack.txt"
REGION = "us-east-1"
ACCOUNT = "000000000000"

NOT_MADE = {
    "AWS::HealthImaging::Datastore": "MiniStack has no HealthImaging",
    "AWS::GreengrassV2::ComponentVersion": "MiniStack has no Greengrass",
    "AWS::GreengrassV2::Deployment": "MiniStack has no Greengrass",
    "AWS::CloudFormation::Stack": "roles of edges; its template is uploaded by the CDK's command line",
    "AWS::RDS::DBCluster": "MiniStack runs databases in Docker",
    "AWS::RDS::DBClusterParameterGroup": "as the cluster",
    "AWS::RDS::DBInstance": "as the cluster",
    "AWS::RDS::DBSubnetGroup": "as the cluster",
    "AWS::SecretsManager::SecretTargetAttachment": "as the cluster",
    "Custom::CatalogSchema": "its provider is a function in Node",
    "AWS::EC2::EgressOnlyInternetGateway": "MiniStack's CloudFormation does not know it",
    "AWS::EC2::FlowLog": "MiniStack's CloudFormation does not know it",
    "AWS::EC2::SecurityGroupIngress": "MiniStack's CloudFormation does not know it",
    "AWS::EC2::Route": "some lead to the egress-only gateway",
    "AWS::EC2::VPCCidrBlock": "MiniStack's CloudFormation does not know it",
    "AWS::Lambda::LayerVersion": "its asset is uploaded by the CDK's command line",
}
"""Types of resources that the twin goes without, and why."""

ENDPOINT_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
}


class MiniStack:
    """A running MiniStack. One owner: the fixture."""

    def __init__(self, folder: Path, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._log = folder / "ministack.log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DICOMFLOW_", "AWS_"))},
            "PYTHONPATH": str(_install()),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",
            "LAMBDA_EXECUTOR": "local",
            "TMPDIR": str(folder),
        }
        # The Python under the tests' environment: a function finds what is in its bundle, and nothing of the tests.
        python = os.path.realpath(sys.executable)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [python, "-s", "-W", "ignore", "-m", "ministack"], stdout=log, stderr=log, env=environment, cwd=folder
            )
        wait_for(self._answers, explain=self.log_tail)

    def log_tail(self) -> str:
        """Return the last lines of its log, in which those of the functions are."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])

    def close(self) -> None:
        """Stop it and its functions."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log_tail()
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=60):
                return True
        except OSError:
            return False


def _install() -> Path:
    """Return the folder that MiniStack is installed in; it outlives the session."""
    folder = ROOT / "build" / f"ministack-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "packages"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-deps"]
        command += ["--no-compile", "--target", str(target), "--requirement", str(REQUIREMENTS)]
        subprocess.run(command, check=True, timeout=280)
        publish(target, folder)
    return folder


def zip_bundle(bundle: Path, target: Path) -> None:
    """Zip a bundle without compressing it: it goes no further than this machine's memory."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(bundle.rglob("*")):
            archive.write(path, path.relative_to(bundle))


def synthesised_template() -> dict[str, Any]:
    """Return the template of config.py as it is, without bundles; kept for the next time, by its sources."""
    sources = sorted([ROOT / "config.py", *(ROOT / "infra").rglob("*.py"), *(ROOT / "greengrass").iterdir()])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources if path.is_file())).hexdigest()
    folder = ROOT / "build" / f"template-{digest[:12]}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            environment = {**os.environ, "CDK_OUTDIR": temporary, "CDK_CONTEXT_JSON": '{"bundles": "skip"}'}
            subprocess.run([sys.executable, "-m", "infra.app"], check=True, timeout=280, cwd=ROOT, env=environment)
            target = Path(temporary) / "kept"
            target.mkdir()
            (found,) = (path for path in Path(temporary).glob("*.template.json") if "nested" not in path.name)
            found.rename(target / "template.json")
            publish(target, folder)
    template: dict[str, Any] = json.loads((folder / "template.json").read_text(encoding="utf-8"))
    return template


def twin_template(
    template: Mapping[str, Any], environment: Mapping[str, str], code: Callable[[str], dict[str, str]]
) -> dict[str, Any]:
    """Return what MiniStack can make of a template.

    Args:
        template: the synthesised one.
        environment: what functions are told otherwise; a function that has none of our settings is left out.
        code: where the bundle of a function lies, by the function's name.
    """
    kept = {
        name: dict(resource)
        for name, resource in template["Resources"].items()
        if resource["Type"] not in NOT_MADE and not _is_of_the_cdk(resource)
    }
    dropped = template["Resources"].keys() - kept.keys()
    for resource in kept.values():
        if resource["Type"] == "AWS::Lambda::Function":
            properties = resource["Properties"] = {**resource["Properties"]}
            for name in ("Layers", "VpcConfig"):
                properties.pop(name, None)
            properties["Code"] = code(properties["Handler"].rpartition(".")[2])
            variables = properties["Environment"]["Variables"]
            told = {name: value for name, value in environment.items() if value}
            properties["Environment"] = {
                "Variables": {
                    name: value for name, value in {**variables, **told}.items() if environment.get(name, value)
                }
            }
        if resource["Type"] == "AWS::EC2::Subnet":  # MiniStack cuts no IPv6 network into parts
            resource["Properties"] = {
                name: value for name, value in resource["Properties"].items() if "Ipv6" not in name
            }
        waits = resource.get("DependsOn", [])
        waits = [name for name in ([waits] if isinstance(waits, str) else waits) if name not in dropped]
        resource["DependsOn"] = waits
    return {"Resources": _without(kept, dropped), "Outputs": {"Bucket": template["Outputs"]["Bucket"]}}


def _is_of_the_cdk(resource: Mapping[str, Any]) -> bool:
    """Tell whether it is a function of the CDK's own, in Node."""
    return resource["Type"] == "AWS::Lambda::Function" and "nodejs" in json.dumps(resource["Properties"]["Runtime"])


def _without(value: Any, dropped: set[str]) -> Any:
    """Put a name in the place of each reference to what is not made."""
    if isinstance(value, list):
        return [_without(item, dropped) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"Ref"} and value["Ref"] in dropped:
        return f"not-made-{value['Ref']}"
    if value.keys() == {"Fn::GetAtt"} and value["Fn::GetAtt"][0] in dropped:
        return f"arn:aws:not-made:{REGION}:{ACCOUNT}:{value['Fn::GetAtt'][0]}"
    return {name: _without(item, dropped) for name, item in value.items()}
