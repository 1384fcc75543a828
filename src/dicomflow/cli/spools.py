"""Where a spool is: given by the edge's settings file, or by the data folder of `dicomflow local`.

A command that only reads creates nothing there, whoever runs it; one that writes leaves nothing behind that the edge's
own user could not use.
"""

from pathlib import Path
from typing import Annotated

import typer

from dicomflow.cli.folders import DataFolder
from dicomflow.edge.settings import load_settings
from dicomflow.edge.spool.folders import Spool
from dicomflow.errors import PermanentError

__all__ = ["Config", "Data", "find_spool", "open_spool"]

Config = Annotated[Path | None, typer.Option(help="The edge's settings file.")]
Data = DataFolder


def find_spool(config: Path | None, data: Path | None) -> Path:
    """Return the folder of an existing spool, to be read.

    Raises:
        PermanentError: neither or both are given, or there is no spool that this user may read.
    """
    if (config is None) == (data is None):
        raise PermanentError("name one of --config FILE and --data DIR")
    root = load_settings(config).spool.dir if config is not None else (data or Path()) / "spool"
    try:
        if not root.is_dir():
            raise PermanentError(f"there is no spool in {root}")
        next(root.iterdir(), None)
    except OSError as error:
        raise PermanentError(f"cannot read the spool {root}: {error.strerror}") from error
    return root


def open_spool(config: Path | None, data: Path | None) -> Spool:
    """Open an existing spool to put something back; raises as `find_spool` does."""
    return Spool(find_spool(config, data), make=False)
