"""`dicomflow catalog delete-study`: a study's rows, and by option its objects and image sets."""

from functools import partial
from typing import Annotated

import typer

from dicomflow.catalog.engine import require_schema
from dicomflow.cli.database import DatabaseUrl, DataFolder, writing
from dicomflow.cli.healthimaging import healthimaging_of
from dicomflow.cli.stores import StoreUrl, actor, store_of
from dicomflow.pipeline.deletion import Deletion, find_study
from dicomflow.pipeline.settings import load_character_sets, load_issuers

__all__ = ["delete_study_"]


def delete_study_(
    uid: Annotated[str, typer.Argument(help="The Study Instance UID.", metavar="UID")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would go.")] = False,
    objects: Annotated[bool, typer.Option("--objects", help="Delete the stored objects too.")] = False,
    image_sets: Annotated[bool, typer.Option("--image-sets", help="Delete the image sets too.")] = False,
    store_url: StoreUrl = None,
) -> None:
    """Delete a study from the catalog, with its objects and its image sets in HealthImaging if asked.

    Objects that stay in the store come back into the catalog when their events are sent again. What is delivered
    meanwhile stays. An image of another study with a SOP Instance UID of this one is indexed again, and a patient who
    has other studies is made anew from their objects: the store is read. HealthImaging is that of the `dicomflow
    local` which runs on DIR; else, or with AWS_ENDPOINT_URL_MEDICAL_IMAGING, where AWS's own variables say.
    """
    with writing(data, database_url) as engine:
        require_schema(engine)
        study = find_study(engine, uid)
        if not yes:
            typer.echo(
                f"study {uid} has {len(study.keys)} stored objects and {len(study.image_sets)} image sets;"
                " nothing is deleted without --yes"
            )
            raise typer.Exit(2)
        open_store = partial(store_of, data, store_url)
        open_client = partial(healthimaging_of, data)
        deletion = Deletion(engine, open_store, open_client, actor(), load_issuers(), load_character_sets())
        deleted = deletion.delete(study, objects=objects, image_sets=image_sets)
    rows = ", ".join(f"{count} {table}" for table, count in deleted.rows.items() if count)
    typer.echo(f"deleted study {uid}: {rows}; {deleted.objects} objects; {deleted.image_sets} image sets")
