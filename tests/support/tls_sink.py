"""An S3-like server behind TLS that takes every object and keeps none: for what is measured, and for certificates."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

__all__ = ["TlsSink", "make_certificate"]

_ANSWER: Final = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\n\r\n'
_RECEIVE_BYTES: Final = 1 << 18


def make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate of it for 127.0.0.1; return authority, certificate and key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "sink")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    paths = (folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    for subject, key, path in zip(names, keys, paths[:2], strict=True):
        is_authority = subject is names[0]
        builder = x509.CertificateBuilder(names[0], subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        if not is_authority:
            addresses = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
            builder = builder.add_extension(addresses, critical=False)
        path.write_bytes(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[2].write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, *plain))
    return paths


class TlsSink:
    """Answers each request with 200 after its body; `objects` and `bytes` count what was put."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.objects = 0
        self.bytes = 0
        self._lock = threading.Lock()  # guards the counts
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError, EOFError),
            plain,
            self._context.wrap_socket(plain, server_side=True) as connection,
        ):
            reader = _Reader(connection)
            while True:
                self._answer(reader, connection)

    def _answer(self, reader: "_Reader", connection: ssl.SSLSocket) -> None:
        head = reader.take_until(b"\r\n\r\n").lower()
        if b"100-continue" in head:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        is_chunked = b"transfer-encoding: chunked" in head
        length = reader.skip_chunks() if is_chunked else reader.skip(_content_length(head))
        if head.startswith(b"put "):
            with self._lock:
                self.objects += 1
                self.bytes += length
        connection.sendall(_ANSWER)


class _Reader:
    """Takes requests apart, and forgets their bodies."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = b""

    def take_until(self, end: bytes) -> bytes:
        while end not in self._data:
            self._data += self._receive(_RECEIVE_BYTES)
        taken, _, self._data = self._data.partition(end)
        return taken

    def skip(self, length: int) -> int:
        left = length - len(self._data)
        self._data = self._data[length:]
        while left > 0:
            left -= len(self._receive(min(left, _RECEIVE_BYTES)))
        return length

    def skip_chunks(self) -> int:
        skipped = 0
        while size := int(self.take_until(b"\r\n"), 16):
            skipped += self.skip(size)
            self.skip(2)
        self.skip(2)
        return skipped

    def _receive(self, length: int) -> bytes:
        received = self._connection.recv(length)
        if not received:
            raise EOFError
        return received


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0
