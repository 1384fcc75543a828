"""The trail of an archive: nothing that was answered is missing in it."""

from typing import Any

import pytest
from sqlalchemy import Engine

from dicomflow.archive.access import Principal, Right
from dicomflow.archive.catalog.audit import CatalogAudit
from dicomflow.catalog.audit import list_audit_events
from dicomflow.errors import TransientError

ADA = Principal("web:ada", frozenset(Right))


def rows(engine: Engine) -> list[Any]:
    """Return actor, action, UID and details of the trail, the latest last."""
    with engine.connect() as connection:
        return [tuple(row)[1:] for row in reversed(list_audit_events(connection))]


def test_what_is_recorded_is_written_and_equal_rows_are_counted(engine: Engine):
    """A viewer's four hundred requests for one series are a row with their number."""
    audit = CatalogAudit(engine)
    for _ in range(400):
        audit.record(ADA, "archive_retrieve", "1.2.3", {"frames": 1})
    audit.record(ADA, "archive_query", None, {"level": "study"})
    audit.close()
    found = rows(engine)
    assert 401 == sum(details.get("times", 1) for _, _, _, details in found)
    assert {("web:ada", "archive_retrieve", "1.2.3"), ("web:ada", "archive_query", None)} == {row[:3] for row in found}
    with pytest.raises(TransientError):
        audit.record(ADA, "archive_query", None, {})


def test_catalog_that_takes_no_rows_gets_them_later(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Rows wait, nothing is answered when too many do, and in the end all are written."""
    monkeypatch.setattr("dicomflow.archive.catalog.audit._MOST_WAITING", 3)
    monkeypatch.setattr("dicomflow.archive.catalog.audit._AGAIN_SECONDS", 0.01)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit_event RENAME TO gone")
    audit = CatalogAudit(engine)
    recorded = sum(_is_recorded(audit, number) for number in range(50))
    assert 3 <= recorded < 50
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO audit_event")
    assert audit.flush()
    audit.close()
    assert recorded == len(rows(engine))


def _is_recorded(audit: CatalogAudit, number: int) -> bool:
    try:
        audit.record(ADA, "archive_query", f"1.{number}", {})
    except TransientError:
        return False
    return True
