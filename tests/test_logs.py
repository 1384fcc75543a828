"""Log lines, as text and as JSON."""

import json
import logging
from datetime import datetime

import pytest

from dicomflow import logs


@pytest.fixture(autouse=True)
def _logging(restore_logging: None) -> None:
    """Leave logging as it was found."""


def test_text_line_has_time_level_logger_and_fields(capsys: pytest.CaptureFixture[str]):
    """A line of text ends with the fields given as extra."""
    logs.configure("INFO")
    logging.getLogger("dicomflow.x").info("stored bytes=%d", 7, extra={"association": "a1"})
    moment, rest = capsys.readouterr().err.split(" ", 1)
    assert datetime.fromisoformat(moment).tzinfo is not None
    assert "INFO dicomflow.x stored bytes=7 association=a1\n" == rest


def test_json_line_is_one_object_with_the_fields(capsys: pytest.CaptureFixture[str]):
    """A line of JSON has the fields as members, and a traceback as one."""
    logs.configure("INFO", as_json=True)
    try:
        int("x\ny")
    except ValueError:
        logging.getLogger("dicomflow.x").exception("failed", extra={"association": "a1"})
    (line,) = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert ("ERROR", "dicomflow.x", "failed", "a1") == tuple(
        document[name] for name in ("level", "logger", "message", "association")
    )
    assert "ValueError" in document["traceback"]


def test_level_hides_what_is_below_it(capsys: pytest.CaptureFixture[str]):
    """Nothing below the level is written, and libraries say only what is a warning."""
    logs.configure("INFO")
    logging.getLogger("dicomflow.x").debug("hidden")
    logging.getLogger("pynetdicom.acse").info("hidden")
    logging.getLogger("pynetdicom.acse").warning("shown")
    assert "hidden" not in (errors := capsys.readouterr().err)
    assert 1 == len(errors.splitlines())
