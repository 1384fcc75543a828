"""The engineer who deploys: from a clone to an assembly that the CDK's own command line reads, without credentials."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest


def test_deploy_synth_in_a_fresh_clone_ends_with_the_stacks_name(synthesised: Any):
    """Profile `deploy` in a fresh environment, bundles, template and `cdk ls`, without credentials, Docker or Node."""
    assert 0 == synthesised.returncode, synthesised.stderr[-3000:]
    assert "iep-01" == synthesised.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "LANG": "", "TZ": "Asia/Kathmandu"}, {"LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns"}],
    ids=["C", "de_DE"],
)
def test_deploy_synth_in_another_locale_and_zone_makes_the_same(
    synthesised: Any, deployer: Any, environment: dict[str, str]
):
    """Neither language, code page nor clock is in the template: a colleague's deployment changes nothing."""
    template = deployer.clone / "cdk.out" / "iep-01.template.json"
    before = template.read_bytes()
    again = deployer.run("scripts/deploy", "synth", **environment)
    assert (0, "iep-01") == (again.returncode, again.stdout.splitlines()[-1]), again.stderr[-3000:]
    assert before == template.read_bytes()


def test_cdk_commands_app_is_the_one_of_the_activated_environment(synthesised: Any, deployer: Any):
    """Who has a CDK of their own types `cdk deploy` as the seed says: cdk.json's program runs where venv is active."""
    assert 0 == synthesised.returncode
    command = json.loads((deployer.clone / "cdk.json").read_text())["app"]
    path = f"{deployer.clone}/.venv/bin:/usr/bin:/bin"
    done = deployer.run("sh", "-c", command, PATH=path, CDK_CONTEXT_JSON='{"bundles": "skip"}')
    assert 0 == done.returncode, done.stderr[-3000:]


def test_deploy_without_credentials_says_so_in_one_line(synthesised: Any, deployer: Any):
    """No traceback: what AWS's own library misses."""
    assert 0 == synthesised.returncode
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "eu-west-1"}
    for command in (["scripts/deploy"], ["scripts/deploy", "diff"], ["scripts/destroy"]):
        done = deployer.run(*command, **nowhere)
        assert 2 == done.returncode, done.stderr
        assert "AWS cannot be asked for the stack iep-01: Unable to locate credentials\n" == done.stderr


def test_greengrass_zip_is_made_as_documented(edge_zip: Path):
    """`python -m infra.greengrass linux-amd64` writes dist/dicomflow-edge-linux-amd64.zip with program and wheels."""
    with zipfile.ZipFile(edge_zip) as archive:
        names = archive.namelist()
    assert {"component.py", "python.sh", "requirements.txt", "dicomflow-edge.service"} <= set(names)
    assert any(Path(name).match("wheels/dicomflow-*.whl") for name in names)


def test_edge_install_writes_its_commands_without_aws(synthesised: Any, deployer: Any):
    """For a machine with credentials of its own the commands hold no secret and need none; so with --uninstall."""
    assert 0 == synthesised.returncode
    where = ("--own-credentials", "--store-url", "s3://bucket", "--region", "us-east-1")
    for options in (
        ("--systemd", *where),
        ("--windows-service", *where),
        ("--uninstall",),
        ("--windows", "--uninstall"),
    ):
        done = deployer.run(".venv/bin/dicomflow", "edge-install", "edge-1", *options)
        assert 0 == done.returncode, done.stderr
        assert "iep-01-edge-1" in (deployer.clone / "edge-install-edge-1.txt").read_text(encoding="utf-8")
