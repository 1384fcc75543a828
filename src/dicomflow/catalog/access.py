"""Who may use the catalog beside its owner: a user that reads and writes rows, and neither makes nor drops a table."""

from typing import Final

from sqlalchemy import DDL, Connection, column, select, table

from dicomflow.errors import PermanentError

__all__ = ["IAM_ROLE", "grant_user"]

IAM_ROLE: Final = "rds_iam"
"""Members of this role of Aurora's prove themselves by a token of AWS IAM, and by nothing else."""

_GRANTS: Final = (
    "GRANT USAGE ON SCHEMA public TO {user}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {user}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {user}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {user}",
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
        ddl = DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]  # SQLAlchemy's own has no types
        connection.execute(ddl)


def _has_role(connection: Connection, role: str) -> bool:
    roles = table("pg_roles", column("rolname"))
    return connection.execute(select(roles).where(roles.c.rolname == role)).first() is not None
