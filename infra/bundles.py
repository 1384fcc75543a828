"""The Lambda functions' bundles: folders with our code and the packages that one function needs.

pip chooses and unpacks the wheels for Lambda's platform, at the versions of constraints.txt, so nothing needs Docker or
a compiler. The same sources give the same bytes: no compiled modules, no records of where pip was run, fixed times.
Knows what each function imports, and nothing of the stack that deploys it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.packages import CONSTRAINTS, ROOT, content_hash, installed_closure, publish, requirements_of

__all__ = ["FUNCTIONS", "HOST", "LAMBDA", "Platform", "build_bundle", "folder_hash", "handler_of"]

SOURCE: Final = ROOT / "src" / "dicomflow"

_COMMON: Final = ("psycopg", "pydantic", "pydantic-settings", "sqlalchemy", "aws-lambda-powertools", "boto3")
_PACKAGES: Final = {
    "index": (*_COMMON, "obstore", "pydicom"),
    "plan": (*_COMMON, "obstore"),
    "drive": (*_COMMON, "obstore"),
    "collect": (*_COMMON, "obstore"),
    "transfers": (*_COMMON, "obstore"),
    "migrate": (*_COMMON, "alembic", "obstore"),
    "watch": (*_COMMON, "obstore"),
    "relay": (*_COMMON, "obstore"),
    "operator": (*_COMMON, "obstore", "pydicom", "rich", "typer"),
    "console": (
        *_COMMON,
        "imagecodecs",
        "itsdangerous",
        "jinja2",
        "mangum",
        "numpy",
        "obstore",
        "prometheus-client",
        "pydicom",
        "starlette",
    ),
}
"""What each function imports, by the names of pyproject.toml; their own requirements come with them."""
FUNCTIONS: Final = tuple(_PACKAGES)

_OTHER_PROGRAMS: Final = frozenset(
    {
        "__main__.py",
        "cli",
        "console",
        "dimse",
        "edge",
        "healthimaging/simulator",
        "local.py",
        "local_notifier.py",
        "network",
        "py.typed",
        "samples.py",
        "send",
    }
)
"""Our own modules that no function imports."""
_PROGRAMS: Final = {"operator": frozenset({"cli"}), "console": frozenset({"console", "dimse"})}
"""Those of the other programs that a function is made of."""
_HANDLERS: Final = {"operator": "dicomflow.cli.operator.operator", "console": "dicomflow.console.function.console"}
_SERVICES: Final = frozenset({"lambda", "medical-imaging", "rds", "secretsmanager", "sqs", "ssm", "sts"})
"""Of botocore's models of some 400 services, which are four fifths of its size, those that may be called."""
_UNUSED: Final = ("bin", "boto3/data", "boto3/examples", "pydicom/data/palettes", "pydicom/data/test_files")
_UNUSED_FOLDERS: Final = frozenset({"__pycache__", "licenses"})
_UNUSED_NAMES: Final = frozenset({"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"})
_UNUSED_SUFFIXES: Final = frozenset({".c", ".h", ".pxd", ".pyc", ".pyi", ".pyx"})
_TIME: Final = 315_532_800  # 1980-01-01, the first that a zip can hold
_FILE_MODE: Final = 0o644
_LIBRARY_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Platform:
    """Where a bundle runs: the Python version and pip's platform tags, or this machine where there are none."""

    python: str
    tags: tuple[str, ...] = ()

    def pip_arguments(self) -> list[str]:
        """Return what makes pip choose wheels for it."""
        if not self.tags:
            return []
        platforms = [argument for tag in self.tags for argument in ("--platform", tag)]
        return [*platforms, "--implementation", "cp", "--python-version", self.python]


LAMBDA: Final = Platform(
    "3.13", ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 31, 34)))
)
"""Lambda's python3.13 on arm64: Amazon Linux 2023, whose glibc is 2.34; pip takes each tag by its name alone."""
HOST: Final = Platform(f"{sys.version_info.major}.{sys.version_info.minor}")
"""This machine, for tests that run a bundle."""


def handler_of(name: str) -> str:
    """Return the handler that Lambda calls."""
    return _HANDLERS.get(name, f"dicomflow.pipeline.lambdas.{name}")


def build_bundle(name: str, output: Path, platform: Platform = LAMBDA) -> Path:
    """Build the bundle of a function and return its folder; what is there already is not built again.

    Args:
        name: one of FUNCTIONS.
        output: folder of all bundles; each is in a folder that its sources' hash names.
        platform: where it will run.

    Raises:
        ValueError: there is no such function.
        subprocess.CalledProcessError: pip finds no wheel; its own words are on standard error.
    """
    if name not in _PACKAGES:
        raise ValueError(f"there is no function {name!r}; there are {', '.join(FUNCTIONS)}")
    output.mkdir(parents=True, exist_ok=True)
    packages = _install(output, platform)
    key = content_hash([packages.name, repr(platform)], [CONSTRAINTS, Path(__file__), *_own_sources(name)])
    bundle = output / f"{name}-{key[:16]}"
    if bundle.exists():
        return bundle
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        folder = Path(temporary) / "bundle"
        for file in _package_files(_PACKAGES[name], packages, platform):
            if _is_used(file):
                _copy(packages / file, folder / file)
        for path in _own_sources(name):
            _copy(path, folder / "dicomflow" / path.relative_to(SOURCE))
        publish(folder, bundle)
    return bundle


def folder_hash(folder: Path) -> str:
    """Return the SHA-256 over the names, modes, times and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state = path.stat()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{state.st_mode:o}\0{int(state.st_mtime)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _install(output: Path, platform: Platform) -> Path:
    """Return a folder with the packages of all functions: pip's choice for a platform, or this program's own."""
    if not platform.tags:
        return Path(sysconfig.get_path("purelib"))
    requirements = _requirements(sorted(set().union(*_PACKAGES.values())))
    folder = output / f"packages-{content_hash([*requirements, repr(platform)], [CONSTRAINTS])[:16]}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        target = Path(temporary) / "packages"
        command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
        command += ["--only-binary=:all:", "--constraint", str(CONSTRAINTS), "--target", str(target)]
        # The machine's own pip settings say where packages come from.
        subprocess.run([*command, *platform.pip_arguments(), *requirements], check=True)  # noqa: S603  # our arguments
        publish(target, folder)
    return folder


def _requirements(names: Iterable[str]) -> list[str]:
    """Return these packages' requirements as pyproject.toml has them."""
    declared = requirements_of("pipeline", "console")
    return [declared[name] for name in names]


def _package_files(names: Iterable[str], folder: Path, platform: Platform) -> Iterator[Path]:
    """Yield the files of some packages and of all that they require, relative to the folder they are in."""
    markers = {"python_version": platform.python, "sys_platform": "linux", "platform_python_implementation": "CPython"}
    for name, distribution in installed_closure(_requirements(names), markers, folder).items():
        if distribution is None:
            raise LookupError(f"the package {name} is not installed in {folder}")
        yield from (Path(file) for file in distribution.files or () if ".." not in file.parts)


def _is_used(file: Path) -> bool:
    """Tell whether a function may read a file of a package."""
    if file.name in _UNUSED_NAMES or file.suffix in _UNUSED_SUFFIXES or _UNUSED_FOLDERS.intersection(file.parts):
        return False
    if file.parts[:2] == ("botocore", "data") and len(file.parts) > 3:
        return file.parts[2] in _SERVICES
    return not any(_is_inside(file, part) for part in _UNUSED)


def _own_sources(name: str) -> list[Path]:
    """Return the modules of ours that a function may import."""
    others = _OTHER_PROGRAMS - _PROGRAMS.get(name, frozenset())
    return sorted(
        path
        for path in SOURCE.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not any(_is_inside(path.relative_to(SOURCE), part) for part in others)
    )


def _is_inside(path: Path, part: str) -> bool:
    return path.as_posix() == part or path.as_posix().startswith(f"{part}/")


def _copy(source: Path, target: Path) -> None:
    """Copy a file; its mode and time say nothing of where and when it was built."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(_LIBRARY_MODE if ".so" in target.suffixes else _FILE_MODE)
    os.utime(target, (_TIME, _TIME))
