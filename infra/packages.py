"""What packages require of each other, read from those that are installed; versions are those of constraints.txt."""

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["CONSTRAINTS", "ROOT", "content_hash", "installed_closure", "pinned", "publish", "requirements_of"]

ROOT: Final = Path(__file__).resolve().parent.parent
CONSTRAINTS: Final = ROOT / "constraints.txt"


def requirements_of(*extras: str) -> dict[str, str]:
    """Return what pyproject.toml requires, without an extra and for some extras, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(text).name): text for text in texts}


def pinned() -> dict[str, str]:
    """Return each package of constraints.txt as `name==version`, by name, whatever its marker."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(found.name): f"{found.name}{found.specifier}" for found in requirements}


def installed_closure(
    requirements: Iterable[str], environment: Mapping[str, str], folder: Path
) -> dict[str, metadata.Distribution | None]:
    """Return some packages and all that they require, by name; None for one that is not installed in the folder.

    Args:
        requirements: what is wanted, with extras, as `psycopg[binary]>=3.2`.
        environment: values of the markers' variables where the packages will run, as `sys_platform`.
        folder: where packages are installed, as a `site-packages`.
    """
    found: dict[str, metadata.Distribution | None] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name not in found:
                found[name] = next(iter(metadata.distributions(name=name, path=[str(folder)])), None)
            distribution = found[name]
            needed = (Requirement(text) for text in (distribution.requires or () if distribution else ()))
            variables = {**environment, "extra": extra}
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate(variables)]
    return dict(sorted(found.items()))


def publish(folder: Path, target: Path) -> None:
    """Rename a finished folder into place; where another process was faster, its folder is the same."""
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise


def content_hash(texts: Iterable[str], files: Iterable[Path]) -> str:
    """Return one digest in hex of some texts, and of the names and contents of files, in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\0".encode())
    for path in files:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
