"""`dicomflow adopt`: objects that something else put into the bucket become deliveries."""

import hashlib
import json as json_
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from dicomflow.cli.database import CATALOG_FILE, DATABASE_URL_VARIABLE, DataFolder, writing
from dicomflow.cli.stores import StoreUrl, store_of
from dicomflow.cli.telling import teller
from dicomflow.errors import PermanentError
from dicomflow.pipeline.adopt import Adopting, Announce, adopt_objects
from dicomflow.pipeline.adoptions import Adoptions

__all__ = ["adopt"]

_SHOWN: Final = 20


def adopt(
    prefix: Annotated[str, typer.Argument(help="A prefix of the bucket, or s3://BUCKET/PREFIX.")],
    data: DataFolder = None,
    store_url: StoreUrl = None,
    *,
    state: Annotated[
        Path | None, typer.Option(help="The file that remembers how far it is: DIR/adopt.db, or one here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with all that is no instance.")] = False,
) -> None:
    """Make deliveries of what others put into the bucket.

    Objects below the prefix are listed, their heads read, and each study's are copied within the bucket to
    `adopted/DELIVERY/STUDY/SERIES/SOP.dcm`, with a manifest put last: from then on they are indexed and imported as
    what an edge delivers. What an edge received, or was adopted before, is left alone, and so are the objects
    themselves. After an interruption call it again. Exits 1 if something is no DICOM instance, or could not be copied.

    For example: dicomflow adopt old-archive --data DIR

    Or what DataSync brought: dicomflow adopt s3://my-landing-bucket/from-the-nas
    """
    url, wanted = _split(prefix, store_url)
    _, store = store_of(data, url)
    path = state or _state_path(data, url)
    adoptions = Adoptions(path, url or "objects")
    try:
        with _announcing(data) as announce:
            counts = adopt_objects(Adopting(store, adoptions, announce, tell=teller(is_quiet=json)), wanted)
        problems = adoptions.problems()
        if json:
            listed = [{"key": key, "reason": reason} for key, reason in problems]
            typer.echo(json_.dumps(counts | {"not_adopted": listed}, indent=2))
        else:
            typer.echo(
                f"{counts['adopted']} of {counts['listed']} objects adopted, in {counts['deliveries']} deliveries of"
                f" {counts['studies']} studies; {counts['problems']} are no instances or could not be copied"
            )
            for number, (key, reason) in enumerate(problems):
                if number == _SHOWN:
                    typer.echo(f"and {counts['problems'] - _SHOWN} more; --json lists all")
                    break
                typer.echo(f"not adopted: {key}: {reason}")
    finally:
        adoptions.close()
    if not counts["listed"]:
        raise PermanentError(f"there is nothing to adopt below {prefix}")
    if counts["problems"]:
        raise typer.Exit(1)


def _split(prefix: str, store_url: str | None) -> tuple[str | None, str]:
    """Return store and prefix, which ends in a slash; a URL must be of the store that is configured."""
    parts = urlsplit(prefix)
    if parts.scheme != "s3":
        path = prefix.strip("/")
        return store_url, f"{path}/" if path else ""
    bucket = f"s3://{parts.netloc}"
    if store_url is not None and not f"{prefix}/".startswith(f"{store_url.rstrip('/')}/"):
        raise PermanentError(f"{prefix} is not below {store_url}: copy it into that bucket first")
    base = (store_url or bucket).rstrip("/")
    path = prefix[len(base) :].strip("/")
    return base, f"{path}/" if path else ""


def _state_path(data: Path | None, url: str | None) -> Path:
    if url is None and data is not None:
        return data / "adopt.db"
    return Path(f"adopt-{hashlib.sha256((url or '').encode()).hexdigest()[:8]}.db")


@contextmanager
def _announcing(data: Path | None) -> Iterator[Announce]:
    """Give what tells a local system of each object; the events of a bucket tell a stack."""
    database_url = os.environ.get(DATABASE_URL_VARIABLE)
    if data is None or not (database_url or (data / CATALOG_FILE).exists()):
        yield lambda _put: None  # a local system that was never started looks at its bucket when it is
        return
    from dicomflow.edge.deliver.deliverer import StoredObject  # noqa: PLC0415  # of a local system alone
    from dicomflow.local_notifier import Notifier  # noqa: PLC0415  # as above

    with writing(data, database_url) as engine:
        notifier = Notifier(engine.url.render_as_string(hide_password=False))
        yield lambda put: notifier([StoredObject(key, size) for key, size in put])
