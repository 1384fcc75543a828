"""Which deployed stack a command means, and which of its edges."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dicomflow.cli.stack_config import StackConfig, read_config
from dicomflow.errors import PermanentError

__all__ = ["EdgeName", "Region", "StackName", "config_of_stack", "require_device", "stack_of_config"]

EdgeName = Annotated[str, typer.Argument(help="The edge's name, as EDGE_CONFIG in config.py has it.")]
StackName = Annotated[
    str | None, typer.Option(help="The stack's name; by default CDK_APP_NAME of the config.py in this folder.")
]
Region = Annotated[
    str | None,
    typer.Option(envvar="AWS_REGION", help="The region the stack is deployed to; by default your AWS profile's."),
]


def stack_of_config(edge: str) -> str:
    """Return the stack that config.py names, after a look whether it has the edge; its code is not run."""
    try:
        found = read_config()
    except FileNotFoundError as error:
        raise PermanentError(
            "there is no config.py in this folder: go to the project's folder, or give --stack"
        ) from error
    edges = found.edges("give --stack")
    if edge not in edges:
        raise PermanentError(f"EDGE_CONFIG in config.py has no edge {edge!r}; it has {', '.join(edges) or 'none'}")
    require_device(edge, edges[edge])
    name = found.value("CDK_APP_NAME", "give --stack")
    if not isinstance(name, str):
        raise PermanentError("config.py does not say CDK_APP_NAME in plain text: give --stack")
    return name


def config_of_stack(stack: str) -> StackConfig | None:
    """Return what the config.py of this folder writes out, if it is that stack's or does not say whose it is."""
    try:
        found = read_config()
    except FileNotFoundError:
        return None
    is_other = not found.hides("CDK_APP_NAME") and found.value("CDK_APP_NAME", "") != stack
    return None if is_other else found


def require_device(name: str, edge: Mapping[str, Any]) -> None:
    """Refuse an edge that is no device of its owner's.

    Raises:
        PermanentError: it is an instance of the stack's.
    """
    if edge.get("device_type") == "EC2":
        raise PermanentError(f"{name} is an EC2 edge: the stack starts, installs and removes it by itself")
