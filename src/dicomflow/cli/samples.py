"""`dicomflow samples`."""

from pathlib import Path
from typing import Annotated

import typer

from dicomflow.samples import demo_studies, write

__all__ = ["samples"]


def samples(
    folder: Annotated[Path, typer.Argument(help="Where to; it is made if need be.", metavar="DIR", show_default=False)],
) -> None:
    """Write a few invented studies, to try things with.

    They are DICOM files, the demonstration's, the same each time: 18 images in 3 studies of 2 people who never were.

    For example: dicomflow samples dcmdata
    """
    paths = write(demo_studies(), folder)
    typer.echo(f"{len(paths)} images in {folder}")
