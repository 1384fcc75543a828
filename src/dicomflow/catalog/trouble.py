"""What a database's error means for whoever runs a command, and what to do. Shows no value of a row, and no URL."""

from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from dicomflow.errors import DicomflowError, PermanentError, TransientError

__all__ = ["explained"]

# What SQLite says of a file that is none of its own, or not whole.
_NO_CATALOG: Final = {
    "file is not a database": "is no SQLite database",
    "file is encrypted": "is no SQLite database",
    "database disk image is malformed": "is damaged",
}
_RESTORE: Final = (
    "restore it from a backup, or move it away: `dicomflow local` makes a new one, and takes in what the bucket has"
)
_AWAY: Final = "see that the database runs, and correct host, port, name and user in DICOMFLOW_DATABASE_URL"
# PostgreSQL, appendix A: classes of states in which the server refuses to be used, as a wrong password or name.
_REFUSED_CLASSES: Final = ("08", "28", "3D", "53", "57")


def explained(error: Exception, url: URL | None = None) -> DicomflowError | None:
    """Return a database's error as one of ours with what to do; None for one that is not the user's to mend.

    Args:
        error: as an engine of ours raises it, or the driver itself.
        url: of the engine, to name the file.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    if original is None or isinstance(original, DicomflowError):
        return None
    reason = str(original).strip().partition("\n")[0]
    where = (url.database if url is not None and url.get_backend_name() == "sqlite" else None) or "the catalog's file"
    for said, meaning in _NO_CATALOG.items():
        if said in reason:
            return PermanentError(f"{where} {meaning}: {_RESTORE}")
    if type(original).__name__ != "OperationalError" and not isinstance(error, OperationalError):
        return None
    sqlstate: str | None = getattr(original, "sqlstate", None)
    if type(original).__module__.startswith("psycopg") and (sqlstate or "08")[:2] in _REFUSED_CLASSES:
        return TransientError(f"the catalog does not answer: {reason}; {_AWAY}")
    return TransientError(f"the catalog cannot be used now: {reason}")
