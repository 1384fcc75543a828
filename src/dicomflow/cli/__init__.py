"""The command line: the table of commands, the global options and the one error boundary.

A command lives in the module of its name and is imported only when it is called, so that the edge runs without
the pipeline's dependencies and `--help` answers at once. Nothing here knows what a command does.
"""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from dicomflow import __version__, logs
from dicomflow.cli.operator import run_on_stack, split_stack
from dicomflow.errors import DicomflowError
from dicomflow.extras import how_to_install
from dicomflow.spelling import meant

__all__ = ["COMMANDS", "EXIT_CODES", "LOG_LEVELS", "Entry", "app", "load_command", "main", "run"]

EXIT_FAILED: Final = 1
EXIT_CODES: Final = {
    0: "done",
    EXIT_FAILED: "failed, or what was asked about is not well: one line on standard error, or the output, says why",
    2: "called wrongly, or nothing was done because something was not confirmed",
}
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


_OF_AN_EDGE_TOO: Final = frozenset({"status", "doctor"})
_AWS_HINT: Final = "; check the region (AWS_REGION, or `region` in the AWS profile), credentials and endpoints"
_AWS_ADVICE: Final = {
    "NoRegionError": "no AWS region: set AWS_REGION, or `region` in the AWS profile",
    "NoCredentialsError": "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "ProfileNotFound": "the AWS profile that AWS_PROFILE names is not there: `aws configure list-profiles` lists them",
}


class Entry(NamedTuple):
    """A command: its one-line help and the extra whose packages it needs."""

    summary: str
    extra: str


# The command `x` is the function `x` in `dicomflow.cli.x` (`x_y` for a command `x-y`), whose docstring begins with the
# summary; a group of commands is a `typer.Typer` in its place, with the summary as its help.
COMMANDS: Final = {
    "local": Entry("Run everything on this machine, with a simulated import.", "local"),
    "edge": Entry("Run the edge daemon: receive, spool, deliver.", "edge"),
    "doctor": Entry("Check a set-up and say what to do.", "local"),
    "edge-install": Entry("Write the commands that make a device an edge.", "edge"),
    "edge-remove": Entry("Take an edge's device out of a deployed stack.", "edge"),
    "send": Entry("Send DICOM files to a receiver over DIMSE.", "edge"),
    "pull": Entry("Compare with a source, and fetch what is missing here.", "edge"),
    "deidentify": Entry("Make de-identified copies of files.", "edge"),
    "samples": Entry("Write a few invented studies, to try things with.", "edge"),
    "routes": Entry("Say which destinations files would go to, and why.", "edge"),
    "conformance": Entry("Write the DICOM conformance statement of an edge.", "edge"),
    "spool": Entry("List what cannot be delivered, and try it again.", "edge"),
    "ledger": Entry("Show an instance's chain of custody; check, forget it.", "edge"),
    "commitments": Entry("List storage commitment reports not taken; send again.", "edge"),
    "users": Entry("Make the lines of users files.", "edge"),
    "status": Entry("Show how much is received, indexed and imported.", "pipeline"),
    "query": Entry("Run one read-only SQL statement on the catalog.", "pipeline"),
    "worker": Entry("Run the pipeline's handlers from SQS, outside Lambda.", "pipeline"),
    "imports": Entry("List imports and what came of them; retry, repair.", "pipeline"),
    "transfers": Entry("Send images back to a site, and see what became of them.", "pipeline"),
    "adopt": Entry("Make deliveries of what others put into the bucket.", "pipeline"),
    "catalog": Entry("Search, check and rebuild the catalog; delete studies.", "pipeline"),
    "console": Entry("Serve the operators' pages over any catalog.", "pipeline,console"),
    "archive": Entry("Serve what is stored to viewers and other systems.", "edge,pipeline,console"),
    "simulator": Entry("Simulate AWS HealthImaging for any SDK client.", "pipeline,console,simulator"),
    "migrate": Entry("Bring the catalog's schema to this version's.", "pipeline"),
}


class _LazyGroup(TyperGroup):
    """Lists commands from the table and imports a command's module when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # the context class is private to Typer
        """Return the names in the table's order."""
        return [*super().list_commands(ctx), *COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # as above
        """Return a stand-in with the summary: enough for the list of commands."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        return TyperCommand(cmd_name, help=entry.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # as above
        """Return the command that is to run, imported."""
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{meant(args[0], self.list_commands(ctx)) or '.'}")
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below it too
    epilog="Exit codes: 0 done, 1 failed or not well, 2 called wrongly. More in docs/cli.md.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command that the process was started with and exit with its code."""
    if region := os.environ.get("AWS_REGION"):
        os.environ["AWS_DEFAULT_REGION"] = region  # the only one that boto3 reads; all other SDKs put AWS_REGION first
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 called wrongly.

    A failure is one line on standard error; its traceback is shown only with `--log-level DEBUG`.
    """
    try:
        if (found := split_stack(arguments)) is not None:
            return run_on_stack(*found)
        typer.main.get_command(app).main(list(arguments), prog_name="dicomflow")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_FAILED
    except Exception as error:  # the boundary: everything ends in one line and an exit code
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            logging.getLogger(__name__).debug("command_failed", exc_info=True)
        print(f"dicomflow: {_explain(error, arguments)}", file=sys.stderr)  # noqa: T201  # the command's own output
        return EXIT_FAILED
    return 0


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # Typer calls it with the option's value
    if wanted:
        typer.echo(f"dicomflow {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    *,
    log_level: Annotated[
        str, typer.Option(envvar="DICOMFLOW_LOG_LEVEL", help=f"One of {', '.join(LOG_LEVELS)}.")
    ] = "INFO",
    _stack: Annotated[
        str | None,
        typer.Option(
            "--stack", help="Run the command in a deployed stack: status, query, imports, transfers or catalog."
        ),
    ] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """DICOM from a hospital's devices into S3, an SQL index and AWS HealthImaging."""
    if log_level.upper() not in LOG_LEVELS:
        raise typer.BadParameter(f"{log_level!r} is not one of {', '.join(LOG_LEVELS)}", param_hint="--log-level")
    logs.configure(log_level.upper(), as_json=json_logs)


def load_command(name: str) -> Any:
    """Import the module of a command and return the command, or the group of them, as Typer's click knows it."""
    module = name.replace("-", "_")
    command = getattr(importlib.import_module(f"{__name__}.{module}"), module)
    if isinstance(command, typer.Typer):
        group = typer.main.get_group(command)
        group.name = name
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name)(command)
    return typer.main.get_command(single)


def _extras_of(name: str, arguments: Sequence[str]) -> str:
    """Return the extras that a call of a command needs: one that asks an edge needs the edge's alone."""
    extra = COMMANDS[name].extra if name else "pipeline"
    if name in _OF_AN_EDGE_TOO:
        extra = "edge" if "--config" in arguments else "pipeline" if "--worker" in arguments else extra
    return "edge,pipeline,console" if extra == "local" else extra


def _explain(error: Exception, arguments: Sequence[str]) -> str:
    """Return what went wrong and what to do, in one line without the text of errors that are not ours."""
    if isinstance(error, DicomflowError):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("dicomflow"):
        name = next((word for word in arguments if word in COMMANDS), "")
        return f"'{name}' needs the package {error.name}; {how_to_install(_extras_of(name, arguments))}"
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fspath(error.filename)}" if isinstance(error.filename, str | os.PathLike) else ""
        return f"{error.strerror}{where}; check that it exists, is free and may be used by this user"
    kind = type(error).__name__
    if type(error).__module__ == "sqlalchemy.exc":
        from dicomflow.catalog.trouble import explained  # noqa: PLC0415  # where there is no such error, no such package

        if (trouble := explained(error)) is not None:
            return str(trouble)
    if type(error).__module__ == "botocore.exceptions":
        return _AWS_ADVICE.get(kind, f"AWS cannot be used ({kind}){_AWS_HINT}")
    return f"internal error ({kind}); run it again with --log-level DEBUG and report the traceback"
