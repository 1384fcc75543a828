"""Settings: what is unknown, missing or out of range stops the program, with its name and without its value."""

import pytest

from dicomflow.errors import PermanentError
from dicomflow.pipeline.settings import load_settings

COMPLETE = {
    "DICOMFLOW_DATABASE_URL": "postgresql://user:secret@host/catalog",
    "DICOMFLOW_STORE_URL": "s3://images",
    "DICOMFLOW_IMPORTS__DATASTORE_ID": "0" * 32,
    "DICOMFLOW_IMPORTS__DATA_ACCESS_ROLE_ARN": "arn:aws:iam::123456789012:role/import",
}


@pytest.fixture(autouse=True)
def _complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from settings that suffice."""
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)


def test_settings_from_the_environment_are_read(monkeypatch: pytest.MonkeyPatch):
    """Nested names, lists and numbers arrive as what they are."""
    monkeypatch.setenv("DICOMFLOW_QUEUES__DRIVE", "https://queue/drive")
    monkeypatch.setenv("DICOMFLOW_IMPORTS__CONCURRENT", "20")
    monkeypatch.setenv("DICOMFLOW_IMPORTS__STAT_AE_TITLES", '["EMERGENCY"]')
    settings = load_settings()
    assert {"drive": "https://queue/drive"} == settings.queues.urls()
    assert (20, frozenset({"EMERGENCY"})) == (settings.imports.concurrent, settings.imports.stat_ae_titles)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "name", ["DICOMFLOW_DATABASE", "DICOMFLOW_QUEUES__DRIV", "DICOMFLOW_IMPORTS__X", "DICOMFLOW_STORE_URL__X"]
)
def test_unknown_variable_stops_the_program(monkeypatch: pytest.MonkeyPatch, name: str):
    """A misspelt name is not passed over."""
    monkeypatch.setenv(name, "value")
    with pytest.raises(PermanentError, match=f"unknown environment variable {name}:"):
        load_settings()


@pytest.mark.parametrize("name", ["DICOMFLOW_EDGE__DIMSE__PORT", "DICOMFLOW_LOG_LEVEL"])
def test_variable_of_another_program_is_left_to_it(monkeypatch: pytest.MonkeyPatch, name: str):
    """The edge and the command line have settings of their own."""
    monkeypatch.setenv(name, "1")
    load_settings()


@pytest.mark.parametrize("name", ["DICOMFLOW_DATABASE_URL", "DICOMFLOW_STORE_URL"])
def test_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str):
    """What is needed and not there is named as it is to be set."""
    monkeypatch.delenv(name)
    with pytest.raises(PermanentError, match=name):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DICOMFLOW_STORE_URL", "http://images"),
        ("DICOMFLOW_STORE_URL", "s3://images/prefix"),
        ("DICOMFLOW_IMPORTS__CONCURRENT", "0"),
        ("DICOMFLOW_IMPORTS__DATASTORE_ID", "short"),
    ],
)
def test_value_out_of_range_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    """The text names the variable; the value may be a secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(PermanentError, match=name) as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_datastore_is_needed_only_for_imports(monkeypatch: pytest.MonkeyPatch):
    """With imports off, no data store and no role are asked for."""
    monkeypatch.delenv("DICOMFLOW_IMPORTS__DATASTORE_ID")
    with pytest.raises(PermanentError, match="DICOMFLOW_IMPORTS__DATASTORE_ID"):
        load_settings()
    monkeypatch.setenv("DICOMFLOW_IMPORTS__ENABLED", "false")
    assert not load_settings().imports.enabled
