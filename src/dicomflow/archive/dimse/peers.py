"""Who asks over DIMSE: an AE title is believed from an address of its networks, or with its certificate.

On loopback the title does: who sits at this machine may read its files anyhow.
"""

import hmac
import ssl
from collections.abc import Mapping
from ipaddress import ip_address

from dicomflow.archive.access import Principal, Right
from dicomflow.errors import PermanentError
from dicomflow.network.access import is_within
from dicomflow.network.settings import ArchivePeer

__all__ = ["Peers"]


class Peers:
    """The AE titles that may ask. Threads: any.

    Raises:
        PermanentError: on creation, when a certificate cannot be read.
    """

    def __init__(self, peers: Mapping[str, ArchivePeer]) -> None:
        self._peers = peers
        self._certificates = {title: _read(title, peer) for title, peer in peers.items() if peer.certificate}

    @property
    def has_any(self) -> bool:
        """Whether anybody may ask."""
        return bool(self._peers)

    def principal_of(self, calling_ae_title: str, address: str, certificate: bytes | None) -> Principal:
        """Return who asks; one that is not known, or not believed, has no rights.

        Args:
            calling_ae_title: as the association's request has it.
            address: the requestor's, without port and scope.
            certificate: its TLS certificate, DER; None where it gave none.
        """
        name = f"dimse:{calling_ae_title}"
        peer = self._peers.get(calling_ae_title)
        if peer is None or not self._is_believed(calling_ae_title, peer, address, certificate):
            return Principal(name, frozenset())
        allowed = {Right.QUERY: peer.query, Right.RETRIEVE: peer.retrieve}
        return Principal(name, frozenset(right for right, is_allowed in allowed.items() if is_allowed))

    def _is_believed(self, title: str, peer: ArchivePeer, address: str, certificate: bytes | None) -> bool:
        """Tell whether all that is asked of a peer holds."""
        if peer.networks and not is_within(peer.networks, address):
            return False
        if title in self._certificates:
            return certificate is not None and hmac.compare_digest(self._certificates[title], certificate)
        return bool(peer.networks) or ip_address(address).is_loopback


def _read(title: str, peer: ArchivePeer) -> bytes:
    """Return the first certificate of a file, DER."""
    assert peer.certificate is not None
    try:
        text = peer.certificate.read_text(encoding="ascii")
        first, end, _ = text.partition("-----END CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :] + end)
    except OSError as error:
        raise PermanentError(f"archive.peers.{title}.certificate cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PermanentError(f"archive.peers.{title}.certificate is no certificate in PEM") from error
