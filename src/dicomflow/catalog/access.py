"""Who may use the catalog beside its owner: a user that reads and writes rows, and neither makes nor drops a table.

And who reads the sample's views alone: members of the role `READERS`.
"""

import logging
from typing import Final

from sqlalchemy import DDL, Connection, column, select, table
from sqlalchemy.exc import DBAPIError

from dicomflow.catalog.seed import SCHEMA
from dicomflow.errors import PermanentError

__all__ = ["IAM_ROLE", "READERS", "grant_readers", "grant_user"]

logger = logging.getLogger(__name__)

READERS: Final = "dicomflow_seed_reader"
"""A role without a login, whose members read the views of the schema `seed` and nothing else."""

IAM_ROLE: Final = "rds_iam"
"""Members of this role of Aurora's prove themselves by a token of AWS IAM, and by nothing else."""

_GRANTS: Final = (
    "GRANT USAGE ON SCHEMA public TO {user}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {user}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {user}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {user}",
    f"GRANT USAGE ON SCHEMA {SCHEMA} TO {{user}}",
    f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {{user}}",
    # Which revision the schema has is the owner's to write.
    "REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {user}",
)


def grant_user(connection: Connection, user: str) -> None:
    """Make a user that proves itself by IAM, if it is not there, and give it the rows; a repeat changes nothing.

    Raises:
        PermanentError: the database has no users of its own, or knows no IAM.
    """
    if connection.dialect.name != "postgresql":
        raise PermanentError(f"a catalog on {connection.dialect.name} has no users")
    if not _has_role(connection, IAM_ROLE):
        raise PermanentError(f"the database has no role {IAM_ROLE}: turn IAM authentication on")
    name = connection.dialect.identifier_preparer.quote_identifier(user)
    statements = [f"GRANT {IAM_ROLE} TO {name}", *(grant.format(user=name) for grant in _GRANTS)]
    if not _has_role(connection, user):
        statements.insert(0, f"CREATE ROLE {name} LOGIN")
    for statement in statements:
        _run(connection, statement)


def grant_readers(connection: Connection) -> None:
    """Let the members of `READERS` read the sample's views; the role is made where this user may make one.

    Views are made anew by each migration, and rights go with them: this is called each time.
    """
    if not _has_role(connection, READERS):
        try:
            with connection.begin_nested():
                _run(connection, f"CREATE ROLE {READERS} NOLOGIN")
        except DBAPIError:  # it may not, or another catalog on the server was first
            if not _has_role(connection, READERS):
                logger.info("readers_not_made", extra={"role": READERS})
                return
    _run(connection, f"GRANT USAGE ON SCHEMA {SCHEMA} TO {READERS}")
    _run(connection, f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {READERS}")


def _run(connection: Connection, statement: str) -> None:
    ddl = DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]  # SQLAlchemy's own has no types
    connection.execute(ddl)


def _has_role(connection: Connection, role: str) -> bool:
    roles = table("pg_roles", column("rolname"))
    return connection.execute(select(roles).where(roles.c.rolname == role)).first() is not None
