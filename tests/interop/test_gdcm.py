"""GDCM's gdcmscu as a peer.

Debian 12's gdcmscu 3.0.21 ends by an exception of its own after its release, whoever the receiver is (DCMTK's
storescp too), so its exit code tells nothing: what it sent does.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

pytestmark = pytest.mark.interop


def test_gdcmscu_study_is_mapped_with_its_pixels(receiver: Any, study: tuple[Path, ...]):
    """All instances that gdcmscu sends arrive with the data sets they had."""
    program = shutil.which("gdcmscu")
    if program is None:
        pytest.skip("GDCM's gdcmscu is not installed (package libgdcm-tools)")
    options = ("--store", "--call", "DICOMFLOW", "127.0.0.1", str(receiver.port), "-r", "-i", str(study[0].parent))
    result = subprocess.run([program, *options], check=False, capture_output=True, text=True, timeout=240)
    if result.returncode != 0:
        assert "ProtocolStream as nullptr" in result.stderr
    receiver.wait_until_mapped(path.stem for path in study)
    objects = receiver.objects()
    for path in study:
        (stored,) = objects[path.stem]
        assert dcmread(path) == dcmread(stored)
