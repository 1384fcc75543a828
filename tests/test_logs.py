"""Log lines, as text and as JSON."""

import json
import logging
import warnings
from datetime import datetime

import pytest

from dicomflow import logs
from dicomflow.errors import TransientError


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


def test_text_line_stays_one_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]):
    """A line break in a file's name makes no second line, in which another could speak for us."""
    logs.configure("INFO")
    logging.getLogger("dicomflow.x").info("set_aside path=%s", "a\nERROR b", extra={"reason": "c\r\x1bd"})
    line = capsys.readouterr().err
    assert line.endswith("INFO dicomflow.x set_aside path=a\\x0aERROR b reason=c\\x0d\\x1bd\n")
    assert 1 == line.count("\n")


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


SECRET = "Hidden^Patient"


def fail(kind: str) -> None:
    """Raise an error that quotes a value, each in another way."""
    if kind == "value":
        int(SECRET)
    if kind == "key":
        {}[SECRET]
    if kind == "codec":
        f"{SECRET}\ud800".encode()
    if kind == "cause":
        try:
            int(SECRET)
        except ValueError as error:
            raise TransientError("the store did not answer") from error
    if kind == "context":
        try:
            {}[SECRET]
        except KeyError:
            raise OSError("the disk is full")  # noqa: B904  # the context is what is tried
    if kind == "group":
        raise ExceptionGroup("several", [ValueError(SECRET), ExceptionGroup(SECRET, [KeyError(SECRET)])])
    raise AssertionError(SECRET)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("kind", ["value", "key", "codec", "cause", "context", "group", "assertion"])
def test_traceback_quotes_no_value(capsys: pytest.CaptureFixture[str], kind: str, as_json: bool):  # noqa: FBT001  # a parameter of the test
    """Whatever an exception says, the log has where it came from and of what type it is, and no patient."""
    logs.configure("INFO", as_json=as_json)
    try:
        fail(kind)
    except (Exception, ExceptionGroup):
        logging.getLogger("dicomflow.x").exception("failed")
    written = capsys.readouterr().err
    assert SECRET not in written
    assert "in fail" in written
    for told in {"cause": ("ValueError", "the store did not answer"), "context": ("KeyError", "the disk is full")}.get(
        kind, ()
    ):
        assert told in written


def test_json_line_has_the_fields_of_its_message(capsys: pytest.CaptureFixture[str]):
    """What a message says as name=value is a member, numbers as numbers, so that lines can be joined and summed."""
    logs.configure("INFO", as_json=True)
    logger = logging.getLogger("dicomflow.x")
    logger.info("stored delivery=%s bytes=%d seconds=%.3f error=%s", "d1", 7, 0.12345, OSError("away"))
    logger.info("%s_failed attempt=%d", "commit", 2)
    logger.info("100%% of delivery=%s", "d2")
    logger.info("no fields %s=%s", "a", "b")
    logger.info("message=%s level=%s", "m", "l")
    first, second, third, fourth, fifth = map(json.loads, capsys.readouterr().err.splitlines())
    assert ("d1", 7, 0.12345, "away") == (first["delivery"], first["bytes"], first["seconds"], first["error"])
    assert "stored delivery=d1 bytes=7 seconds=0.123 error=away" == first["message"]
    assert ("commit_failed attempt=2", 2) == (second["message"], second["attempt"])
    assert ("100% of delivery=d2", "d2") == (third["message"], third["delivery"])
    assert {"at", "level", "logger", "message"} == fourth.keys()
    assert ("INFO", "message=m level=l") == (fifth["level"], fifth["message"])


def test_level_hides_what_is_below_it(capsys: pytest.CaptureFixture[str]):
    """Nothing below the level is written, and libraries say only what is a warning."""
    logs.configure("INFO")
    logging.getLogger("dicomflow.x").debug("hidden")
    logging.getLogger("pynetdicom.acse").info("hidden")
    logging.getLogger("pynetdicom.acse").warning("shown")
    assert "hidden" not in (errors := capsys.readouterr().err)
    assert 1 == len(errors.splitlines())


def test_what_libraries_say_of_values_is_not_logged(capsys: pytest.CaptureFixture[str]):
    """A warning of Python is a line without its text, and pydicom's own lines are none: both quote values."""
    logs.configure("DEBUG")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logs._log_warning  # pytest has put its own in the place
        warnings.warn("Invalid value for VR UI: 'DOE^JOHN'", UserWarning, stacklevel=1)
    logging.getLogger("pydicom").warning("Invalid value for VR UI: 'DOE^JOHN'")
    line = capsys.readouterr().err
    assert "DOE" not in line
    assert "python_warning category=UserWarning at=" in line
    assert 1 == line.count("\n")
