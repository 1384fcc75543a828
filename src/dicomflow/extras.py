"""What to say where a package of an extra is missing: which extra has it, and how it comes to this installation."""

from dicomflow import __version__

__all__ = ["how_to_install"]


def how_to_install(extras: str) -> str:
    """Return how extras, separated by commas, are added: from the wheel that this version came in, whatever its place.

    No name of a package index stands here: what is called `dicomflow` there need not be this.
    """
    return (
        f"install the extra {extras} too: python -m pip install 'dicomflow-{__version__}-py3-none-any.whl[{extras}]'"
        f", or '.[{extras}]' in a clone (docs/install.md)"
    )
