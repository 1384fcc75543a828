"""Who may associate."""

from dataclasses import replace
from typing import Any

import pytest

from dicomflow.dimse.pdu import AssociateRequest, ProposedContext
from dicomflow.dimse.status import Rejection
from dicomflow.network.access import check_request, is_within
from dicomflow.network.settings import DimseSettings

REQUEST = AssociateRequest("STORE", "CT1", (ProposedContext(1, "1.2", ("1.2.840.10008.1.2",)),), 16384)


def test_any_peer_passes_empty_lists():
    """Empty lists mean any."""
    assert check_request(DimseSettings(), REQUEST) is None
    assert is_within((), "203.0.113.9")


@pytest.mark.parametrize(
    ("settings", "changed", "expected"),
    [
        ({"calling_ae_titles": ("CT1", "CT2")}, {}, None),
        ({"calling_ae_titles": ("ct1",)}, {}, Rejection.CALLING_AE_TITLE),
        ({"called_ae_titles": ("STORE",)}, {}, None),
        ({"called_ae_titles": ("STOR",)}, {}, Rejection.CALLED_AE_TITLE),
        ({}, {"calling_ae_title": ""}, Rejection.CALLING_AE_TITLE),
        ({}, {"called_ae_title": ""}, None),
        ({}, {"protocol_version": 0xFFFE}, Rejection.PROTOCOL_VERSION),
        ({}, {"protocol_version": 0xFFFF}, None),
        ({}, {"application_context": ""}, Rejection.APPLICATION_CONTEXT),
        ({}, {"max_length": 7}, Rejection.NO_REASON),
        ({}, {"max_length": 8}, None),
        ({}, {"max_length": 0}, None),
    ],
)
def test_request_is_judged_by_titles_version_and_context(settings: Any, changed: Any, expected: Any):
    """Each condition has the rejection of PS3.8 9.3.4; titles are compared case sensitively."""
    found = check_request(DimseSettings(**settings), replace(REQUEST, **changed))
    assert expected == (found and found[0])


@pytest.mark.parametrize(
    ("peer", "is_allowed"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1", False),
    ],
)
def test_peer_must_be_within_a_network(peer: str, is_allowed: bool):  # noqa: FBT001  # a column of the table
    """IPv4 addresses match their networks also when they arrive on an IPv6 socket."""
    settings = DimseSettings(networks=("10.0.0.0/8", "fd00::/16"))
    assert is_allowed == is_within(settings.networks, peer)
