"""`dicomflow conformance`: the DICOM conformance statement of an edge."""

from pathlib import Path
from typing import Annotated

import typer

from dicomflow.edge.conformance_site import statement_of
from dicomflow.edge.settings import load_settings

__all__ = ["conformance"]


def conformance(
    config: Annotated[Path, typer.Option(help="The edge's settings file.")],
) -> None:
    """Write the DICOM conformance statement of an edge.

    As Markdown, for whoever connects a device to it: its roles as SCU and SCP with their peers, where it is reached,
    its limits, SOP classes and transfer syntaxes, and what its refusals mean.

    For example: dicomflow conformance --config /etc/dicomflow/edge.toml > statement.md
    """
    typer.echo(statement_of(load_settings(config)), nl=False)
