"""From settings to a cloud assembly that cdk-nag's AwsSolutions and HIPAA rules have looked through."""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks, HIPAASecurityChecks

from infra.acknowledgements import acknowledge
from infra.artifacts import ARTIFACTS
from infra.bundles import FUNCTIONS, build_bundle
from infra.functions import BUNDLES, skips_bundles
from infra.greengrass import PLATFORMS, build_artifact
from infra.settings import DeploymentSettings
from infra.stack import DicomflowStack

__all__ = ["add_rules", "build_stack", "prebuild", "synthesise", "violations"]

_FLAGS: Final = {
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,  # access logs by a bucket policy, without ACLs
    "@aws-cdk/core:enablePartitionLiterals": True,
    "@aws-cdk/core:explicitStackTags": True,  # a stack's tags are passed down to the data store, which they replace
}
"""The CDK's feature flags, set here so that they hold with and without its command line."""


def build_stack(
    settings: DeploymentSettings, output: Path, context: Mapping[str, Any] | None = None
) -> tuple[App, DicomflowStack]:
    """Return an app with the stack, and the stack."""
    app = App(outdir=str(output), context={**_FLAGS, **(context or {})})
    if not skips_bundles(app):
        prebuild()
    return app, DicomflowStack(app, settings)


def prebuild() -> None:
    """Build bundles and artifacts side by side, since each mostly waits for pip; the stack then finds them built."""
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(build_artifact, platform, ARTIFACTS) for platform in PLATFORMS]
        for name in FUNCTIONS:  # which share their packages
            build_bundle(name, BUNDLES)
        for job in jobs:
            job.result()


def add_rules(app: App) -> None:
    """Hold an app to cdk-nag's rules: a synthesis that breaks one fails."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app), HIPAASecurityChecks(app))


def synthesise(settings: DeploymentSettings, output: Path, context: Mapping[str, Any] | None = None) -> int:
    """Write the cloud assembly; return 1 where a rule is broken, and say which on standard error."""
    app, stack = build_stack(settings, output, context)
    add_rules(app)
    acknowledge(stack, settings, bucket=stack.bucket, migrate=stack.migrate)
    try:
        app.synth()
    except RuntimeError as error:
        if "ValidationFailed" not in str(error):
            raise
        for line in violations(output):
            sys.stderr.write(f"{line}\n")
        return 1
    return 0


def violations(output: Path) -> list[str]:
    """Return a line for each finding that is not acknowledged, from the report of a synthesis."""
    for name in ("policy-validation-report.json", "validation-report.json"):
        if (output / name).exists():
            report = json.loads((output / name).read_text(encoding="utf-8"))
            return [
                f"{finding['ruleName']} {construct['constructPath']}"
                for plugin in report["pluginReports"]
                for finding in plugin["violations"]
                for construct in finding["violatingConstructs"]
            ]
    return []
