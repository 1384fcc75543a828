"""The catalog's migration with a deployment: the function that CloudFormation calls before the others are replaced.

It connects as the catalog's owner, whose password is in Secrets Manager, brings the schema to this program's revision,
and gives the functions' user its rights. It only adds; when the stack goes, the catalog stays as it is.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

from dicomflow.catalog.access import grant_user
from dicomflow.catalog.engine import create_engine_for, schema_revision
from dicomflow.catalog.engine import migrate as migrate_catalog
from dicomflow.errors import PermanentError
from dicomflow.pipeline.database import connect_with_patience
from dicomflow.pipeline.relay import RelayClient, build_lambda_client

__all__ = ["MigrationSettings", "get_secret", "load_migration_settings", "migrate_on_deploy"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "DICOMFLOW_MIGRATION__"
_RESOURCE: Final = "catalog-schema"
INDEX_SECONDS: Final = 720.0
"""Of the fifteen minutes that a function has: the rest is for the engine to resume, and for the schema itself."""


class MigrationSettings(BaseSettings):
    """Where the catalog is (the owner's URL, without password), whose secret holds the password, and who uses it.

    `relay` is the function that reads the secret, where this one cannot reach Secrets Manager.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=_PREFIX)

    database_url: str
    secret_arn: str
    user: str
    relay: str = ""


def load_migration_settings() -> MigrationSettings:
    """Read the settings from the environment.

    Raises:
        PermanentError: a variable is missing; the text names each.
    """
    try:
        return MigrationSettings()
    except ValidationError as error:
        missing = "; ".join(f"{_PREFIX}{item['loc'][0]}: {item['msg']}".upper() for item in error.errors())
        raise PermanentError(missing) from error


def migrate_on_deploy(
    event: Mapping[str, Any], settings: MigrationSettings, get_secret: Callable[[str], str]
) -> dict[str, Any]:
    """Act on a custom resource's event: migrate when the stack is made or changed, leave everything when it goes.

    Args:
        event: CloudFormation's, of which only the kind of request matters.
        settings: the migration's.
        get_secret: returns the text of a secret by its ARN.

    Raises:
        PermanentError: the database cannot be what a catalog needs.
        sqlalchemy.exc.SQLAlchemyError: the database failed; nothing of the migration is left.
    """
    if event["RequestType"] == "Delete":
        return {"PhysicalResourceId": event["PhysicalResourceId"]}
    password = str(json.loads(get_secret(settings.secret_arn))["password"])
    url = make_url(settings.database_url).set(password=password)
    engine = create_engine_for(url.render_as_string(hide_password=False))
    connect_with_patience(engine)
    try:
        left = migrate_catalog(engine, INDEX_SECONDS)
        with engine.begin() as connection:
            grant_user(connection, settings.user)
        revision = schema_revision(engine)
    finally:
        engine.dispose()
    if left:
        logger.warning("indexes_left", extra={"indexes": left})
    logger.info("catalog_migrated", extra={"revision": revision})
    return {"PhysicalResourceId": _RESOURCE, "Data": {"Revision": revision}}


def get_secret(arn: str, relay: str = "") -> str:
    """Return the text of a secret of Secrets Manager, through the function `relay` where that is named."""
    import boto3  # noqa: PLC0415  # a test has a secret of its own

    service = "secretsmanager"
    client: Any = RelayClient(build_lambda_client(), relay, service) if relay else boto3.client("secretsmanager")
    text: str = client.get_secret_value(SecretId=arn)["SecretString"]
    return text
