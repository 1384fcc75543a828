"""The command: what it needs, what it refuses, and what cdk-nag and cfn-lint say of what it makes."""

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from infra.devices import DeviceConfig
from infra.regions import HEALTHIMAGING_REGIONS
from infra.settings import load_deployment
from infra.userdata import Surroundings, user_data_lines

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = ROOT / "infra" / "certificates" / "rds.pem"


def test_synthesis_needs_no_docker_node_or_credentials(template: Any):
    """The fixture's environment has none of them, and the command's own Node is a wheel's."""
    assert template.all_resources
    assert "docker" not in template.said.lower()


def test_synthesis_in_a_region_without_healthimaging_is_refused(tmp_path: Path):
    """Before anything is synthesised, with the regions that serve."""
    environment = {**os.environ, "CDK_DEFAULT_REGION": "eu-central-1", "CDK_OUTDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "infra.app"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert 2 == done.returncode
    assert done.stderr.startswith("AWS HealthImaging is not in region eu-central-1: deploy to one of")
    assert [] == list(tmp_path.iterdir())


def test_synthesis_of_a_wrong_config_is_refused_in_one_line(tmp_path: Path):
    """No traceback, exit 2, and the parameter's name."""
    (tmp_path / "changed.py").write_text((ROOT / "config.py").read_text() + 'CDK_APP_NAME = "no name"\n')
    command = [sys.executable, "-m", "infra.app", "--config", str(tmp_path / "changed.py")]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=280)
    assert 2 == done.returncode
    assert done.stderr.startswith("config.py: CDK_APP_NAME: 'no name'; it must have")
    assert 1 == len(done.stderr.splitlines())


def acknowledged(config: dict[str, Any]) -> list[Any]:
    """Give the acknowledgements of a deployment: their module starts Node, which no collection of tests should."""
    from infra.acknowledgements import acknowledgements

    return list(acknowledgements(load_deployment(config)))


def test_rules_are_broken_where_it_is_acknowledged_and_nowhere_else(synthesiser: Any, tmp_path: Path):
    """Without the acknowledgements cdk-nag finds exactly what they name: none covers what is not there."""
    edges = [{"Name": "edge-1", "device_type": "LOCAL"}, {"Name": "edge-2", "device_type": "EC2"}]
    config = {"CDK_APP_NAME": "iep", "VPC_CIDR": "10.10.0.0/22", "EDGE_CONFIG": edges}
    (tmp_path / "config.py").write_text("".join(f"{name} = {value!r}\n" for name, value in config.items()))
    code, lines = synthesiser.ask(tmp_path / "config.py", tmp_path / "cdk.out", is_acknowledged=False)
    assert 0 == code
    found = {tuple(line.split(" iep/")) for line in lines}
    expected = {(entry.rule, entry.path) for entry in acknowledged(config)}
    assert set() == {(rule, path) for rule, path in found if not is_covered(rule, path, expected)}
    assert set() == {(rule, path) for rule, path in expected if not is_used(rule, path, found)}


def is_covered(rule: str, path: str, expected: set[tuple[str, str]]) -> bool:
    """Tell whether a finding is acknowledged; names in braces stand for any resource."""
    return any(matches(name, rule) and is_below(path, place) for name, place in expected)


def is_used(rule: str, path: str, found: set[tuple[str, ...]]) -> bool:
    """Tell whether an acknowledgement has a finding."""
    return any(matches(rule, name) and is_below(place, path) for name, place in found)


def matches(pattern: str, rule: str) -> bool:
    """Tell whether a rule is the one that an acknowledgement names."""
    pattern = pattern.replace("{stack}", "iep")
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", r"<[\\w.]+>", re.escape(pattern)), rule) is not None


def is_below(path: str, place: str) -> bool:
    """Tell whether a path is a construct or one in it."""
    return f"{path}/".startswith(f"{place}/")


@pytest.mark.xdist_group("templates")
def test_acknowledgements_have_reasons():
    """Each is one sentence or two, and none says only that it is so."""
    config = {"CDK_APP_NAME": "iep", "VPC_CIDR": "10.10.0.0/22", "EDGE_CONFIG": []}
    for entry in acknowledged(config):
        assert len(entry.reason) > 20 or entry.reason.startswith(("As ", "It runs ")), entry


def test_templates_are_clean_to_cfn_lint(template: Any, small: Any):
    """In the oldest region and the newest that serves; W3005 is CDK's habit of naming a dependency twice."""
    regions = [argument for region in ("us-east-1", "eu-west-2") for argument in ("--regions", region)]
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("cfn-lint")), "--ignore-checks", "W3005", *regions, "--"),
            *map(str, [*template.paths, *small.paths]),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert (0, "") == (done.returncode, done.stdout)


def test_certificates_are_amazons_roots_for_every_region():
    """Aurora's server is verified against these: each signs itself, is good for a year yet, and names its region."""
    roots = x509.load_pem_x509_certificates(CERTIFICATES.read_bytes())
    names = set()
    for root in roots:
        root.verify_directly_issued_by(root)
        assert root.not_valid_after_utc > datetime.now(UTC) + timedelta(days=365)
        names.add(root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    for region in HEALTHIMAGING_REGIONS:
        assert {f"Amazon RDS {region} Root CA {kind} G1" for kind in ("RSA2048", "RSA4096", "ECC384")} <= names


PLAIN = Surroundings(DeviceConfig())
LOGGED = Surroundings(DeviceConfig(logs_to_cloudwatch=True))
BEHIND_A_PROXY = Surroundings(
    DeviceConfig(proxy_url="http://proxy:3128", proxy_excludes="10.0.0.0/8", logs_to_cloudwatch=True), is_fips=True
)


@pytest.fixture(params=[PLAIN, LOGGED, BEHIND_A_PROXY], ids=["plain", "logged", "behind a proxy"])
def script(request: pytest.FixtureRequest) -> str:
    """Give the script with which an EC2 edge starts."""
    return "\n".join(
        user_data_lines(
            device="iep-edge-2",
            region="eu-west-1",
            volume_id="vol-1",
            artifact_url="s3://assets/artifact.zip",
            store_url="s3://bucket",
            kms_key_id="arn:key",
            accelerate=False,
            port=11112,
            settings={"dimse": {"called_ae_titles": ["A", "B"]}, "delivery": {"quiet_seconds": 2.5}},
            surroundings=request.param,
        )
    )


def test_user_data_is_a_script_that_a_shell_takes(script: str):
    """The shell reads it whole without a complaint."""
    subprocess.run(["bash", "-n"], input=script, check=True, text=True, timeout=60)


def test_user_data_formats_no_volume_that_holds_a_spool(script: str):
    """A replaced instance finds what was received: the volume is formatted only when it holds nothing."""
    lines = script.splitlines()
    assert ["blkid $disk || mkfs.xfs $disk"] == [line for line in lines if "mkfs" in line]


def test_user_data_gives_an_old_spool_to_the_new_user(script: str):
    """A user's number may differ from instance to instance, and an edge without its volume must not receive."""
    assert "chown -R dicomflow: /var/lib/dicomflow" in script
    assert "RequiresMountsFor=/var/lib/dicomflow" in script
    assert script.index("mount /var/lib") < script.index("chown -R") < script.index("systemctl enable --now")


def test_user_data_writes_settings_that_the_edge_takes(script: str, tmp_path: Path):
    """The edge's own program reads the file that the script writes."""
    from dicomflow.edge.settings import load_settings

    toml = script.split("edge.toml <<'TOML'\n")[1].split("\nTOML", maxsplit=1)[0]
    (tmp_path / "edge.toml").write_text(toml)
    settings = load_settings(tmp_path / "edge.toml")
    assert ("iep-edge-2", "s3://bucket", 11112) == (settings.name, settings.delivery.store_url, settings.dimse.port)
    assert Path("/var/lib/dicomflow/spool") == settings.spool.dir
    assert (("A", "B"), 2.5) == (settings.dimse.called_ae_titles, settings.delivery.quiet_seconds)


@pytest.mark.parametrize("script", [BEHIND_A_PROXY], indirect=True)
def test_user_data_behind_a_proxy_has_it_for_script_edge_and_agent(script: str):
    """Metadata are asked for without it, and an agent that cannot be installed keeps no edge from starting."""
    excludes = "localhost,127.0.0.1,169.254.169.254,10.0.0.0/8"
    assert f"export NO_PROXY='{excludes}'" in script
    environment = script.split("<<'ENVIRONMENT'\n")[1].split("\nENVIRONMENT", maxsplit=1)[0].splitlines()
    assert {
        "AWS_REGION=eu-west-1",
        "AWS_USE_FIPS_ENDPOINT=true",
        "HTTPS_PROXY=http://proxy:3128",
        f"NO_PROXY={excludes}",
    } == set(environment)
    assert script.index("export HTTPS_PROXY") < script.index("dnf install")
    assert script.index("log.conf") < script.index("enable --now dicomflow-edge") < script.index("cloudwatch-agent")
    agent = json.loads(script.split("<<'JSON'\n")[1].split("\nJSON", maxsplit=1)[0])
    (file,) = agent["logs"]["logs_collected"]["files"]["collect_list"]
    assert ("/var/log/dicomflow-edge.log", "/dicomflow/iep-edge-2") == (file["file_path"], file["log_group_name"])
    assert "logs-fips.eu-west-1.amazonaws.com" == agent["logs"]["endpoint_override"]
    proxy = tomllib.loads(script.split("common-config.toml <<'TOML'\n")[1].split("\nTOML", maxsplit=1)[0])["proxy"]
    assert {"https_proxy": "http://proxy:3128", "no_proxy": excludes} == proxy


def test_edge_instance_finds_its_spool_and_address_again(template: Any):
    """A group of one, in the zone of its volume, with an interface that outlives it."""
    group = template.one("AWS::AutoScaling::AutoScalingGroup")
    assert ("1", "0") == (group["MaxSize"], group["MinSize"])
    data = template.one("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    assert [0] == [each["DeviceIndex"] for each in data["NetworkInterfaces"]]
    assert "SecurityGroupIds" not in data
    assert "required" == data["MetadataOptions"]["HttpTokens"]
    volume = template.one("AWS::EC2::Volume")
    assert volume["Encrypted"]
    assert group["AvailabilityZones"] == [volume["AvailabilityZone"]]


def test_component_is_deployed_to_the_group_of_the_seed(template: Any):
    """A device joins `{stack}-IEP-devices` and gets the component, with the bucket and the key to deliver to."""
    assert "iep-IEP-devices" == template.one("AWS::IoT::ThingGroup")["ThingGroupName"]
    deployment = template.one("AWS::GreengrassV2::Deployment")
    (component,) = deployment["Components"].values()
    assert re.fullmatch(r"\d+\.\d+\.\d+-b[0-9a-f]{12}x[0-9a-f]{8}", component["ComponentVersion"])
    recipe = json.dumps(template.one("AWS::GreengrassV2::ComponentVersion")["InlineRecipe"])
    assert component["ComponentVersion"] in recipe
    told = json.dumps(component["ConfigurationUpdate"]["Merge"])
    assert "store_url" in told
    assert "kms_key_id" in told
    assert "ROLLBACK" == deployment["DeploymentPolicies"]["FailureHandlingPolicy"]
    names = {each["RoleAlias"] for each in template.resources("AWS::IoT::RoleAlias").values()}
    assert {"iep-edge-1-GG-Role-Alias"} == names
    roles = {each.get("RoleName") for each in template.resources("AWS::IAM::Role").values()}
    assert {"iep-edge-1-GG-Role", "iep-GGInstallerRole"} <= roles
    policies = {each["ManagedPolicyName"] for each in template.resources("AWS::IAM::ManagedPolicy").values()}
    assert {"iep-edge-1-GG-RoleAccess"} == policies
