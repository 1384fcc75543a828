"""Lines on the terminal's error output that tell how far a long command is."""

import time
from collections.abc import Callable
from typing import Final

import typer

__all__ = ["teller"]

_TELL_SECONDS: Final = 1.0


def teller(*, is_quiet: bool) -> Callable[[str], None]:
    """Return what tells how far it is, a line at most each second."""
    told_at = 0.0

    def tell(text: str) -> None:
        nonlocal told_at
        if not is_quiet and time.monotonic() - told_at >= _TELL_SECONDS:
            told_at = time.monotonic()
            typer.echo(text, err=True)

    return tell
