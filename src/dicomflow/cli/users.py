"""`dicomflow users`: the files of users, the edge's `dimse.users_file` and the console's."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomflow.errors import PermanentError
from dicomflow.passcodes import hash_passcode

__all__ = ["users"]

_MODE: Final = 0o600
# PS3.7 D.3.3.7 sets no limit; a longer one is a file that was piped in by mistake.
_MAX_PASSCODE: Final = 1000

users = typer.Typer(
    help="Make the lines of users files.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@users.callback()
def _group() -> None:
    """Keep `hash` a command of its own: Typer would take it for the group."""


@users.command("hash")
def hash_(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    file: Annotated[
        Path | None,
        typer.Option(help="Put the line into this file, in the place of the user's old one; it is made if need be."),
    ] = None,
) -> None:
    """Ask for a passcode and print the line of a users file.

    The line has the name, a salt and a hash. The passcode is read from the terminal without being shown, or from
    standard input, one line. The file is read again by what uses it when it changes: no restart is needed.

    For example: dicomflow users hash ct1 --file /etc/dicomflow/users
    """
    if not name or "\n" in name or name.startswith("#") or name != name.strip():
        raise typer.BadParameter("a name is not empty and begins with no # or blank", param_hint="NAME")
    line = hash_passcode(name, _passcode())
    if file is None:
        typer.echo(line)
        return
    _replace(file, name, line)
    typer.echo(f"{name} is in {file}")


def _passcode() -> str:
    if sys.stdin.isatty():
        passcode: str = typer.prompt("Passcode", hide_input=True, confirmation_prompt=True)
    else:
        passcode = sys.stdin.readline().rstrip("\r\n")
    if not 0 < len(passcode) <= _MAX_PASSCODE:
        raise PermanentError(f"a passcode has 1 to {_MAX_PASSCODE} characters; give it on standard input, in one line")
    return passcode


def _replace(file: Path, name: str, line: str) -> None:
    """Write the file anew, at once and for its owner only, so that a reader never finds half of it."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    kept = [each for each in lines if each.startswith("#") or each.rsplit(":", 2)[0].strip() != name]
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write("\n".join([*kept, line]) + "\n")
        if file.exists():
            temporary.chmod(file.stat().st_mode & 0o777)
            _give_to_owner_of(file, temporary)
        else:
            _give_to_owner_of(file.parent, temporary)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _give_to_owner_of(known: Path, path: Path) -> None:
    """Leave the file readable for the edge's user when root has written it."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = known.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
