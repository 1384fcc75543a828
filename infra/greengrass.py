"""The edge's artifact, one zip a platform, and its recipe.

The zip holds our wheel, the wheels of all that it requires for each Python that a device may have, and the scripts of
`greengrass/`: a device without internet installs from it. The same sources give the same zip. Knows nothing of the
stack that deploys it.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from infra.packages import CONSTRAINTS, ROOT, content_hash, installed_closure, pinned, publish, requirements_of

__all__ = [
    "COMPONENT",
    "PLATFORMS",
    "PYTHONS",
    "Artifact",
    "build_artifact",
    "component_version",
    "main",
    "pack",
    "render_recipe",
]

COMPONENT: Final = "DIMSEtoS3"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS: Final = {
    "linux-amd64": tuple(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28)),
    "linux-aarch64": tuple(f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)),
    "windows-amd64": ("win_amd64",),
}
"""pip's tags of each platform: of Linux those that glibc 2.28 runs, which is that of Debian 10 and RHEL 8."""
_FOLDER: Final = ROOT / "greengrass"
_RECIPE: Final = _FOLDER / "recipe.yaml"
_SCRIPTS: Final = ("component.py", "dicomflow-edge.service", "python.cmd", "python.sh", "windows_service.py")
_WINDOWS_PACKAGES: Final = ("pywin32>=306",)  # only for the service of sites without Greengrass
_EPOCH: Final = "315532800"  # 1980-01-01, the first that a zip can hold
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
_ZIP_MODE: Final = 0o644 << 16
_PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq")


@dataclass(frozen=True, slots=True)
class Artifact:
    """Where a platform's zip lies, and the folder that the nucleus unpacks it to: its file's name without `.zip`."""

    uri: str
    folder: str


def build_artifact(platform: str, output: Path, pythons: Sequence[str] = PYTHONS) -> Path:
    """Build a platform's zip and return it; what is there already is not built again.

    Args:
        platform: one of PLATFORMS.
        output: folder of the zips; the file's name is that of its sources' hash.
        pythons: the versions of Python that it can be installed on.

    Raises:
        ValueError: there is no such platform.
        subprocess.CalledProcessError: pip finds no wheel; its own words are on standard error.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"there is no platform {platform!r}; there are {', '.join(PLATFORMS)}")
    sources = [*_own_sources(), CONSTRAINTS, Path(__file__), *(_FOLDER / name for name in _SCRIPTS)]
    key = content_hash([platform, *pythons], sources)
    target = output / f"dicomflow-edge-{platform}-{key[:12]}.zip"
    if target.exists():
        return target
    output.mkdir(parents=True, exist_ok=True)
    required = _download(platform, pythons, output)
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        _build_own_wheel(Path(temporary))
        packed = Path(temporary) / "artifact.zip"
        pack([*required.glob("*.whl"), *Path(temporary).glob("*.whl")], pythons, packed)
        packed.replace(target)
    return target


def pack(wheels: Iterable[Path], pythons: Sequence[str], target: Path) -> None:
    """Write a zip: scripts, wheels, and the requirements with the hash of each wheel."""
    content = {name: (_FOLDER / name).read_bytes() for name in _SCRIPTS}
    content["pythons.txt"] = "\n".join([*pythons, ""]).encode()
    hashes: dict[str, list[str]] = {}
    for path in sorted(wheels, key=lambda path: path.name):
        encoded = path.read_bytes()
        content[f"wheels/{path.name}"] = encoded
        name, version, *_ = path.name.split("-")
        hashes.setdefault(f"{name}=={version}", []).append(hashlib.sha256(encoded).hexdigest())
    lines = [" ".join([pin, *(f"--hash=sha256:{each}" for each in found)]) for pin, found in hashes.items()]
    content["requirements.txt"] = "\n".join([*lines, ""]).encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, encoded in sorted(content.items()):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.external_attr = _ZIP_MODE
            # Wheels are zips themselves.
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, encoded)


def component_version(zips: Iterable[Path], stack: str) -> str:
    """Return the version of a stack's component with these zips and the recipe as it is: neither can ever change.

    Components are the account's, so that each stack needs versions of its own. The classic nucleus takes one hyphen
    only, and a stack's name may have more: so it is told by its digest.
    """
    from dicomflow import __version__  # noqa: PLC0415  # the only thing of ours that a deployment needs

    content = content_hash([], [*sorted(zips), _RECIPE])[:12]
    return f"{__version__}-b{content}x{content_hash([stack], [])[:8]}"


def render_recipe(version: str, artifacts: Mapping[str, Artifact], component: str = COMPONENT) -> str:
    """Return the recipe in YAML, with the artifacts of every platform."""
    text = _RECIPE.read_text(encoding="utf-8")
    values = {"COMPONENT": component, "VERSION": version}
    for platform in PLATFORMS:
        name = platform.upper().replace("-", "_")
        values |= {f"{name}_URI": artifacts[platform].uri, f"{name}_FOLDER": artifacts[platform].folder}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def main() -> None:
    """Build zips for sites that install the edge without Greengrass, and for a look at what is deployed."""
    parser = argparse.ArgumentParser(prog="python -m infra.greengrass", description=main.__doc__)
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=f"of {', '.join(PLATFORMS)}; all by default")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder of the zips (dist)")
    arguments = parser.parse_args()
    for platform in arguments.platforms or PLATFORMS:
        if platform not in PLATFORMS:
            parser.error(f"there is no platform {platform!r}")
        built = build_artifact(platform, arguments.output / "artifacts")
        target = arguments.output / f"dicomflow-edge-{platform}.zip"
        target.unlink(missing_ok=True)
        target.hardlink_to(built)
        print(f"{target}  {target.stat().st_size / 1e6:.1f} MB")  # noqa: T201  # the command's own output


def _build_own_wheel(wheels: Path) -> None:
    command = [*_PIP, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    # pip splits the variable at blanks, which a URI has none of.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "PIP_CONSTRAINT": CONSTRAINTS.as_uri()}
    subprocess.run(command, check=True, env=environment)  # noqa: S603  # our arguments


def _download(platform: str, pythons: Sequence[str], output: Path) -> Path:
    """Return a folder with the wheels of all that the edge requires; those of one Python only, for each Python."""
    first, *others = pythons
    markers = {"sys_platform": "win32", "platform_system": "Windows"} if platform.startswith("windows") else {}
    wanted = [*requirements_of("edge").values(), *(_WINDOWS_PACKAGES if markers else ())]
    installed = Path(sysconfig.get_path("purelib"))
    # Not as a file of constraints: there pip would take no notice of those for Windows, unless it ran there.
    pins = pinned()
    names = installed_closure(wanted, {**markers, "python_version": first}, installed)
    wanted_pins = [pins[name] for name in names]
    wheels = output / f"wheels-{platform}-{content_hash([*PLATFORMS[platform], *pythons, *wanted_pins], [])[:12]}"
    if wheels.exists():
        return wheels
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        folder = Path(temporary) / "wheels"
        _pip_download(wanted_pins, platform, first, folder)
        bound = {canonicalize_name(path.name.split("-")[0]) for path in folder.iterdir() if _has_one_python(path.name)}
        for python in others:
            _pip_download([pins[name] for name in sorted(bound)], platform, python, folder)
        publish(folder, wheels)
    return wheels


def _pip_download(pins: Iterable[str], platform: str, python: str, wheels: Path) -> None:
    command = [*_PIP, "download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
    command += ["--implementation", "cp", "--python-version", python]
    for tag in PLATFORMS[platform]:
        command += ["--platform", tag]
    # The machine's own pip settings say where packages come from.
    subprocess.run([*command, *pins], check=True)  # noqa: S603  # our arguments


def _has_one_python(wheel: str) -> bool:
    _, python, abi, _ = wheel.removesuffix(".whl").rsplit("-", 3)
    return python.startswith("cp") and abi != "abi3"


def _own_sources() -> list[Path]:
    sources = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [ROOT / "pyproject.toml", ROOT / "README.md", *sorted(sources)]


if __name__ == "__main__":
    main()
