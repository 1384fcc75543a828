"""`dicomflow deidentify`: copies by their new UIDs, a report without values, and what may not go."""

import json
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from dicomflow import samples

Run = Callable[..., tuple[int, str, str]]

_SECRET = "a secret of a site, long enough to be one"
_EDGE = f"""
name = "site-1"
site_secret = "{_SECRET}"
[spool]
dir = "spool"
[delivery]
store_url = "file:///nowhere"
[destinations.RESEARCH]
host = "127.0.0.1"
port = 104
ae_title = "RESEARCH"
[profiles.shifted]
options = ["shift_dates", "retain_patient_characteristics"]
lookup = "FOLDER/projects.csv"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return a folder with the demonstration's studies."""
    samples.write(samples.demo_studies(), tmp_path / "study")
    return tmp_path / "study"


def _copies(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


def test_copies_are_written_and_what_may_not_go_is_told(
    run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An ultrasound image and a private class are quarantined, and keep none of their neighbours."""
    monkeypatch.setenv("DICOMFLOW_SITE_SECRET", _SECRET)
    code, out, errors = run("deidentify", study, "--out", tmp_path / "copies", "--report")
    copies = _copies(tmp_path / "copies")
    assert (code, len(copies), len(errors.splitlines())) == (1, 16, 2)
    assert out.endswith("16 written, 2 quarantined\n")
    assert {"(0008,0050)", "AccessionNumber", "emptied", "mapped", "pseudonym"} <= set(out.split())
    for path, copy in zip(sorted((tmp_path / "copies").rglob("*.dcm")), copies, strict=True):
        parts = (copy.StudyInstanceUID, copy.SeriesInstanceUID, f"{copy.SOPInstanceUID}.dcm")
        assert path.relative_to(tmp_path / "copies").parts == parts


def test_report_has_no_value(run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was done to each attribute is told, and nothing that stood in one."""
    monkeypatch.setenv("DICOMFLOW_SITE_SECRET", _SECRET)
    _, out, _ = run("deidentify", study, "--out", tmp_path / "copies", "--report", "--json")
    document = json.loads(out)
    values = {str(each.value) for path in study.iterdir() for each in pydicom.dcmread(path) if each.tag.group <= 0x20}
    words = {word for row in document["attributes"] for word in map(str, row.values())}
    assert (document["written"], document["quarantined"]) == (16, 2)
    assert {"attribute": "(0010,0030)", "name": "PatientBirthDate", "done": "emptied", "objects": 16} in document[
        "attributes"
    ]
    assert {word for word in words & values if not word.isdigit()} == set()
    assert _SECRET not in out


def test_profile_and_domain_of_the_settings_are_taken(run: Run, study: Path, tmp_path: Path):
    """With `--config` and `--domain` the UIDs are those that the destination gets, and the patients the project's."""
    (tmp_path / "edge.toml").write_text(_EDGE.replace("FOLDER", str(tmp_path)))
    patients = {pydicom.dcmread(path).PatientID for path in study.iterdir()}
    (tmp_path / "projects.csv").write_text("".join(f"{each},P{n}\n" for n, each in enumerate(sorted(patients))))
    options = ["--config", tmp_path / "edge.toml", "--profile", "shifted"]
    run("deidentify", study, "--out", tmp_path / "1", *options, "--domain", "RESEARCH")
    run("deidentify", study, "--out", tmp_path / "2", *options, "--domain", "RESEARCH")
    run("deidentify", study, "--out", tmp_path / "3", *options)
    first, second, other = (_copies(tmp_path / name) for name in "123")
    assert [copy.SOPInstanceUID for copy in first] == [copy.SOPInstanceUID for copy in second]
    assert not {copy.SOPInstanceUID for copy in first} & {copy.SOPInstanceUID for copy in other}
    assert {copy.PatientID for copy in first} <= {"P0", "P1"}
    assert {copy.StudyDate < "20260131" for copy in first} == {True}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "nobodys"], "no profile 'nobodys': there are basic, shifted"),
        (["--domain", "NOBODY"], "is no destination of"),
        (["--profile", "shifted"], "the lookup table"),
    ],
)
def test_what_is_not_there_is_said(run: Run, study: Path, tmp_path: Path, options: list[str], words: str):
    """A profile, a destination or a lookup table that nobody has written stops the command with its name."""
    (tmp_path / "edge.toml").write_text(_EDGE.replace("FOLDER", str(tmp_path)))
    code, _, errors = run("deidentify", study, "--out", tmp_path / "out", "--config", tmp_path / "edge.toml", *options)
    assert code == 1
    assert words in errors


@pytest.mark.parametrize("secret", [None, "guessable"])
def test_secret_that_is_missing_or_short_stops_the_command(
    run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str | None
):
    """Without a secret anyone could find out whose UID it is."""
    monkeypatch.delenv("DICOMFLOW_SITE_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("DICOMFLOW_SITE_SECRET", secret)
    code, _, errors = run("deidentify", study, "--out", tmp_path / "copies")
    assert code == 1
    assert "secret" in errors
    assert "guessable" not in errors
    assert _copies(tmp_path / "copies") == []
