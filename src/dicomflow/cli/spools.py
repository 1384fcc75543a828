"""Where a spool is: given by the edge's settings file, or by the data folder of `dicomflow local`."""

from pathlib import Path
from typing import Annotated

import typer

from dicomflow.edge.settings import load_settings
from dicomflow.edge.spool import Spool
from dicomflow.errors import PermanentError

__all__ = ["Config", "Data", "open_spool"]

Config = Annotated[Path | None, typer.Option(help="The edge's settings file.")]
Data = Annotated[Path | None, typer.Option(help="The data folder of `dicomflow local`.")]


def open_spool(config: Path | None, data: Path | None) -> Spool:
    """Open an existing spool.

    Raises:
        PermanentError: neither or both are given, or there is no spool.
    """
    if (config is None) == (data is None):
        raise PermanentError("name one of --config FILE and --data DIR")
    root = load_settings(config).spool.dir if config is not None else (data or Path()) / "spool"
    if not root.is_dir():
        raise PermanentError(f"there is no spool in {root}")
    return Spool(root, lane="retried")  # a lane of its own, where no worker syncs at the same time
