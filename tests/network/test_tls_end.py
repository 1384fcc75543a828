"""The end of an association over TLS: whoever ends it and when, nothing goes over the line in the clear."""

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from cryptography.hazmat.primitives import serialization
from flawed_requests import FLAWED_COMMANDS, request
from tls_client import TlsClient

from dicomflow.dimse.message import encode_message
from dicomflow.dimse.pdu import encode_release_request
from dicomflow.errors import PermanentError
from dicomflow.network.settings import TlsSettings
from dicomflow.network.tls import TlsContexts

A_ABORT = bytes.fromhex("07 00 00000004 00000000")
COMMAND = FLAWED_COMMANDS["no priority"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give the authority that the edge's certificate is from."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> TlsSettings:
    """Give the settings of a TLS listener."""
    identity = authority.issue("edge")
    return TlsSettings(port=0, certificate=identity.certificate, key=identity.key)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls12", "tls13"])
def connect(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Callable[[int], TlsClient]]:
    """Connect clients of one version of TLS."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.minimum_version = context.maximum_version = request.param
    opened: list[TlsClient] = []

    def _connect(port: int) -> TlsClient:
        opened.append(TlsClient(port, context))
        return opened[-1]

    yield _connect
    for each in opened:
        each.socket.close()


def associated(client: TlsClient) -> TlsClient:
    """Associate."""
    client.sendall(request())
    head = client.read(6)
    assert 2 == head[0]
    client.read(int.from_bytes(head[2:], "big"))
    return client


def test_stop_aborts_an_idle_association_within_tls(receiver_with: Any, tls: TlsSettings, connect: Any):
    """A-ABORT comes as TLS, and nothing else does."""
    receiver = receiver_with(tls=tls)
    client = associated(connect(receiver.port))
    receiver.drain()
    assert A_ABORT == client.rest()
    assert client.is_all_tls()


def test_stop_while_an_object_is_synced_answers_it_within_tls(
    receiver_with: Any, tls: TlsSettings, connect: Any, data_set: Any, monkeypatch: pytest.MonkeyPatch
):
    """The response to the object whose commit was under way is encrypted: it holds UIDs."""
    synced, syncing = threading.Event(), threading.Event()
    original = os.fdatasync

    def _fdatasync(descriptor: int) -> None:
        syncing.set()
        synced.wait(5)
        original(descriptor)

    receiver = receiver_with(tls=tls)
    client = associated(connect(receiver.port))
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, _fdatasync)
    client.sendall(encode_message(1, COMMAND, 16384, data_set()))
    assert syncing.wait(5)
    stopping = threading.Thread(target=receiver.drain)
    stopping.start()
    receiver.draining.wait(5)
    (association,) = receiver._connections._associations
    association.wake()
    synced.set()
    rest = client.rest()
    stopping.join()
    assert 0x04 == rest[0]
    assert rest.endswith(A_ABORT)
    assert b"1.2.3.4" in rest
    assert client.is_all_tls()
    assert b"1.2.3.4" not in client.raw


@pytest.mark.parametrize("how", ["before the request", "within the request", "within an object", "released"])
def test_whenever_it_is_cut_nothing_is_in_the_clear(
    receiver_with: Any, tls: TlsSettings, connect: Any, data_set: Any, how: str
):
    """At a stop that cuts, in whatever state."""
    receiver = receiver_with(tls=tls)
    client = connect(receiver.port)
    if how == "within the request":
        client.sendall(request()[:50])
    elif how != "before the request":
        associated(client)
    if how == "within an object":
        client.sendall(encode_message(1, COMMAND, 16384, data_set())[:300])
    elif how == "released":
        client.sendall(encode_release_request())
        assert b"\6" == client.read(10)[:1]
    receiver.drain(0.2)
    client.rest()
    assert client.is_all_tls()


def test_idle_association_is_aborted_within_tls(receiver_with: Any, tls: TlsSettings, connect: Any):
    """An abort of ours that no stop is behind."""
    client = associated(connect(receiver_with(tls=tls, idle_seconds=0.1).port))
    assert A_ABORT == client.rest()
    assert client.is_all_tls()


def test_encrypted_key_is_refused_and_nobody_is_asked(authority: Authority, tmp_path: Path):
    """A key with a passphrase is no reason to wait at a terminal for one."""
    identity = authority.issue("locked")
    key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(PermanentError, match="do not load"):
        TlsContexts(TlsSettings(port=0, certificate=identity.certificate, key=locked))
