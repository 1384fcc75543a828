"""TLS for the second listener, and for a requestor: the BCP 195 profile of PS3.15 B.12.

The listener's certificates may change while it runs.

TLS 1.2 and 1.3 only, ECDHE with AES-GCM; the retired profiles are not offered. A client certificate is demanded
and verified when `client_ca` is set, else none is asked for.
"""

import logging
import ssl
import threading
from pathlib import Path
from typing import Final

from dicomflow.errors import PermanentError
from dicomflow.network.settings import ClientTls, TlsSettings
from dicomflow.regularfiles import NotRegularError, is_special

__all__ = ["CIPHERS", "TlsContexts", "client_context"]

# PS3.15 B.12 for TLS 1.2; the suites of TLS 1.3 are the library's, all of them AEAD.
CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
)

_logger = logging.getLogger(__name__)


class TlsContexts:
    """Gives the context for the next handshake, reading the files again after they changed. Any thread.

    Args:
        settings: where the files are.
        may_wait: whether files that do not fit are waited for: of an edge that runs, they end no worker that is new.

    Raises:
        PermanentError: on creation, when a file is missing or does not fit, and they are not waited for.
    """

    def __init__(self, settings: TlsSettings, *, may_wait: bool = False) -> None:
        self._settings = settings
        self._files = [settings.certificate, settings.key, *([settings.client_ca] if settings.client_ca else [])]
        self._lock = threading.Lock()
        self._seen = self._fingerprint()
        self._context: ssl.SSLContext | None = None
        self._is_old = False
        try:
            self._context = _build(settings)
        except PermanentError as error:
            if not may_wait:
                raise
            self._is_old = True
            _logger.warning("tls_certificate_awaited error=%s", error)

    def current(self) -> ssl.SSLContext | None:
        """Return the context for now; files that changed and do not fit leave the old ones in force, or none."""
        with self._lock:
            seen = self._fingerprint()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._context = _build(self._settings)
                    self._is_old = False
                    _logger.info("tls_certificate_reloaded certificate=%s", self._settings.certificate)
                except PermanentError as error:
                    self._is_old = True
                    _logger.warning("tls_certificate_not_reloaded error=%s", error)
            return self._context

    def look(self) -> int:
        """Return 1 while the files, as they are now, do not fit and older ones, or none, are in force; else 0."""
        self.current()
        return int(self._is_old)

    def _fingerprint(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(map(_state, self._files))


def client_context(settings: ClientTls) -> ssl.SSLContext:
    """Return the context of a requestor, who verifies the other side's certificate and name.

    Raises:
        PermanentError: a file does not load.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # as below
    try:
        for path in filter(None, (settings.ca, settings.certificate, settings.key)):
            if is_special(path):
                raise NotRegularError(path)
        if settings.ca is not None:
            context.load_verify_locations(settings.ca)
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise PermanentError(f"tls: ca, certificate and key do not load: {reason}") from error
    return context


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _build(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # An end of what is read must not keep what is still to be said from being sent: a stop reads no more before it has
    # answered, and some peers close their side at once. Whether something is missing tell DICOM's own lengths.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        for path in filter(None, (settings.certificate, settings.key, settings.client_ca)):
            if is_special(path):  # OpenSSL would wait for it
                raise NotRegularError(path)  # as one that does not load
        # A key with a passphrase must not make a thread ask for it at a terminal.
        context.load_cert_chain(settings.certificate, settings.key, password="")
        if settings.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(settings.client_ca)
    except (OSError, ValueError) as error:  # of the first `SSLError` is one
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise PermanentError(
            f"dimse.tls: certificate {settings.certificate}, key {settings.key} and client_ca do not load: {reason}"
        ) from error
    return context
