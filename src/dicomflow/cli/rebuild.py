"""`dicomflow catalog rebuild`: the catalog from what lies in the bucket."""

import time
from dataclasses import asdict
from typing import Final

import typer

from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.engine import migrate
from dicomflow.cli.database import DatabaseUrl, DataFolder, writing
from dicomflow.cli.stores import StoreUrl, actor, now, store_of
from dicomflow.pipeline.rebuild import Rebuilt, rebuild_catalog
from dicomflow.pipeline.settings import load_character_sets, load_issuers

__all__ = ["rebuild"]

_TELL_SECONDS: Final = 1.0


def rebuild(data: DataFolder = None, database_url: DatabaseUrl = None, store_url: StoreUrl = None) -> None:
    """Bring everything that lies in the bucket into the catalog, new or old.

    Objects are indexed, manifests make their deliveries, and the outputs of import jobs say what is in HealthImaging.
    What the catalog has already is passed over: after an interruption, call it again. Nothing is imported by it;
    `dicomflow imports retry --all --state disabled` queues what is not in HealthImaging.
    """
    bucket, store = store_of(data, store_url)
    told_at = time.monotonic()

    def tell(done: Rebuilt) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_SECONDS:
            told_at = time.monotonic()
            typer.echo(_text(done), err=True)

    with writing(data, database_url, may_create=True) as engine:
        migrate(engine)
        done = rebuild_catalog(
            engine, store, bucket, issuers=load_issuers(), character_sets=load_character_sets(), tell=tell
        )
        details = {name: value for name, value in asdict(done).items() if isinstance(value, int)}
        with engine.begin() as connection:
            record_audit_event(connection, now(), actor=actor(), action="rebuild", uid=None, details=details)
    typer.echo(f"{_text(done)}; {done.not_imported} series are not in HealthImaging")


def _text(done: Rebuilt) -> str:
    return (
        f"{done.indexed} objects indexed, {done.problems} problems, {done.deliveries} deliveries,"
        f" {done.jobs} import jobs; {done.passed_over} were known"
    )
