"""`dicomflow worker`: called wrongly it says so; the rest is held by the pipeline's tests."""

from collections.abc import Callable

import pytest

Run = Callable[..., tuple[int, str, str]]


def test_unknown_queue_is_a_wrong_call(run: Run):
    """A queue that does not exist is named."""
    code, _, errors = run("worker", "--queue", "indx")
    assert 2 == code
    assert "there is no queue 'indx'" in errors


def test_queue_without_a_url_is_a_wrong_call(run: Run, monkeypatch: pytest.MonkeyPatch):
    """The setting that is missing is named."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", "sqlite:///nowhere.db")
    monkeypatch.setenv("DICOMFLOW_STORE_URL", "s3://images")
    monkeypatch.setenv("DICOMFLOW_IMPORTS__ENABLED", "false")
    code, _, errors = run("worker", "--queue", "index")
    assert 2 == code
    assert "DICOMFLOW_QUEUES__INDEX is not set" in errors
