"""The functions' bundles: whole, small, the same from the same sources, and enough for what a function does.

By default they are built of this machine's packages; with DICOMFLOW_TEST_BUNDLES=1 of Lambda's too, which pip must get.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.bundles import FUNCTIONS, HOST, LAMBDA, Platform, build_bundle, folder_hash, handler_of

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = [pytest.param(HOST, id="host")]
if os.environ.get("DICOMFLOW_TEST_BUNDLES") == "1":
    # In one process, which has pip get the packages once.
    PLATFORMS.append(pytest.param(LAMBDA, id="lambda", marks=pytest.mark.xdist_group("lambda")))
MAX_BYTES = 240_000_000  # Lambda takes 250 MiB unpacked, with the layer of the database's certificates
MAX_ZIP_BYTES = 50_000_000  # Lambda's limit for a zip that is uploaded in one call


@pytest.fixture(scope="session")
def bundles() -> Path:
    """Give the folder in which bundles are built; it outlives the session."""
    return ROOT / "build" / "bundles"


@pytest.mark.parametrize("name", ["index", "drive", "migrate", "operator", "console"])
def test_bundle_on_its_own_imports_its_handler(name: str, bundles: Path):
    """A Python that has nothing but the bundle finds the handler, and all that the function opens later."""
    bundle = build_bundle(name, bundles, HOST)
    module, _, function = handler_of(name).rpartition(".")
    later = {
        "index": "import psycopg, pydicom.filereader, obstore.store",
        "drive": "import psycopg, boto3; [boto3.client(each, 'us-east-1') for each in ('sqs', 'medical-imaging')]",
        "operator": "assert 0 == module.operator({'arguments': ['imports', '--help']})['code']",
        "console": """
import os
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # of the process that draws: a bundle stays as it was built
from obstore.store import MemoryStore
from dicomflow.archive.pixels.pictures import Pictures, Window
store = MemoryStore()
store.put("x", b"no DICOM")
try:
    Pictures(store).frame("x", 0, Window())
except Exception as error:
    assert type(error).__name__ == "FrameError" and "breaks" not in str(error), error
import imagecodecs, numpy, jinja2
""",
        "migrate": "import psycopg, alembic.command, boto3; boto3.client('secretsmanager', 'us-east-1')",
    }[name]
    code = f"""
import sys
sys.path.insert(0, {str(bundle)!r})
import {module} as module
assert callable(module.{function})
{later}
from dicomflow.catalog.engine import database_url
"""
    # The Python under the tests' environment, without its packages.
    python = os.path.realpath(sys.executable)
    result = subprocess.run(
        [python, "-I", "-S", "-B", "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert 0 == result.returncode, result.stderr


def test_bundle_built_twice_has_the_same_bytes(bundles: Path, tmp_path: Path):
    """Another folder and another moment change nothing, so that nothing is deployed that did not change."""
    first = build_bundle("plan", bundles, HOST)
    second = build_bundle("plan", tmp_path, HOST)
    assert first != second
    assert first.name == second.name
    assert folder_hash(first) == folder_hash(second)


def test_bundle_that_is_there_is_not_built_again(bundles: Path):
    """Synthesising again costs nothing."""
    bundle = build_bundle("watch", bundles, HOST)
    before = bundle.stat()
    assert bundle == build_bundle("watch", bundles, HOST)
    assert (before.st_ino, before.st_mtime_ns) == (bundle.stat().st_ino, bundle.stat().st_mtime_ns)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bundle_holds_what_its_function_needs_and_no_more(name: str, platform: Platform, bundles: Path):
    """No other program, no tests, nothing compiled here, and the packages of this function alone."""
    bundle = build_bundle(name, bundles, platform)
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert "dicomflow/pipeline/lambdas.py" in files
    ours = {path.split("/")[1] for path in files if path.startswith("dicomflow/")}
    assert not ours & {"edge", "local.py", "network", "samples.py", "send"}
    assert ("console" in ours) == ("dimse" in ours) == (name == "console")  # whose pages name DIMSE's states
    assert ("cli" in ours) == (name == "operator")
    assert not [path for path in files if path.startswith("dicomflow/healthimaging/simulator")]
    assert not [path for path in files if path.endswith((".pyc", ".pyi")) or "__pycache__" in path]
    tops = {path.split("/")[0] for path in files}
    assert ("pydicom" in tops) == (name in {"index", "operator", "console"})
    assert ("typer" in tops) == ("rich" in tops) == (name == "operator")
    assert ("alembic" in tops) == (name == "migrate")
    for package in ("imagecodecs", "mangum", "numpy", "starlette"):
        assert (package in tops) == (name == "console")
    assert not tops & {"aws_cdk", "moto", "pytest", "uvicorn"}
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < MAX_BYTES
    if platform.tags:
        libraries = {path for path in files if ".so" in path and "-linux-gnu" in path}
        assert libraries
        assert not [path for path in libraries if "aarch64" not in path]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_largest_bundle_is_small_enough_to_upload_at_once(platform: Platform, bundles: Path, tmp_path: Path):
    """The function that indexes has the most packages, and its zip is less than half of what Lambda takes."""
    bundle = build_bundle("index", bundles, platform)
    packed = tmp_path / "bundle.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(bundle))
    assert packed.stat().st_size < MAX_ZIP_BYTES / 2


def test_bundle_keeps_the_models_of_services_that_are_called(bundles: Path):
    """Each service that our code makes a client of is among those that were kept of botocore."""
    sources = [path for folder in ("catalog", "healthimaging", "pipeline") for path in _sources(folder)]
    called = {name for text in sources for name in re.findall(r'client\(?,?\s*"([a-z-]+)"', text)}
    assert {"medical-imaging", "sqs"} <= called
    data = build_bundle("migrate", bundles, HOST) / "botocore" / "data"
    assert called <= {path.name for path in data.iterdir()}


def test_bundle_of_unknown_function_is_refused(tmp_path: Path):
    """A misspelt function is an error that lists those there are."""
    with pytest.raises(ValueError, match="no function 'indx'; there are index, plan"):
        build_bundle("indx", tmp_path)


def _sources(folder: str) -> list[str]:
    paths = (ROOT / "src" / "dicomflow" / folder).rglob("*.py")
    return [path.read_text(encoding="utf-8") for path in paths if "simulator" not in path.parts]
