"""Settings: the file, the environment above it, and nothing unknown in either."""

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicomflow.edge.settings import EdgeSettings, load_settings
from dicomflow.errors import PermanentError

Load = Callable[[str], EdgeSettings]
MINIMAL = 'name = "site-1"\n[spool]\ndir = "/var/spool/dicomflow"\n[delivery]\nstore_url = "s3://bucket"\n'


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load settings from the text of a file."""

    def _load(text: str) -> EdgeSettings:
        path = tmp_path / "edge.toml"
        path.write_text(text)
        return load_settings(path)

    return _load


def test_minimal_file_gives_the_documented_defaults(load: Load):
    """Name, spool folder and store are enough; the rest has its default."""
    settings = load(MINIMAL)
    assert ("DICOMFLOW", 11112, 200) == (
        settings.dimse.ae_title,
        settings.dimse.port,
        settings.dimse.max_associations,
    )
    assert settings.spool.fsync
    assert ((), (), ()) == (
        settings.dimse.called_ae_titles,
        settings.dimse.calling_ae_titles,
        settings.dimse.networks,
    )


def test_environment_stands_above_the_file(load: Load, monkeypatch: pytest.MonkeyPatch):
    """A variable replaces the file's value and leaves its neighbours; lists are JSON, case does not matter."""
    monkeypatch.setenv("DICOMFLOW_EDGE__DIMSE__PORT", "104")
    monkeypatch.setenv("dicomflow_edge__dimse__networks", '["10.0.0.0/8"]')
    monkeypatch.setenv("DICOMFLOW_EDGE__NAME", "site-2")
    settings = load(MINIMAL + '[dimse]\nport = 4242\nae_title = "EDGE"\n')
    assert ("site-2", 104, "EDGE", (IPv4Network("10.0.0.0/8"),)) == (
        settings.name,
        settings.dimse.port,
        settings.dimse.ae_title,
        settings.dimse.networks,
    )


def test_environment_alone_gives_a_missing_key(load: Load, monkeypatch: pytest.MonkeyPatch):
    """A key that the file leaves out may come from the environment."""
    monkeypatch.setenv("DICOMFLOW_EDGE__SPOOL__DIR", "/data/spool")
    settings = load('name = "a"\n[delivery]\nstore_url = "s3://bucket"\n')
    assert Path("/data/spool") == settings.spool.dir


@pytest.mark.parametrize(
    "variable",
    [
        "DICOMFLOW_EDGE__DIMSE__PROT",
        "DICOMFLOW_EDGE__PORT",
        "DICOMFLOW_EDGE__DIMSE__TLS__PROT",
        "DICOMFLOW_EDGE__DIMSE__PORT__X",
        "DICOMFLOW_EDGE_NAME",
        "dicomflow_edge__nmae",
    ],
)
def test_unknown_variable_stops_the_program(load: Load, monkeypatch: pytest.MonkeyPatch, variable: str):
    """A misspelt variable is named instead of being ignored."""
    monkeypatch.setenv(variable, "1")
    with pytest.raises(PermanentError, match=f"unknown environment variable {variable}"):
        load(MINIMAL)


def test_variable_of_another_program_is_left_alone(load: Load, monkeypatch: pytest.MonkeyPatch):
    """Only the edge's own prefix is looked at."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", "sqlite:///x")
    assert "site-1" == load(MINIMAL).name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (MINIMAL.replace("name =", "nmae ="), "nmae"),
        (MINIMAL + "[dimse]\nprot = 104\n", "dimse.prot"),
        (MINIMAL + '[dimse.tls]\ncertificate = "a"\nkey = "b"\nca = "c"\n', "dimse.tls.ca"),
        (MINIMAL + "[extra]\n", "extra"),
        ('name = "a"\n', "spool"),
        (MINIMAL.replace("site-1", "../up"), "name"),
        (MINIMAL + "[dimse]\nport = 70000\n", "dimse.port"),
        (MINIMAL + '[dimse]\nae_title = "SEVENTEEN LETTERS"\n', "dimse.ae_title"),
        (MINIMAL + "[dimse]\nae_title = 'BACK\\SLASH'\n", "dimse.ae_title"),
        (MINIMAL + '[dimse]\ncalling_ae_titles = ["  "]\n', "dimse.calling_ae_titles.0"),
        (MINIMAL + '[dimse]\nnetworks = ["10.0.0.1/8"]\n', "dimse.networks.0"),
        (MINIMAL + "[dimse]\nmax_pdu_bytes = 6\n", "dimse: "),
        (MINIMAL + "[commitment]\nlevel = 'maybe'\n", "commitment.level"),
        (MINIMAL.replace("[delivery]", "slow_below_bytes = 1\nrefuse_below_bytes = 2\n[delivery]"), "spool"),
        (MINIMAL + "max_files = 5001\n", "delivery.max_files"),
    ],
)
def test_wrong_file_is_refused_and_the_key_named(load: Load, text: str, named: str):
    """Unknown and missing keys and values out of range stop the program with the key's name."""
    with pytest.raises(PermanentError) as raised:
        load(text)
    assert named in str(raised.value)


@pytest.mark.parametrize("name", ["manifests", "imports", "status", "outbound", "Returns", "STATUS."])
def test_name_that_the_bucket_has_for_something_else_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch, name: str):
    """No images are acknowledged under it, whether it is the file's or the environment's, in any case."""
    with pytest.raises(PermanentError, match=f"name: .*'{name}' is reserved.* no edge is called .*manifests"):
        load(MINIMAL.replace("site-1", name))
    monkeypatch.setenv("DICOMFLOW_EDGE__NAME", name)
    with pytest.raises(PermanentError, match=f"'{name}' is reserved"):
        load(MINIMAL)


@pytest.mark.parametrize("text", ["name = ", "\x00", "a = 1\na = 2\n"])
def test_file_that_is_no_toml_is_refused(load: Load, text: str):
    """A broken file is named."""
    with pytest.raises(PermanentError, match=r"edge\.toml is no TOML"):
        load(text)


def test_missing_file_is_refused(tmp_path: Path):
    """The path that cannot be read is named."""
    with pytest.raises(PermanentError, match=r"cannot read .*none\.toml: No such file"):
        load_settings(tmp_path / "none.toml")


def test_settings_are_frozen(load: Load):
    """What was read at start stays."""
    settings = load(MINIMAL)
    with pytest.raises(ValidationError):
        settings.dimse.port = 1


def test_ae_titles_are_stripped(load: Load):
    """Spaces around a title carry no meaning (PS3.5 6.2)."""
    assert ("CT1", "CT 2") == load(MINIMAL + '[dimse]\ncalling_ae_titles = [" CT1 ", "CT 2"]\n').dimse.calling_ae_titles


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("[dimse]\nport = 8080\n", False),
        ("[dimse]\ntls = {port = 11112, certificate = '/c', key = '/k'}\n", False),
        ("[dimse]\ntls = {port = 8080, certificate = '/c', key = '/k'}\n", False),
        ("[dimse]\nport = 8080\nbind = '127.0.0.1'\n", False),
        ("[dimse]\nport = 8080\nbind = '10.1.2.3'\n", True),
        ("http_port = 0\n[dimse]\nport = 0\ntls = {port = 0, certificate = '/c', key = '/k'}\n", True),
    ],
)
def test_listeners_of_one_port_are_refused(load: Load, text: str, *, is_taken: bool):
    """Two listeners of an address need two ports: that is said before the second fails to start; 0 is any free one."""
    head, _, tables = text.partition("[dimse]")
    document = f"{head}{MINIMAL}[dimse]{tables}"
    if is_taken:
        load(document)
        return
    with pytest.raises(PermanentError, match=r"both (8080|11112): each listener needs its own"):
        load(document)
