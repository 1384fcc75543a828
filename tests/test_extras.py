"""The extras `edge` and `pipeline` install alone: neither needs a package of the other."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULE_OF = {"aws-lambda-powertools": "aws_lambda_powertools", "prometheus-client": "prometheus_client"}
EDGE_COMMANDS = (
    "edge",
    "send",
    "pull",
    "spool",
    "ledger",
    "commitments",
    "doctor",
    "status",
    "edge_status",
    "users",
    "samples",
)
OURS = {
    "edge": (
        *("dicom", "dimse", "network", "send", "edge", "archive.dimse", "archive.remote", "edge_archive"),
        *("doctor.edge", *(f"cli.{name}" for name in EDGE_COMMANDS)),
    ),
    "pipeline": ("dicom", "catalog", "healthimaging", "pipeline", "cli.status", "cli.query", "cli.migrate"),
}
# Needs the console's packages, as it is itself a web application.
EXCEPT = ("dicomflow.healthimaging.simulator",)

CODE = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import dicomflow
for package in {packages!r}:
    module = importlib.import_module(f"dicomflow.{{package}}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"dicomflow.{{package}}."):
        if ".migrations." not in found.name and not found.name.startswith({skipped!r}):
            importlib.import_module(found.name)
print("imported")
"""


def _modules(extra: str) -> set[str]:
    names = {re.split(r"[\[<>=~!]", requirement)[0] for requirement in EXTRAS[extra]}
    return {MODULE_OF.get(name, name) for name in names} - {"dicomflow"}


@pytest.mark.parametrize("extra", OURS)
def test_extra_imports_without_the_packages_of_the_others(extra: str, python: Callable[[str], str]):
    """Every module of one side imports where only its own extra is installed."""
    blocked = set().union(*(_modules(other) for other in EXTRAS)) - _modules(extra)
    assert {"edge": "sqlalchemy", "pipeline": "filelock"}[extra] in blocked
    # botocore comes with boto3.
    blocked -= {"botocore"} if extra == "pipeline" else set()
    code = CODE.format(blocked=sorted(blocked), packages=OURS[extra], skipped=EXCEPT)
    assert "imported" == python(code).splitlines()[-1]
