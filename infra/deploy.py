"""Deploys the stack of config.py: `python -m infra.deploy`, which `scripts/deploy` and `scripts/destroy` call.

Synthesises, holds what would be deployed against what is, and calls the CDK's command line on the assembly. Needs no
Docker, no Node of the machine's own and no Unix.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from infra.app import CONFIG, read_settings, synthesise_settings
from infra.commandline import cdk_command
from infra.deployed import DeployedStack
from infra.errors import ConfigError
from infra.guard import refused_changes, stack_policy
from infra.packages import ROOT
from infra.sample import what_became_of
from infra.settings import ARCHIVE_LEAST_DAYS, DeploymentSettings
from infra.surroundings import AccountConfig

__all__ = ["HELP", "main"]

HELP: Final = """\
scripts/deploy bootstrap [ARGS]   once for an account and region: make what the CDK needs there
scripts/deploy [ARGS]             synthesise config.py, check it, deploy it; again after every change
scripts/deploy diff [ARGS]        show what a deployment would change, and refuse what would lose images
scripts/deploy synth              build and check everything, without credentials, and deploy nothing
scripts/destroy [ARGS]            remove the stack

ARGS go to the CDK's command line. `--allow ID` before them lets a deployment replace or remove a protected resource.
Needs AWS credentials and a region (AWS_REGION, or a profile's), but for synth, and neither Docker nor Node.
"""
_COMMANDS: Final = ("deploy", "bootstrap", "diff", "synth", "destroy")
_ASSEMBLY: Final = ROOT / "cdk.out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 2 where the configuration is wrong, 1 where a rule is broken or a change refused."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-h"], ["--help"]):
        sys.stdout.write(HELP)
        return 0
    command = given.pop(0) if given and given[0] in _COMMANDS else "deploy"
    allowed = []
    while given[:1] == ["--allow"]:
        if len(given) == 1:
            sys.stderr.write("--allow needs the ID of what may go, as a refusal names it\n")
            return 2
        allowed.append(given[1])
        del given[:2]
    try:
        settings = read_settings(CONFIG)
        if command == "bootstrap":
            return _bootstrap(settings, given)
        if command == "synth":
            _tell_notes(settings)
            return synthesise_settings(settings, _ASSEMBLY) or _cdk("ls", "--app", str(_ASSEMBLY), *given)
        stack = DeployedStack(settings.name)
        if command == "destroy":
            return _destroy(settings, stack, given)
        return _deploy(settings, stack, given, allowed, is_diff=command == "diff")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _bootstrap(settings: DeploymentSettings, arguments: list[str]) -> int:
    """Prepare the account; of the stack only its name is asked."""
    with tempfile.TemporaryDirectory() as folder:
        code = synthesise_settings(settings, Path(folder), {"bundles": "skip"})
        return code or _cdk("bootstrap", "--app", folder, *_bootstrap_options(settings.account), *arguments)


def _bootstrap_options(account: AccountConfig) -> list[str]:
    """Return what makes the CDK's own roles and bucket as the account demands."""
    options = []
    if account.bootstrap_qualifier:
        options += ["--qualifier", account.bootstrap_qualifier]
        options += ["--toolkit-stack-name", f"CDKToolkit-{account.bootstrap_qualifier}"]
    if account.permissions_boundary:
        options += [
            "--custom-permissions-boundary",
            account.permissions_boundary.partition(":policy/")[2] or account.permissions_boundary,
        ]
    return options


def _deploy(
    settings: DeploymentSettings, stack: DeployedStack, arguments: list[str], allowed: list[str], *, is_diff: bool
) -> int:
    deployed = stack.state()
    _tell_notes(settings)
    if deployed is None and not is_diff:
        return _deploy_first(settings, stack, arguments)
    if code := synthesise_settings(settings, _ASSEMBLY):
        return code
    template = _template(settings)
    if deployed is not None and _refuse(refused_changes(stack.template(), template, allowed)):
        return 1
    if is_diff:
        return _cdk("diff", "--app", str(_ASSEMBLY), *arguments)
    stack.set_policy(stack_policy(template, allowed))
    code = _cdk("deploy", "--app", str(_ASSEMBLY), *arguments)
    if code == 0:
        stack.set_policy(stack_policy(template))
        _tell_deployed(settings)
    return code


def _deploy_first(settings: DeploymentSettings, stack: DeployedStack, arguments: list[str]) -> int:
    """Deploy without protection, so that a failure can be rolled back whole, then protect what was made."""
    database = settings.database.model_copy(update={"deletion_protection": False})
    unprotected = settings.model_copy(update={"database": database})
    code = synthesise_settings(unprotected, _ASSEMBLY) or _cdk("deploy", "--app", str(_ASSEMBLY), *arguments)
    if code or stack.state() is None:  # a change set that was prepared only
        return code
    stack.set_policy(stack_policy(_template(settings)))
    if settings.database.deletion_protection:
        sys.stderr.write("made; now deletion protection is switched on\n")
        code = synthesise_settings(settings, _ASSEMBLY)
        code = code or _cdk("deploy", "--app", str(_ASSEMBLY), *arguments, "--require-approval", "never")
    if code == 0:
        _tell_deployed(settings)
    return code


def _destroy(settings: DeploymentSettings, stack: DeployedStack, arguments: list[str]) -> int:
    """Remove the stack, unless CloudFormation would stop half-way."""
    local = [edge.name for edge in settings.edges if edge.device_type == "LOCAL"]
    if found := stack.hindrances(local):
        sys.stderr.write("".join(f"{line}\n" for line in ["the stack cannot be removed yet:", *found]))
        return 1
    with tempfile.TemporaryDirectory() as folder:
        code = synthesise_settings(settings, Path(folder), {"bundles": "skip"})
        return code or _cdk("destroy", "--app", folder, *arguments)


def _refuse(lines: list[str]) -> bool:
    """Say what is refused, and what to do."""
    if lines:
        sys.stderr.write("refused, since images or their place would be lost:\n")
        sys.stderr.write("".join(f"  {line}\n" for line in lines))
        sys.stderr.write("docs/deploy.md, What can be changed later, says what to do; --allow ID lets one through\n")
    return bool(lines)


def _template(settings: DeploymentSettings) -> dict[str, Any]:
    path = _ASSEMBLY / f"{settings.name}.template.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _tell_notes(settings: DeploymentSettings) -> None:
    """Say what is allowed, and may not be meant."""
    storage, notes = settings.storage, what_became_of(settings.sample_functions, settings.name)
    if storage.archive_after_days and not storage.archives:
        notes.append(
            f"nothing moves to the archive: retention_days {storage.retention_days} is less than archive_after_days"
            f" {storage.archive_after_days} and {ARCHIVE_LEAST_DAYS}, for which that class is billed"
        )
    notes += [
        f"{name!r} of SITE_ISSUERS or SITE_CHARACTER_SETS is no Name of EDGE_CONFIG: kept for what it has delivered"
        for name in settings.sites_of_before
    ]
    if not settings.monitoring.email:
        notes.append("nobody is told of alarms: email in MONITORING_CONFIG is empty")
    if settings.account.fips_endpoints and not settings.network.vpc_id:
        notes.append("fips_endpoints needs a NAT gateway, at 36.50 USD a month (us-east-1)")
    if settings.database.db_engine_pause == 0:
        least = settings.database.min_acu_capacity
        notes.append(f"the catalog never pauses: {least:g} ACU cost about {least * 88:.0f} USD a month (us-east-1)")
    sys.stderr.write("".join(f"note: {line}\n" for line in notes))


def _tell_deployed(settings: DeploymentSettings) -> None:
    if email := settings.monitoring.email:
        sys.stderr.write(f"alarms: if {email} has not done so yet, confirm AWS's mail to it; before, none arrives\n")
    for edge in settings.edges:
        if edge.device_type == "LOCAL":
            sys.stderr.write(f"edge {edge.name}: if it is not installed yet, dicomflow edge-install {edge.name}\n")


def _cdk(*arguments: str) -> int:
    """Call the CDK's command line; it sends nothing about its use to anybody."""
    environment = {**os.environ, "CDK_DISABLE_CLI_TELEMETRY": "true"}
    command = [*cdk_command(), *arguments, "--no-notices", "--no-version-reporting"]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode  # noqa: S603  # our arguments


if __name__ == "__main__":
    sys.exit(main())
