"""Which deployed stack a command means, and which of its edges."""

import ast
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicomflow.errors import PermanentError

__all__ = ["EdgeName", "Region", "StackName", "config_of_stack", "stack_of_config"]

CONFIG: Final = Path("config.py")

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
        found = _read_config()
    except FileNotFoundError as error:
        raise PermanentError(
            "there is no config.py in this folder: go to the project's folder, or give --stack"
        ) from error
    edges = [str(each.get("Name")) for each in found.get("EDGE_CONFIG", [])]
    if edge not in edges:
        raise PermanentError(f"EDGE_CONFIG in config.py has no edge {edge!r}; it has {', '.join(edges) or 'none'}")
    if not isinstance(found.get("CDK_APP_NAME"), str):
        raise PermanentError("config.py does not say CDK_APP_NAME in plain text: give --stack")
    return str(found["CDK_APP_NAME"])


def config_of_stack(stack: str) -> dict[str, Any]:
    """Return what the config.py of this folder writes out, if it is that stack's; else nothing."""
    try:
        found = _read_config()
    except OSError:
        return {}
    return found if found.get("CDK_APP_NAME") == stack else {}


def _read_config() -> dict[str, Any]:
    """Return the values of config.py that are written out; its code is not run."""
    found: dict[str, Any] = {}
    for node in ast.parse(CONFIG.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # an option says what it is
                continue
    return found
