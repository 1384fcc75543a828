"""A site's secret, profiles of any options, and a judge of copies that is not ours."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomflow.deidentify.profile import Profile, load_profile
from dicomflow.deidentify.settings import ProfileSettings

SECRET = "a secret of a site, long enough to be one"
_VALUES = re.compile(r"\[[^\]]*\]|<[^>]*>|\d+(\.\d+)+|\"[^\"]*\"|`[^']*'")


def _profile(*options: str, domain: str = "research", secret: str = SECRET, **settings: object) -> Profile:
    made = ProfileSettings.model_validate({"options": options, **settings})
    return load_profile("tested", {"tested": made}, secret=secret, domain=domain)


@pytest.fixture(scope="session")
def profile() -> Callable[..., Profile]:
    """Return what makes a profile of options and settings."""
    return _profile


@pytest.fixture(scope="session")
def flaws() -> Callable[[Path], Counter[str]]:
    """Return what counts the errors that dciodvfy finds in a file, without values."""
    command = shutil.which("dciodvfy")
    if command is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")

    def found(path: Path) -> Counter[str]:
        told = subprocess.run([command, str(path)], capture_output=True, text=True, check=False).stderr
        assert "Information Object Not found" not in told
        return Counter(_VALUES.sub("", line) for line in told.splitlines() if line.startswith("Error"))

    return found
