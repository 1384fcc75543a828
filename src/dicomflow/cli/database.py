"""Which catalog a command works on, and as whom: that of the environment, or the one under a local data folder.

What only reads creates nothing, not even SQLite's files beside the catalog. What writes leaves every file to the
catalog's owner, who goes on with them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError

from dicomflow.catalog.engine import create_engine_for
from dicomflow.catalog.report import create_read_only_engine
from dicomflow.catalog.trouble import explained
from dicomflow.cli.folders import DATABASE_URL_VARIABLE, DatabaseUrl, DataFolder
from dicomflow.errors import PermanentError

__all__ = ["CATALOG_FILE", "DATABASE_URL_VARIABLE", "DataFolder", "DatabaseUrl", "give_to_owner", "reading", "writing"]

CATALOG_FILE: Final = "catalog.db"
_PRIVATE_FOLDER: Final = 0o700
_PRIVATE_FILE: Final = 0o600


@contextmanager
def reading(data: Path | None, database_url: str | None, *, is_seed: bool = False) -> Iterator[Engine]:
    """Give an engine on an existing catalog for a command that only reads; nothing is created.

    With `is_seed` the names of tables are the AWS sample's.

    Raises:
        typer.BadParameter: neither a folder nor a URL was given.
        PermanentError: there is no catalog under the folder, or this user may not read it.
        TransientError: the database does not answer.
    """
    file = _file(data, database_url)
    if file is not None:
        _require_file(file)
        if not os.access(file, os.R_OK):
            raise PermanentError(f"this user may not read {file}: {_advice(file)}")
    with _disposed(create_read_only_engine(_url(file, database_url), is_seed=is_seed)) as engine:
        _prove(engine)
        yield engine


@contextmanager
def writing(data: Path | None, database_url: str | None, *, may_create: bool = False) -> Iterator[Engine]:
    """Give an engine on a catalog for a command that writes; a folder is made for a new one.

    Raises:
        typer.BadParameter: neither a folder nor a URL was given.
        PermanentError: there is no catalog under the folder, it belongs to another user, or cannot be written.
        TransientError: the database does not answer.
    """
    file = _file(data, database_url)
    if file is not None:
        if may_create:
            _create(file)
        _require_file(file)
        _require_owner(file)
    with _disposed(create_engine_for(_url(file, database_url))) as engine:
        _prove(engine)
        yield engine


def _prove(engine: Engine) -> None:
    """Let connections to Aurora bring a token of AWS IAM, as the pipeline's do where the environment says so."""
    if os.environ.get("DICOMFLOW_DATABASE_IAM", "").lower() == "true" and engine.dialect.name == "postgresql":
        from dicomflow.pipeline.database import prove_by_iam  # noqa: PLC0415  # few catalogs ask for it

        prove_by_iam(engine)


def _file(data: Path | None, database_url: str | None) -> Path | None:
    """Return the catalog's file under a data folder; None where a URL goes before it."""
    if database_url:
        return None
    if data is None:
        raise typer.BadParameter(f"give the data folder, or set {DATABASE_URL_VARIABLE}", param_hint="--data")
    return data.absolute() / CATALOG_FILE


def _url(file: Path | None, database_url: str | None) -> str:
    return f"sqlite:///{quote(str(file))}" if file is not None else database_url or ""


@contextmanager
def _disposed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    except DatabaseError as error:
        raise explained(error, engine.url) or error from error
    finally:
        engine.dispose()


def _require_file(file: Path) -> None:
    try:
        file.stat()
    except PermissionError as error:
        raise PermanentError(f"this user may not look into {file.parent}: {_advice(file)}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PermanentError(
            f"no {file.name} in {file.parent}; start `dicomflow local --data {file.parent}` first"
        ) from error


def _require_owner(file: Path) -> None:
    """Refuse to write as a user whose files the owner could not use; SQLite itself gives root's to the owner."""
    if os.name == "posix" and os.geteuid() not in {0, file.stat().st_uid}:
        raise PermanentError(f"{file} belongs to another user: {_advice(file)}")
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)):
        raise PermanentError(f"{file} cannot be written, which this command needs: its folder or volume is read-only")


def _create(file: Path) -> None:
    """Make an empty catalog where there is none; it belongs to whom the folder belongs to."""
    try:
        file.parent.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, _PRIVATE_FILE))
    except FileExistsError:
        return
    except PermissionError as error:
        raise PermanentError(f"this user may not make {file}: {_advice(file)}") from error
    give_to_owner(file)


def give_to_owner(path: Path) -> None:
    """Make what root has just made belong to whom the folder around it belongs to."""
    if os.name == "posix" and os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def _advice(file: Path) -> str:
    """Say who may, as far as that can be seen."""
    for path in (file, *file.parents):
        try:
            owner = path.owner()
        except (OSError, KeyError, NotImplementedError):
            continue
        return f"run the command as {owner}, as with `sudo -u {owner}`"
    return "run the command as its owner"
