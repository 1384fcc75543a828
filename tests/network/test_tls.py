"""The TLS listener: versions, client certificates, certificates that change, and DCMTK as a witness."""

import os
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Identity
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydicom import dcmread
from waiting import WAIT_SECONDS

from dicomflow import samples
from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.pdu import AssociateRequest, ProposedContext, encode_associate_request
from dicomflow.errors import PermanentError
from dicomflow.network.settings import TlsSettings
from dicomflow.network.tls import TlsContexts

REQUEST = encode_associate_request(
    AssociateRequest("ANY", "CT1", (ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),), 16384)
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give the authority that the edge's certificate is from."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    """Give the edge's certificate and key."""
    return authority.issue("edge")


@pytest.fixture
def tls_port(receiver_with: Callable[..., Any], server: Identity, authority: Authority) -> Callable[..., int]:
    """Start a receiver that speaks TLS; `demand` makes it ask for client certificates."""

    def _tls_port(*, demand: bool = False, identity: Identity = server) -> int:
        client_ca = authority.certificate if demand else None
        tls = TlsSettings(port=0, certificate=identity.certificate, key=identity.key, client_ca=client_ca)
        return int(receiver_with(tls=tls).port)

    return _tls_port


def client(authority: Authority, identity: Identity | None = None) -> ssl.SSLContext:
    """Return a context that verifies the edge, and shows a certificate when it has one."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


def associate(port: int, context: ssl.SSLContext) -> tuple[int, str, bytes]:
    """Ask for an association; return the type of the answer, the version of TLS, and the edge's certificate."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        secured.sendall(REQUEST)
        answer = secured.recv(1 << 16)
        return answer[0] if answer else 0, secured.version() or "", secured.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_accepted(tls_port: Any, authority: Authority, version: ssl.TLSVersion):
    """An association is accepted over both versions of the profile (PS3.15 B.12)."""
    context = client(authority)
    context.minimum_version = context.maximum_version = version
    assert (2, version.name.replace("_", ".")) == associate(tls_port(), context)[:2]


def test_tls_below_1_2_is_refused(tls_port: Any, authority: Authority):
    """A peer that offers TLS 1.1 at most is told that its version is not spoken."""
    context = client(authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):
        associate(tls_port(), context)


def test_cipher_suite_outside_the_profile_is_refused(tls_port: Any, authority: Authority):
    """A peer that offers only suites without authenticated encryption gets no connection."""
    context = client(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA")
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        associate(tls_port(), context)


def test_plain_association_on_the_tls_port_is_closed(tls_port: Any, ended_lines: Any):
    """One port never speaks both: a plain request gets no acceptance (PS3.8 9.1.1)."""
    with socket.create_connection(("127.0.0.1", tls_port()), timeout=WAIT_SECONDS) as plain:
        plain.sendall(REQUEST)
        try:
            answer = plain.recv(1 << 16)
        except ConnectionResetError:
            answer = b""
    assert answer[:1] in {b"", b"\x15"}  # nothing, or a TLS alert
    assert "transport failed" in ended_lines(1)[0]


def test_client_certificate_is_demanded_when_a_client_ca_is_set(
    tls_port: Any, authority: Authority, stranger: Authority
):
    """With client_ca none is refused, a stranger's is refused, and its own authority's is accepted."""
    port = tls_port(demand=True)
    for context in (client(authority), client(authority, stranger.issue("intruder"))):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            associate(port, context)
    assert 2 == associate(port, client(authority, authority.issue("modality")))[0]


def test_certificate_is_read_again_when_it_changes(tls_port: Any, authority: Authority, tmp_path: Path):
    """A renewed certificate is used for the next association, without a restart."""
    files = Identity(tmp_path / "edge.pem", tmp_path / "edge.key")
    first, second = authority.issue("first"), authority.issue("second")
    _replace(files, first)
    port = tls_port(identity=files)
    assert _der(first) == associate(port, client(authority))[2]
    _replace(files, second)
    assert _der(second) == associate(port, client(authority))[2]


def test_broken_certificate_leaves_the_old_one_in_force(tls_port: Any, authority: Authority, tmp_path: Path):
    """A half-written file is no reason to stop receiving; what was read last goes on."""
    files = Identity(tmp_path / "edge.pem", tmp_path / "edge.key")
    first = authority.issue("kept")
    _replace(files, first)
    port = tls_port(identity=files)
    files.certificate.write_text("-----BEGIN CERT")
    assert _der(first) == associate(port, client(authority))[2]


def test_certificate_that_a_new_worker_awaits_comes_into_force(authority: Authority, tmp_path: Path):
    """While the files do not fit there is no context and the edge says so; then there is, without a restart."""
    files = Identity(tmp_path / "edge.pem", tmp_path / "edge.key")
    contexts = TlsContexts(TlsSettings(port=0, certificate=files.certificate, key=files.key), may_wait=True)
    assert (None, 1) == (contexts.current(), contexts.look())
    _replace(files, authority.issue("late"))
    assert isinstance(contexts.current(), ssl.SSLContext)
    assert 0 == contexts.look()


def test_key_of_another_certificate_is_refused_at_start(authority: Authority, server: Identity):
    """A key that does not fit stops the edge at its start, with the names of the files."""
    other = authority.issue("other")
    with pytest.raises(PermanentError, match=r"dimse\.tls: .*edge\.pem.*other\.key"):
        TlsContexts(TlsSettings(port=0, certificate=server.certificate, key=other.key))


def dcmtk(authority: Authority, program: str, port: int, *files: Path) -> str:
    """Run one of DCMTK's programs: it verifies the edge and shows its certificate. Returns what it says."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"DCMTK's {program} is not installed (package dcmtk)")
    modality = authority.issue("dcmtk")
    command = [found, "-v", "+tls", modality.key, modality.certificate, "+cf", authority.certificate]
    result = subprocess.run(
        [*map(str, command), "127.0.0.1", str(port), *map(str, files)],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    assert 0 == result.returncode, result.stderr
    return result.stdout + result.stderr


@pytest.mark.interop
def test_echoscu_over_tls_succeeds(tls_port: Any, authority: Authority):
    """DCMTK's echoscu is answered."""
    assert "Received Echo Response (Success)" in dcmtk(authority, "echoscu", tls_port(demand=True))


@pytest.mark.interop
def test_storescu_over_tls_is_stored(receiver_with: Any, server: Identity, authority: Authority, tmp_path: Path):
    """DCMTK's storescu has a study stored, of which nothing went over the line in the clear."""
    files = samples.write(samples.ct_study(51, series=1, slices=4), tmp_path / "study")
    settings = TlsSettings(port=0, certificate=server.certificate, key=server.key, client_ca=authority.certificate)
    receiver = receiver_with(tls=settings)
    said = dcmtk(authority, "storescu", receiver.port, *files)
    assert 4 == said.count("Received Store Response (Success)")
    assert {path.stem for path in files} == {dcmread(BytesIO(stored)).SOPInstanceUID for stored in receiver.stored()}


def _replace(files: Identity, by: Identity) -> None:
    """Put a new pair in place as a renewal does: both files, then the names."""
    for source, target in ((by.key, files.key), (by.certificate, files.certificate)):
        temporary = target.with_suffix(".new")
        temporary.write_bytes(source.read_bytes())
        temporary.replace(target)


def _der(identity: Identity) -> bytes:
    return x509.load_pem_x509_certificate(identity.certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
