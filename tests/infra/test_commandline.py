"""The CDK's command line: the very one that deploys reads the very assembly that is deployed."""

import ast
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from infra import commandline
from infra.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_command_line_reads_the_assembly(template: Any):
    """`cdk ls` of the pinned version names the stack: one that is too old or withdrawn cannot read it."""
    command = [*commandline.cdk_command(), "ls", "--app", str(template.paths[0].parent), "--no-notices"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (0, "iep") == (done.returncode, done.stdout.strip()), done.stderr


def test_command_line_of_another_digest_is_refused(tmp_path: Path):
    """What npm gave, or a site laid, is the file that was tested, or nothing is unpacked."""
    laid = tmp_path / "aws-cdk.tgz"
    laid.write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"aws-cdk.tgz is not aws-cdk .*: its SHA-512 is"):
        commandline.cdk_command(laid, tmp_path)
    assert [laid] == list(tmp_path.iterdir())


def test_command_line_that_npm_does_not_give_can_be_laid_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a way to npm the error says which file belongs where."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(ConfigError, match=r"lay its file as build/aws-cdk-\d+\.\d+\.\d+\.tgz"):
        commandline.cdk_command(tmp_path / "none", tmp_path)


def test_deployment_imports_only_what_its_profile_installs():
    """`scripts/bootstrap deploy` installs what pyproject.toml declares: each package that `infra` imports is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["edge"], *extras["pipeline"], *extras["infra"]]
    declared = {Requirement(text).name.lower().replace("_", "-") for text in wanted}
    modules = metadata.packages_distributions()
    missing = set()
    for path in sorted((ROOT / "infra").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.partition(".")[0] for name in names} - {
                "infra",
                "greengrass",
                "dicomflow",
                *sys.stdlib_module_names,
            }:
                found = {name.lower().replace("_", "-") for name in modules.get(top, [top])}
                if not found & declared and not found & {"botocore", "pydantic-core"}:  # with boto3 and pydantic
                    missing.add(f"{path.name} imports {top}")
    assert set() == missing
