"""Folders in the place of a bucket: their URLs mean the same on every platform."""

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from dicomflow.folders import folder_of_url


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (r"C:\ProgramData\dicomflow\objects", PureWindowsPath),
        (r"d:\images of today\ä", PureWindowsPath),
        ("/srv/images of today/ä", PurePosixPath),
        ("/C:/is a folder here", PurePosixPath),
        ("/", PurePosixPath),
    ],
)
def test_folder_of_a_paths_own_url_is_the_path(path: str, kind: Any):
    """What `as_uri` writes is read back, with a drive's letter, blanks and other scripts."""
    assert kind(path) == folder_of_url(kind(path).as_uri(), kind)


@pytest.mark.parametrize("url", ["s3://bucket", "file://host/images", "file:images", "/images", "C:/images", ""])
def test_folder_of_another_url_is_none(url: str):
    """A bucket, another machine's folder and a path alone are no folder of this machine."""
    assert folder_of_url(url) is None


def test_folder_of_localhost_is_this_machines():
    """The one host that a URL of a folder may name is this one (RFC 8089 2)."""
    assert Path("/images") == folder_of_url("file://localhost/images")
