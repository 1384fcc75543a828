"""An invented hospital behind a console, for tests without a browser and with one."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hospital import Hospital, build_hospital
from obstore.store import LocalStore

from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.console.access import Access
from dicomflow.console.app import build_context, create_console
from dicomflow.serving import WebServer

SCREENSHOTS = os.environ.get("DICOMFLOW_TEST_SCREENSHOTS")
FORM_TOKEN = re.compile(r'name="csrf" value="([^"]+)"')


@pytest.fixture
def new_hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Hospital]]:
    """Build hospitals on SQLite, each in a folder of its own."""
    built = []

    def build(**options: Any) -> Hospital:
        built.append(_hospital(tmp_path_factory.mktemp("hospital"), **options))
        return built[-1]

    yield build
    for hospital in built:
        hospital.engine.dispose()


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Give a hospital whose rows no test changes, but for the audit trail."""
    large = {"slices": 40, "side": 320, "more": 60} if SCREENSHOTS else {"more": 30}
    built = _hospital(tmp_path_factory.mktemp("hospital"), **large)
    yield built
    built.engine.dispose()


def _hospital(folder: Path, **options: Any) -> Hospital:
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    store = LocalStore(folder / "objects", mkdir=True)
    # In a thread: the driver of the browser keeps an event loop running in the test's own.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(build_hospital, engine, store, datetime.now(UTC), **options).result()


class Client(httpx.Client):
    """Asks a console that runs; follows no redirection. `sent` has the messages to the pipeline."""

    def __init__(self, hospital: Hospital, access: Access, **options: Any) -> None:
        self.sent: list[tuple[str, str]] = []
        metrics, prepare = options.pop("metrics", {}), options.pop("prepare", None)
        context = build_context(hospital.engine, hospital.store, self._enqueue, metrics, **options)
        if prepare is not None:
            prepare(context)
        self._server = WebServer(create_console(context, access), "127.0.0.1", 0)
        self._server.start()
        self.url = f"{self._server.url}/"
        super().__init__(base_url=self.url, timeout=120)

    def _enqueue(self, queue: str, body: str) -> None:
        self.sent.append((queue, body))

    @property
    def woken(self) -> list[bool]:
        """Tell how often the pipeline's driver was woken."""
        return [True for queue, _ in self.sent if queue == "drive"]

    def close(self) -> None:
        """End the console too."""
        super().close()
        self._server.close()


@pytest.fixture
def client_of() -> Iterator[Callable[..., Client]]:
    """Serve consoles over hospitals, and give a client of each."""
    opened = []

    def build(hospital: Hospital, access: Access | None = None, **options: Any) -> Client:
        opened.append(Client(hospital, access or Access(), **options))
        return opened[-1]

    yield build
    for client in opened:
        client.close()


@pytest.fixture(scope="module")
def client(hospital: Hospital) -> Iterator[Client]:
    """Give a client on this machine, where nobody has to log in."""
    opened = Client(hospital, Access())
    yield opened
    opened.close()


@pytest.fixture
def token_of() -> Callable[[httpx.Client, str], str]:
    """Return the token of a page's forms."""

    def read(client: httpx.Client, path: str) -> str:
        found = FORM_TOKEN.search(client.get(path).text)
        assert found is not None
        return found[1]

    return read


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "console")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "certificate.pem", folder / "key.pem"
