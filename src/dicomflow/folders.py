"""Folders: that of `dicomflow local` where none is named, and the one in the place of a bucket that a URL names."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dicomflow.errors import PermanentError

__all__ = ["folder_of_url", "own_data_folder"]


def own_data_folder() -> Path:
    """Return where `dicomflow local` keeps its data unless told: `$XDG_DATA_HOME/dicomflow`, below `~/.local/share`.

    Raises:
        PermanentError: this user has no folder of its own.
    """
    base = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share") / "dicomflow"
    except RuntimeError as error:
        raise PermanentError("this user has no home folder: name one with --data DIR") from error


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
