"""`dicomflow deidentify`: de-identified copies of files, and what was done to each attribute."""

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from dicomflow.cli.tables import print_table
from dicomflow.deidentify.copying import Outcome, Quarantined, Written
from dicomflow.deidentify.copying import deidentify as make_copy
from dicomflow.deidentify.profile import Profile, load_profile
from dicomflow.deidentify.secret import SECRET_VARIABLE, site_secret
from dicomflow.deidentify.settings import BASIC, ProfileSettings
from dicomflow.edge.settings import EdgeSettings, load_settings
from dicomflow.errors import PermanentError
from dicomflow.send.files import Candidate, find_candidates

__all__ = ["deidentify"]

_COLUMNS: Final = ("attribute", "name", "done", "objects")
_Counts = Counter[tuple[tuple[int, ...], str]]


@dataclass(slots=True)
class _Told:
    """What is told at the end: counts, and the reasons by file, which only who called sees."""

    changes: _Counts
    written: int = 0
    quarantined: int = 0


def deidentify(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder of the copies; it is made.")],
    profile: Annotated[str, typer.Option(help="`basic`, or a profile of the edge's settings.")] = BASIC,
    config: Annotated[Path | None, typer.Option(help="The edge's settings file: its profiles and secret.")] = None,
    domain: Annotated[
        str | None, typer.Option(help="The destination whose UIDs and pseudonyms the copies have; else the profile.")
    ] = None,
    *,
    report: Annotated[bool, typer.Option("--report", help="List what was done to each attribute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make de-identified copies of files.

    For example: dicomflow deidentify scan.dcm --profile basic --out copies --report

    A copy is OUT/<study>/<series>/<instance>.dcm, by its new UIDs. The site secret is read from DICOMFLOW_SITE_SECRET
    or the settings; the same secret and domain give the same copies for ever. The report has no values. What may not
    go, and why, is told on standard error; then the exit code is 1, and all others are written all the same.
    """
    bound = _bound(profile, config, domain)
    out.mkdir(parents=True, exist_ok=True)
    told = _Told(Counter())
    for candidate in find_candidates(files):
        if candidate.skipped is not None and not candidate.skipped.is_failure:
            continue
        outcome = _copied(candidate, out, bound)
        if isinstance(outcome, Quarantined):
            told.quarantined += 1
            typer.echo(f"{candidate.name}: {outcome.reason}", err=True)
        else:
            told.written += 1
            told.changes.update({(change.path, change.done) for change in outcome.changes})
    _print(told, is_reported=report, as_json=as_json)
    if told.quarantined or not told.written:
        raise typer.Exit(1)


def _bound(name: str, config: Path | None, domain: str | None) -> Profile:
    settings: EdgeSettings | None = None if config is None else load_settings(config)
    profiles: dict[str, ProfileSettings] = {} if settings is None else dict(settings.profiles)
    secret = site_secret(None if settings is None else settings.site_secret)
    if secret is None:
        raise PermanentError(
            f"no site secret: set {SECRET_VARIABLE} to one that you keep, for instance {secrets.token_urlsafe(32)}"
            + ("" if config is None else f", or `site_secret` in {config}")
        )
    if domain is not None and settings is not None and domain not in settings.destinations:
        known = ", ".join(settings.destinations) or "none"
        raise PermanentError(f"{domain!r} is no destination of {config}: there are {known}")
    return load_profile(name, profiles, secret=secret, domain=domain or name)


def _copied(candidate: Candidate, out: Path, profile: Profile) -> Outcome:
    """Write one copy to its place; whatever comes of it, the next one is not touched by it."""
    if candidate.skipped is not None:
        return Quarantined(candidate.skipped.reason)
    if candidate.member is not None:
        return Quarantined("it is in an archive: unpack it first")
    part = out / f".{os.getpid()}.part"
    part.unlink(missing_ok=True)
    try:
        outcome = make_copy(candidate.path, part, profile, is_reported=True)
        if isinstance(outcome, Written):
            target = out / outcome.study_uid / outcome.series_uid / f"{outcome.sop_uid}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
    except OSError as error:
        if error.filename == os.fspath(candidate.path):
            return Quarantined(error.strerror or type(error).__name__)
        raise
    return outcome


def _print(told: _Told, *, is_reported: bool, as_json: bool) -> None:
    if as_json:
        document = {
            "written": told.written,
            "quarantined": told.quarantined,
            "attributes": [dict(zip(_COLUMNS, row, strict=True)) for row in _rows(told.changes)],
        }
        typer.echo(json.dumps(document if is_reported else {**document, "attributes": []}, indent=2))
        return
    if is_reported:
        print_table(Console(), "what was done", _COLUMNS, list(_rows(told.changes)))
    typer.echo(f"{told.written} written, {told.quarantined} quarantined")


def _rows(changes: _Counts) -> Iterator[tuple[Any, ...]]:
    """Yield attribute, keyword, what was done, and in how many objects; private ones have no keyword."""
    from pydicom.datadict import keyword_for_tag  # noqa: PLC0415  # dear, and for the report alone

    for (path, done), count in sorted(changes.items()):
        place = ">".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in path)
        yield place, keyword_for_tag(path[-1]), done, count
