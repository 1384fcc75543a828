"""The conformance statement of one edge has its own roles, peers and limits."""

from pathlib import Path

import pytest

from dicomflow import cli
from dicomflow.edge.conformance_site import statement_of
from dicomflow.edge.settings import build_settings

DOCUMENT = {
    "name": "edge-1",
    "dimse": {"ae_title": "EDGE1", "port": 104, "calling_ae_titles": ["CT1"], "max_associations_per_ae_title": 7},
    "spool": {"dir": "spool"},
    "delivery": {"store_url": "s3://bucket"},
    "commitment": {"peers": {"CT1": {"host": "10.0.0.5", "port": 105}}},
    "destinations": {"pacs": {"host": "pacs.example", "port": 11112, "ae_title": "PACS", "commitment": True}},
    "sources": {"old": {"host": "old.example", "port": 4242, "ae_title": "OLD", "move_destination": "EDGE1"}},
}


def test_statement_of_an_edge_has_its_roles_as_scu_and_scp():
    """Each peer of the settings has its row, and nothing else has."""
    text = statement_of(build_settings(DOCUMENT, "edge.toml"))
    rows = [line for line in text.splitlines() if ("| SCP |" in line or "| SCU |" in line) and "| UID |" not in line]
    assert [
        "| Verification | SCP | CT1 | C-ECHO |",
        "| Storage | SCP | CT1 | every storage SOP class; 0000 when the instance is durable |",
        "| Storage Commitment Push Model | SCP | CT1 | level stored; reports to 10.0.0.5 port 105 |",
        "| Storage | SCU | PACS at pacs.example port 11112 | destination pacs, up to 2 associations |",
        "| Storage Commitment Push Model | SCU | PACS at pacs.example port 11112 | destination pacs, within 24 h |",
        "| Query/Retrieve, Study Root: C-FIND | SCU | OLD at old.example port 4242 | source old |",
        "| Query/Retrieve, Study Root: C-MOVE to EDGE1 | SCU | OLD at old.example port 4242 | source old |",
    ] == rows
    assert "| Port | 104 on 0.0.0.0 |" in text
    assert "| Associations of one AE title | 7 |" in text


def test_every_class_and_syntax_of_a_statement_has_a_name():
    """A row that names nothing helps nobody."""
    text = statement_of(build_settings(DOCUMENT, "edge.toml"))
    assert "Zeiss OPT File (retired)" in text
    assert [] == [line for line in text.splitlines() if line.startswith("|  |")]


def test_statement_is_written_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """To standard output, for a file."""
    config = tmp_path / "edge.toml"
    config.write_text('name = "edge-1"\n[spool]\ndir = "spool"\n[delivery]\nstore_url = "s3://bucket"\n')
    assert 0 == cli.run(["conformance", "--config", str(config)])
    assert capsys.readouterr().out.startswith("# DICOM conformance statement of the edge edge-1\n")
