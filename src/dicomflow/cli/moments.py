"""Points in time for people: in UTC, as logs and catalog have them, and beside it what the clock on the wall says."""

from datetime import UTC, datetime

__all__ = ["moment"]


def moment(at: datetime) -> str:
    """Return a point in time to the second; where this machine's zone is not UTC with its own time in brackets."""
    written = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    local = at.astimezone()
    if not local.utcoffset():
        return written
    form = "%H:%M:%S" if local.date() == at.astimezone(UTC).date() else "%a %H:%M:%S"
    return f"{written} ({local.strftime(form)} here)"
