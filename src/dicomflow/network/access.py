"""Who may connect and associate: networks, titles and the request's own validity (PS3.8 9.3.4).

Empty lists mean any. An AE title proves nothing; it is one lock beside the network's.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from dicomflow.dicom.uids import APPLICATION_CONTEXT
from dicomflow.dimse.pdu import AssociateReject, AssociateRequest
from dicomflow.dimse.status import Rejection
from dicomflow.network.settings import DimseSettings

__all__ = ["check_request", "is_within"]

_VERSION_1: Final = 0x0001
# A PDU of fewer bytes holds no fragment: 6 bytes of PDV overhead and an even fragment of 2 (PS3.8 D.1).
_LEAST_MAX_LENGTH: Final = 8


def is_within(networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network], peer: str) -> bool:
    """Tell whether an address, without port and scope, is in one of the networks; with none listed any is."""
    if not networks:
        return True
    address = ipaddress.ip_address(peer)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def check_request(settings: DimseSettings, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
    """Return the rejection for a request and the reason for the log, or None when it may go on.

    Args:
        settings: the lists in force.
        request: the decoded request; an AE title of spaces is "" in it.
    """
    if not request.protocol_version & _VERSION_1:
        return Rejection.PROTOCOL_VERSION, f"protocol version {request.protocol_version:04X}H lacks bit 0"
    if request.application_context != APPLICATION_CONTEXT:
        return Rejection.APPLICATION_CONTEXT, "unknown application context name"
    if not request.calling_ae_title:
        return Rejection.CALLING_AE_TITLE, "calling AE title is empty"
    if settings.calling_ae_titles and request.calling_ae_title not in settings.calling_ae_titles:
        return Rejection.CALLING_AE_TITLE, "calling AE title is not on the list"
    if settings.called_ae_titles and request.called_ae_title not in settings.called_ae_titles:
        return Rejection.CALLED_AE_TITLE, "called AE title is not on the list"
    if 0 < request.max_length < _LEAST_MAX_LENGTH:
        return Rejection.NO_REASON, f"maximum length {request.max_length} leaves no room for a fragment"
    return None
