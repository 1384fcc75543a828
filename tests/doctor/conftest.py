"""Call `dicomflow doctor`, and the set-ups that it looks at."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dicomflow import cli
from dicomflow.doctor import machine

Findings = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, restore_logging: None) -> None:
    """Keep the settings of whoever runs the tests out of them, and what file system it is on."""
    monkeypatch.setattr(machine, "lacks_journal", lambda _: False)
    for name in ("DICOMFLOW_DATABASE_URL", "DICOMFLOW_STORE_URL", "DICOMFLOW_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Findings]]:
    """Run the command with `--json`; give its exit code and the findings by name."""

    def _doctor(*arguments: object) -> tuple[int, Findings]:
        code = cli.run(["doctor", *map(str, arguments), "--json"])
        output = capsys.readouterr()
        findings = json.loads(output.out)
        assert all(each["advice"] for each in findings if each["state"] != "ok"), "each says what to do"
        return code, {each["name"]: each for each in findings}

    return _doctor


@pytest.fixture
def edge_toml(tmp_path: Path) -> Callable[..., Path]:
    """Write settings of an edge with a folder as store and free ports; sections are added as given."""

    def _edge_toml(extra: str = "", *, dimse: str = "port = 0", spool: str = "", delivery: str | None = None) -> Path:
        path = tmp_path / "edge.toml"
        store = delivery or f'store_url = "{(tmp_path / "objects").as_uri()}"'
        spool = spool or f'dir = "{tmp_path / "spool"}"\nslow_below_bytes = 0\nrefuse_below_bytes = 0'
        path.write_text(
            f'name = "site-1"\nhttp_port = 0\n[dimse]\n{dimse}\n[spool]\n{spool}\n[delivery]\n{store}\n{extra}\n'
        )
        return path

    return _edge_toml


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[float], tuple[Path, Path]]:
    """Make a certificate that is valid for some days from now, and its key."""

    def _certificate(days: float) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
        now = dt.datetime.now(dt.UTC)
        signed = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=100))
            .not_valid_after(now + dt.timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        paths = tmp_path / "edge.pem", tmp_path / "edge.key"
        paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        paths[1].write_bytes(encoded)
        return paths

    return _certificate
