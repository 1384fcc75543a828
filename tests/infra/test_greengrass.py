"""The edge's component: its recipe's own scripts install it offline, run it and stop it, in a scratch root."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scratch_nucleus import MACHINE, VARIABLE, Nucleus, digest
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import samples
from infra import greengrass

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the scratch nucleus runs Linux's scripts"),
    pytest.mark.timeout(900),  # the first to ask for the artifact fetches its packages
    pytest.mark.xdist_group("greengrass"),  # one artifact for all
]


@pytest.fixture(scope="session")
def artifact() -> Path:
    """Build this machine's zip, for this Python only; the wheels it has from elsewhere are kept for the next time."""
    return greengrass.build_artifact(f"linux-{MACHINE}", ROOT / "build" / "edge", (PYTHON,))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Give a small study."""
    return samples.write(samples.ct_study(7, slices=3), tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def installed_root(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install version 1 once, for tests with settings of their own."""
    root = tmp_path_factory.mktemp("greengrass")
    assert "installed environment" in Nucleus(root, {}).deploy(artifact, "1.0.0")
    return root


@pytest.fixture
def nucleus(installed_root: Path, tmp_path: Path) -> Iterator[Callable[..., Nucleus]]:
    """Give devices on which version 1 is installed, with an empty spool and a folder as the store."""
    made: list[Nucleus] = []
    shutil.rmtree(installed_root / "work" / greengrass.COMPONENT / "spool", ignore_errors=True)

    def make(*, is_lite: bool = False) -> Nucleus:
        dimse_port, http_port = free_ports(2)
        edge = {
            "name": "",
            "http_port": float(http_port),
            "dimse": {"port": float(dimse_port), "bind": "127.0.0.1"},
            "spool": {"workers": 2.0, "slow_below_bytes": 0, "refuse_below_bytes": 0},
            "delivery": {"store_url": f"file://{tmp_path}/store", "quiet_seconds": 0.2},
        }
        made.append(Nucleus(installed_root, {"edge": edge, "logLevel": "INFO"}, is_lite=is_lite))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.slow
def test_component_installed_offline_receives_and_delivers(
    nucleus: Callable[..., Nucleus], artifact: Path, images: tuple[Path, ...], tmp_path: Path
):
    """Installed from the zip alone, and on Lite, it takes images, and they are in the store under the thing's name."""
    device = nucleus(is_lite=True)
    assert "installed already" in device.deploy(artifact, "1.0.0")
    device.start()
    _send(device, images)
    stored = tmp_path / "store" / "iep-edge-1"
    wait_for(lambda: len(list(stored.rglob("*.dcm"))) == len(images), explain=device.log)
    assert {path.stem for path in images} == {path.stem for path in stored.rglob("*.dcm")}
    device.stop()
    assert 0o640 == (device.work / "edge.toml").stat().st_mode & 0o777


@pytest.mark.slow
def test_component_upgraded_and_rolled_back_keeps_the_spool(
    nucleus: Callable[..., Nucleus], artifact: Path, images: tuple[Path, ...], tmp_path: Path
):
    """What one version received another delivers, after an upgrade and the way back; the classic nucleus stops them."""
    newer = tmp_path / "newer.zip"
    _with_other_requirements(artifact, newer)
    device = nucleus()
    delivery = device.configuration["edge"]["delivery"]
    device.deploy(artifact, "1.0.0")
    delivery["quiet_seconds"] = 3600.0
    device.start()
    _send(device, images[:2])
    device.stop()
    received = device.spooled()
    assert 2 == len(received)
    assert "installed environment" in device.deploy(newer, "1.0.1")
    device.start()
    _send(device, images[2:])
    device.stop()
    received |= device.spooled()
    assert received == device.spooled()
    assert "installed already" in device.deploy(artifact, "1.0.0")
    delivery["quiet_seconds"] = 0.2
    device.start()
    stored = tmp_path / "store" / "iep-edge-1"
    wait_for(lambda: len(list(stored.rglob("*.dcm"))) == len(images), explain=device.log)
    assert received == {digest(path) for path in stored.rglob("*.dcm")}
    device.stop()


def test_recipe_is_for_each_platform_and_names_files_that_are_there(artifact: Path):
    """Each manifest has its artifact and the scripts it calls, in AWS's own case, without a name left to fill in."""
    artifacts = {name: greengrass.Artifact(f"s3://bucket/{name}.zip", name) for name in greengrass.PLATFORMS}
    text = greengrass.render_recipe("0.1.0-b123", artifacts)
    assert [] == re.findall("@[A-Z0-9_]+@", text)
    recipe = yaml.safe_load(text)
    assert "^2.0.0" == recipe["ComponentDependencies"]["aws.greengrass.TokenExchangeService"]["VersionRequirement"]
    assert list(greengrass.PLATFORMS) == [manifest["Name"] for manifest in recipe["Manifests"]]
    files = set(zipfile.ZipFile(artifact).namelist())
    for manifest in recipe["Manifests"]:
        name, wanted, lifecycle = manifest["Name"], manifest["Platform"], manifest["Lifecycle"]
        assert f"{wanted['os']}-{wanted['architecture']}" == name
        # Nucleus Lite takes no manifest without a runtime, and there is none for Windows.
        assert ("*" if wanted["os"] == "linux" else None) == wanted.get("runtime")
        assert [f"s3://bucket/{name}.zip"] == [each["Uri"] for each in manifest["Artifacts"]]
        assert lifecycle.keys() <= {"Setenv", "install", "run", "shutdown"}
        scripts = [step["Script"] for key, step in lifecycle.items() if key != "Setenv"]
        for script in scripts:
            (path,) = re.findall(r'decompressedPath\}[/\\]([^"]+)"', script)
            assert path.replace("\\", "/").removeprefix(f"{name}/") in files
        variables = {found for text in [*scripts, *lifecycle["Setenv"].values()] for found in VARIABLE.findall(text)}
        assert {
            "artifacts:decompressedPath",
            "configuration:/edge",
            "configuration:/edges",
            "configuration:/logLevel",
            "work:path",
        } == variables


@pytest.mark.parametrize("stack", ["iep", "iep-01", "a-b-c-d", "Z9", "a" * 32])
def test_component_version_is_one_that_the_classic_nucleus_takes(stack: str):
    """One hyphen, 64 characters, and parts of a pre-release that start with a letter, whatever the stack is called."""
    version = greengrass.component_version([], stack)
    assert re.fullmatch(r"\d{1,6}\.\d{1,6}\.\d{1,6}-b[0-9a-f]{12}x[0-9a-f]{8}", version)
    assert len(version) <= 64


def test_artifact_of_same_wheels_has_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A zip says nothing of when it was made and in which order; a version is that of zips, recipe and stack."""
    wheels = [tmp_path / f"{name}-1.0-py3-none-any.whl" for name in ("b", "a")]
    for path in wheels:
        path.write_bytes(path.name.encode())
    greengrass.pack(wheels, ["3.13"], tmp_path / "1.zip")
    os.utime(wheels[0], (0, 0))
    greengrass.pack(reversed(wheels), ["3.13"], tmp_path / "2.zip")
    greengrass.pack(wheels[:1], ["3.13"], tmp_path / "3.zip")
    first, second, third = (tmp_path / f"{number}.zip" for number in (1, 2, 3))
    assert first.read_bytes() == second.read_bytes()
    second.unlink()
    version = greengrass.component_version([first], "iep-01")
    assert version == greengrass.component_version([first], "iep-01")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(greengrass._RECIPE.read_bytes() + b"# edited\n")
    monkeypatch.setattr(greengrass, "_RECIPE", recipe)
    others = {greengrass.component_version([third], "iep-01"), greengrass.component_version([first], "iep-02")}
    others.add(greengrass.component_version([first], "iep-01"))  # of the edited recipe
    assert 3 == len(others - {version})


def test_artifact_of_unknown_platform_is_refused(tmp_path: Path):
    """A platform that nobody has wheels for is an error that lists those there are."""
    with pytest.raises(ValueError, match="no platform 'linux-arm'; there are linux-amd64"):
        greengrass.build_artifact("linux-arm", tmp_path)


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()),
    st.text(st.characters(exclude_categories=["Cs"])),
)
TABLES = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=4),
    lambda inner: st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.one_of(VALUES, inner, st.lists(st.one_of(VALUES, inner), max_size=3)),
        max_size=4,
    ),
    max_leaves=10,
)


@given(TABLES)
def test_settings_written_as_toml_are_read_as_they_were(settings: dict[str, Any]):
    """Whatever a configuration holds, the edge reads from its file."""
    component = _component()
    assert settings == tomllib.loads(component.to_toml(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [("{configuration:/edge}", "EDGE_SETTINGS is no JSON object"), ("[]", "EDGE_SETTINGS is no JSON object")],
)
def test_run_with_settings_that_are_no_object_fails_with_what_is_wrong(tmp_path: Path, settings: str, message: str):
    """A configuration that the nucleus did not fill in ends the step with one line."""
    (tmp_path / "current").write_text("1")
    command = [sys.executable, ROOT / "greengrass" / "component.py", "run", tmp_path]
    environment = {**os.environ, "EDGE_SETTINGS": settings}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=WAIT_SECONDS)
    assert 1 == result.returncode
    assert message in result.stderr
    assert 1 == len(result.stderr.splitlines())


def test_install_without_a_fitting_python_says_which_fit(tmp_path: Path):
    """A device whose Python is too old, or none, is told what the artifact can be installed on."""
    for name in ("component.py", "python.sh"):
        shutil.copy(ROOT / "greengrass" / name, tmp_path)
    (tmp_path / "pythons.txt").write_text("3.98\n3.99\n")
    command = ["sh", tmp_path / "python.sh", "install", tmp_path / "work"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert 1 == result.returncode
    assert "this artifact is for 3.98, 3.99" in result.stderr
    assert not (tmp_path / "work").exists()


def test_stop_of_another_process_with_the_same_number_leaves_it_alone(tmp_path: Path):
    """After a restart of the device the number in the file may be anybody's."""
    other = subprocess.Popen(["sleep", "600"])
    try:
        (tmp_path / "edge.pid").write_text(str(other.pid))
        _component().stop(tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(WAIT_SECONDS)


def _component() -> Any:
    spec = importlib.util.spec_from_file_location("component", ROOT / "greengrass" / "component.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _with_other_requirements(artifact: Path, target: Path) -> None:
    """Write an artifact that needs an environment of its own."""
    with zipfile.ZipFile(artifact) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            note = b"# another version\n" if name == "requirements.txt" else b""
            new.writestr(name, old.read(name) + note)


def _send(device: Nucleus, paths: tuple[Path, ...]) -> None:
    port = str(int(device.configuration["edge"]["dimse"]["port"]))
    command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", port, *map(str, paths)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert 0 == result.returncode, result.stdout + result.stderr + device.log()
