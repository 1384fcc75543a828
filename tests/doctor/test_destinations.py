"""Call `dicomflow doctor` with destinations: each is asked, none gets an image, and nothing is left at any."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stow_origin import StowOrigin
from transfer_site import Pacs

from dicomflow.dicom.uids import VERIFICATION


@pytest.fixture
def origin() -> Iterator[StowOrigin]:
    """Give an origin."""
    with contextlib.closing(StowOrigin()) as started:
        yield started


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """Give a node that answers C-ECHO."""
    with contextlib.closing(Pacs(classes=(VERIFICATION,))) as started:
        yield started


def _destinations(pacs: Pacs, origin: StowOrigin, store: Path, *, required: bool = True) -> str:
    word = f"required = {str(required).lower()}"
    return f"""
[destinations.PACS]
host = "127.0.0.1"
port = {pacs.port}
ae_title = "PACS"
{word}
[destinations.RESEARCH]
kind = "store"
url = "{store.as_uri()}"
prefix = "copies"
{word}
[destinations.WEB]
kind = "stow"
url = "{origin.url}"
{word}
"""


def _told(findings: Any) -> dict[str, str]:
    return {name: each["state"] for name, each in findings.items() if name.startswith("to ")}


def test_destinations_that_answer_are_well(
    doctor: Any, edge_toml: Any, pacs: Pacs, origin: StowOrigin, tmp_path: Path
) -> None:
    """A C-ECHO, a put, and OPTIONS; no object, image or folder stays."""
    store = tmp_path / "research"
    code, findings = doctor("--quick", "--config", edge_toml(_destinations(pacs, origin, store)))
    assert _told(findings) == {"to PACS": "ok", "to RESEARCH": "ok", "to WEB": "ok"}, findings
    assert code == 0
    assert "C-ECHO is answered 0000" in findings["to PACS"]["text"]
    assert not store.exists()
    assert not pacs.taken
    assert origin.requests == []


@pytest.mark.parametrize(("state", "exit_code"), [("failed", 1), ("warning", 0)])
def test_destinations_that_cannot_be_used_are_told_each(
    doctor: Any, edge_toml: Any, pacs: Pacs, origin: StowOrigin, tmp_path: Path, state: str, exit_code: int
) -> None:
    """A node that is away, a folder that cannot be, an origin that refuses: one stops no other; optional ones warn."""
    (tmp_path / "file").write_bytes(b"")
    pacs.close()
    origin.statuses = [401]
    settings = _destinations(pacs, origin, tmp_path / "file" / "store", required=state == "failed")
    code, findings = doctor("--quick", "--config", edge_toml(settings))
    assert _told(findings) == {"to PACS": state, "to RESEARCH": state, "to WEB": state}, findings
    assert code == exit_code
    assert "401" in findings["to WEB"]["text"]
    assert "authorization_file" in findings["to WEB"]["advice"]


def test_origin_without_options_is_there_and_one_without_studies_is_doubted(
    doctor: Any, edge_toml: Any, pacs: Pacs, origin: StowOrigin, tmp_path: Path
) -> None:
    """Not every origin knows the method; one that has nothing at that URL may be another one."""
    settings = edge_toml(_destinations(pacs, origin, tmp_path / "research"))
    origin.statuses = [501, 404]
    states = [doctor("--quick", "--config", settings)[1]["to WEB"]["state"] for _ in range(2)]
    assert states == ["ok", "warning"]
