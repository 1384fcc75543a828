"""Folders in the place of a bucket: which one a `file://` URL names, on every platform."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["folder_of_url"]


def folder_of_url(store_url: str, path: type[Path] = Path) -> Path | None:
    r"""Return the folder of a `file://` URL; None for any other, one with a host (a slash too few) included.

    Before a drive's letter the URL has a slash that is no part of the path: `file:///C:/images` is `C:\images`
    (RFC 8089 E.2).

    Args:
        store_url: the URL.
        path: the kind of paths, this platform's.
    """
    parts = urlsplit(store_url)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        return None
    text = unquote(parts.path)
    with_drive = path(text[1:])
    return with_drive if with_drive.drive else path(text)
