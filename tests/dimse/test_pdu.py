"""PDUs: byte fixtures annotated field by field, round trips, and pynetdicom's codec as an oracle."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynetdicom import pdu as oracle

from dicomflow.dimse.items import AnsweredContext, PduError, ProposedContext, Role, UserIdentity
from dicomflow.dimse.pdu import (
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    decode_abort,
    decode_associate_accept,
    decode_associate_reject,
    decode_associate_request,
    encode_abort,
    encode_associate_accept,
    encode_associate_reject,
    encode_associate_request,
    encode_release_request,
    encode_release_response,
)
from dicomflow.errors import PermanentError

REQUEST = (
    b"\x01\x00"  # A-ASSOCIATE-RQ, reserved
    b"\x00\x00\x00\xdb"  # length 219
    b"\x00\x01"  # protocol version 1
    b"\x00\x00"  # reserved
    b"ARCHIVE         "  # called AE title
    b"CT-1            "  # calling AE title
    + bytes(32)  # reserved
    + b"\x10\x00\x00\x151.2.840.10008.3.1.1.1"  # application context
    b"\x20\x00\x00\x2e"  # presentation context, 46 bytes
    b"\x01\x00\x00\x00"  # ID 1
    b"\x30\x00\x00\x111.2.840.10008.1.1"  # abstract syntax: Verification
    b"\x40\x00\x00\x111.2.840.10008.1.2"  # transfer syntax: Implicit VR Little Endian
    b"\x50\x00\x00\x48"  # user information, 72 bytes
    b"\x51\x00\x00\x04\x00\x00\x40\x00"  # maximum length 16,384
    b"\x52\x00\x00\x101.2.826.0.1.3680"  # implementation class UID
    b"\x53\x00\x00\x04\x00\x02\x00\x03"  # window: 2 invoked, 3 performed
    b"\x54\x00\x00\x15\x00\x111.2.840.10008.1.1\x01\x00"  # role: SCU
    b"\x55\x00\x00\x03V_1"  # implementation version name
    b"\x77\x00\x00\x00"  # a sub-item nobody knows
)
BODY = REQUEST[6:]

# Field strategies come from fixtures, which hypothesis need not reset between examples.
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


def padded(called: bytes, calling: bytes = b"CT-1            ") -> bytes:
    """Return the fixture's body with other AE titles."""
    return BODY[:4] + called + calling + BODY[36:]


def test_associate_request_decodes_field_by_field():
    """Every field of the annotated request is found."""
    expected = AssociateRequest(
        called_ae_title="ARCHIVE",
        calling_ae_title="CT-1",
        contexts=(ProposedContext(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),),
        max_length=16_384,
        implementation_class_uid="1.2.826.0.1.3680",
        implementation_version_name="V_1",
        asynchronous_window=(2, 3),
        roles=(Role("1.2.840.10008.1.1", scu=True, scp=False),),
        echoed=REQUEST[10:74],
    )
    assert len(BODY) == int.from_bytes(REQUEST[2:6], "big")
    assert expected == decode_associate_request(BODY)


@pytest.mark.parametrize("length", range(len(BODY)))
def test_associate_request_cut_short_is_an_error(length: int):
    """At whatever byte it ends, but where its user information begins: that has defaults."""
    body = BODY[:length]
    if length == 143:
        assert 16_384 == decode_associate_request(body).max_length
    else:
        with pytest.raises(PduError):
            decode_associate_request(body)


@pytest.mark.parametrize("length", range(len(BODY) - 147))
def test_user_information_cut_short_keeps_what_is_before(length: int):
    """At whatever byte it ends, the sub-items that are whole count, and the contexts do."""
    whole = decode_associate_request(BODY)
    cut = decode_associate_request(BODY[:143] + b"\x50\x00" + length.to_bytes(2, "big") + BODY[147 : 147 + length])
    assert (whole.contexts, whole.calling_ae_title, 16_384) == (cut.contexts, cut.calling_ae_title, cut.max_length)
    assert cut.implementation_class_uid in {whole.implementation_class_uid, ""}
    assert cut.asynchronous_window in {whole.asynchronous_window, None}
    assert cut.roles in {whole.roles, ()}


def test_unknown_items_are_skipped():
    """An item of unknown type is no error at the top level, in user information or in a context (PS3.8 9.3.1)."""
    unknown = b"\x99\x00\x00\x03abc"
    assert decode_associate_request(BODY) == decode_associate_request(BODY + unknown)
    assert decode_associate_request(BODY) == decode_associate_request(BODY[:68] + unknown + BODY[68:])


def test_items_in_another_order_are_understood():
    """Items come in increasing order of type, which a reader must not rely on."""
    items = BODY[68:]
    application, context, user = items[:25], items[25:75], items[75:]
    assert decode_associate_request(BODY) == decode_associate_request(BODY[:68] + user + context + application)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"ARCHIVE\0\0\0\0\0\0\0\0\0", "ARCHIVE"),
        (b"  ARCHIVE\0      ", "ARCHIVE"),
        (b"AN ARCHIVE      ", "AN ARCHIVE"),
        (b"SIXTEENBYTESLONG", "SIXTEENBYTESLONG"),
        (b"                ", ""),
        (bytes(16), ""),
        (b"ARCH\xc4VE         ", "ARCH?VE"),
        (b"ARCH\\VE         ", "ARCH?VE"),
        (b"ARCH\x1bVE         ", "ARCH?VE"),
        (b"ARCH\x7fVE         ", "ARCH?VE"),
    ],
)
def test_ae_title_padded_with_nuls_is_understood(raw: bytes, expected: str):
    """Padding of either kind is stripped; of a title outside PS3.5 6.2 each odd byte is "?"."""
    assert expected == decode_associate_request(padded(raw)).called_ae_title
    assert expected == decode_associate_request(padded(b"A".ljust(16), raw)).calling_ae_title


def test_protocol_version_is_kept_as_it_came():
    """Whether bit 0 is set is for the caller to test; the codec refuses no version."""
    assert 3 == decode_associate_request(b"\x00\x03" + BODY[2:]).protocol_version
    assert 2 == decode_associate_request(b"\x00\x02" + BODY[2:]).protocol_version


def test_request_without_a_presentation_context_is_an_error():
    """There is nothing to be negotiated; any other thing that lacks has a default or is refused by itself."""
    with pytest.raises(PduError):
        decode_associate_request(BODY[:93] + BODY[143:])
    with pytest.raises(PduError):
        decode_associate_request(BODY[:93] + b"\x20\x00\x00\x00" + BODY[143:])


def test_context_id_that_comes_twice_is_the_first_ones():
    """As with DCMTK and pynetdicom: one ID is answered once."""
    again = BODY[93:143].replace(b"\x30\x00\x00\x111.2.840.10008.1.1", b"\x30\x00\x00\x111.2.840.10008.1.9")
    assert again != BODY[93:143]
    assert decode_associate_request(BODY) == decode_associate_request(BODY[:143] + again + BODY[143:])


def test_long_version_name_is_cut():
    """More than 16 characters are no reason to refuse an association."""
    name = b"\x55\x00\x00\x03V_1"
    body = BODY.replace(name, b"\x55\x00\x00\x14" + b"V" * 20).replace(b"\x50\x00\x00\x48", b"\x50\x00\x00\x59")
    assert "V" * 16 == decode_associate_request(body).implementation_version_name


def test_no_missing_application_context_is_invented():
    """Without item 10H there is no name, and the caller rejects it (PS3.8 9.3.4)."""
    assert "" == decode_associate_request(BODY[:68] + BODY[93:]).application_context


@pytest.mark.parametrize("title", ["", "  ", "SEVENTEEN-LETTERS", "BACK\\SLASH", "ÄRZTE", "TAB\t"])
def test_request_with_an_illegal_ae_title_is_not_encoded(title: str, make_request: Callable[..., AssociateRequest]):
    """Written strictly: never cut in silence, never sent in another character set."""
    with pytest.raises(PermanentError):
        encode_associate_request(make_request(called_ae_title=title))
    with pytest.raises(PermanentError):
        encode_associate_request(make_request(calling_ae_title=title))


def test_acceptance_repeats_the_requests_reserved_bytes():
    """Offsets 10 to 73 repeat what the request carried (PS3.8 9.3.3)."""
    body = padded(b"ARCHIVE\0\0\0\0\0\0\0\0\0")[:36] + bytes(range(32)) + BODY[68:]
    request = decode_associate_request(body)
    encoded = encode_associate_accept(AssociateAccept((), 16_384, echoed=request.echoed))
    assert body[4:68] == encoded[10:74]


def test_reject_release_and_abort_are_encoded_as_the_standard_lays_them_out():
    """Ten bytes each (PS3.8 9.3.4, 9.3.6 to 9.3.8)."""
    assert bytes.fromhex("03 00 00000004 00 01 02 03") == encode_associate_reject(AssociateReject(1, 2, 3))
    assert bytes.fromhex("05 00 00000004 00000000") == encode_release_request()
    assert bytes.fromhex("06 00 00000004 00000000") == encode_release_response()
    assert bytes.fromhex("07 00 00000004 00 00 02 06") == encode_abort(2, 6)


@pytest.mark.parametrize("length", [0, 1, 3, 5, 100])
def test_reject_and_abort_of_another_length_are_errors(length: int):
    """Both have four bytes after the header."""
    with pytest.raises(PduError):
        decode_associate_reject(bytes(length))
    with pytest.raises(PduError):
        decode_abort(bytes(length))


def test_reject_and_abort_decode():
    """Reserved bytes are not tested."""
    assert AssociateReject(2, 3, 1) == decode_associate_reject(b"\xff\x02\x03\x01")
    assert (2, 5) == decode_abort(b"\xff\xff\x02\x05")


@relaxed
@given(data=st.data())
def test_associate_request_round_trips(data: st.DataObject, associate_requests: st.SearchStrategy[AssociateRequest]):
    """Write, read: the same value, and the bytes that an acceptance repeats."""
    request = data.draw(associate_requests)
    encoded = encode_associate_request(request)
    decoded = decode_associate_request(encoded[6:])
    assert request == replace(decoded, echoed=b"")
    assert encoded[10:74] == decoded.echoed
    assert len(encoded) - 6 == int.from_bytes(encoded[2:6], "big")


@relaxed
@given(data=st.data())
def test_associate_accept_round_trips(data: st.DataObject, associate_accepts: st.SearchStrategy[AssociateAccept]):
    """Write, read: the same value."""
    accept = data.draw(associate_accepts)
    assert accept == decode_associate_accept(encode_associate_accept(accept)[6:])


@relaxed
@given(data=st.data(), cut=st.integers(0, 2**16))
def test_associate_accept_cut_anywhere_is_an_error_or_lacks_what_is_optional(
    data: st.DataObject, cut: int, associate_accepts: st.SearchStrategy[AssociateAccept]
):
    """A requestor's decoder ends in the documented error, or in the contexts that were whole."""
    accept = data.draw(associate_accepts)
    body = encode_associate_accept(accept)[6:]
    try:
        decoded = decode_associate_accept(body[: cut % len(body)])
    except PduError:
        return
    assert accept.contexts[: len(decoded.contexts)] == decoded.contexts
    assert 16_384 == decoded.max_length


def oracle_fields(pdu: Any) -> dict[str, Any]:
    """Return what pynetdicom read, in our terms."""
    user = pdu.user_information
    return {
        "max_length": user.maximum_length,
        "implementation_class_uid": str(user.implementation_class_uid),
        "implementation_version_name": user.implementation_version_name or "",
        "window": user.async_ops_window
        and (
            user.async_ops_window.maximum_number_operations_invoked,
            user.async_ops_window.maximum_number_operations_performed,
        ),
        "roles": {str(uid): (bool(role.scu_role), bool(role.scp_role)) for uid, role in user.role_selection.items()},
    }


@relaxed
@given(data=st.data())
def test_oracle_decodes_our_request_to_the_same_fields(
    data: st.DataObject, associate_requests: st.SearchStrategy[AssociateRequest]
):
    """The oracle reads what we write."""
    request = data.draw(associate_requests)
    pdu = oracle.A_ASSOCIATE_RQ()
    pdu.decode(encode_associate_request(request))
    assert request.called_ae_title == pdu.called_ae_title.strip()
    assert request.calling_ae_title == pdu.calling_ae_title.strip()
    assert request.application_context == str(pdu.application_context_name)
    contexts = [
        (each.context_id, str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
        for each in pdu.presentation_context
    ]
    assert [(each.context_id, each.abstract_syntax, each.transfer_syntaxes) for each in request.contexts] == contexts
    fields = oracle_fields(pdu)
    assert request.max_length == fields["max_length"]
    assert request.implementation_class_uid == fields["implementation_class_uid"]
    assert request.implementation_version_name == fields["implementation_version_name"]
    assert request.asynchronous_window == fields["window"]
    assert {role.sop_class_uid: (role.scu, role.scp) for role in request.roles} == fields["roles"]
    identity = pdu.user_information.user_identity
    assert (identity is None) == (request.user_identity is None)
    if identity is not None and request.user_identity is not None:
        assert (request.user_identity.primary, request.user_identity.secondary) == (
            identity.primary_field,
            identity.secondary_field,
        )


@relaxed
@given(data=st.data())
def test_oracles_encoding_of_a_request_decodes_to_the_same_value(
    data: st.DataObject, associate_requests: st.SearchStrategy[AssociateRequest]
):
    """We read what the oracle writes."""
    request = data.draw(associate_requests)
    pdu = oracle.A_ASSOCIATE_RQ()
    pdu.decode(encode_associate_request(replace(request, protocol_version=1)))
    decoded = decode_associate_request(pdu.encode()[6:])
    assert replace(request, protocol_version=1, roles=()) == replace(decoded, echoed=b"", roles=())


@relaxed
@given(data=st.data())
def test_oracle_decodes_our_acceptance_to_the_same_fields(
    data: st.DataObject, associate_accepts: st.SearchStrategy[AssociateAccept]
):
    """The oracle reads what we answer."""
    accept = replace(data.draw(associate_accepts), echoed=b"A".ljust(16) + b"B".ljust(16) + bytes(32))
    pdu = oracle.A_ASSOCIATE_AC()
    pdu.decode(encode_associate_accept(accept))
    contexts = [(each.context_id, each.result, str(each.transfer_syntax)) for each in pdu.presentation_context]
    assert [(each.context_id, each.result, each.transfer_syntax) for each in accept.contexts] == [
        (number, result, syntax if result == 0 else expected.transfer_syntax)
        for (number, result, syntax), expected in zip(contexts, accept.contexts, strict=True)
    ]
    fields = oracle_fields(pdu)
    assert accept.max_length == fields["max_length"]
    assert accept.asynchronous_window == fields["window"]
    assert {role.sop_class_uid: (role.scu, role.scp) for role in accept.roles} == fields["roles"]
    response = pdu.user_information.user_identity
    assert accept.user_identity_response == (None if response is None else response.server_response)


@pytest.mark.parametrize(
    ("result", "source", "reason"), [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 7), (1, 2, 2), (2, 3, 1), (2, 3, 2)]
)
def test_oracle_and_we_agree_on_rejections(result: int, source: int, reason: int):
    """In both directions."""
    pdu = oracle.A_ASSOCIATE_RJ()
    pdu.decode(encode_associate_reject(AssociateReject(result, source, reason)))
    assert (result, source, reason) == (pdu.result, pdu.source, pdu.reason_diagnostic)
    assert AssociateReject(result, source, reason) == decode_associate_reject(pdu.encode()[6:])


def test_oracle_and_we_agree_on_releases_and_aborts():
    """In both directions."""
    assert oracle.A_RELEASE_RQ().encode() == encode_release_request()
    assert oracle.A_RELEASE_RP().encode() == encode_release_response()
    pdu = oracle.A_ABORT_RQ()
    pdu.decode(encode_abort(2, 5))
    assert (2, 5) == (pdu.source, pdu.reason_diagnostic) == decode_abort(pdu.encode()[6:])


def test_128_contexts_are_decoded():
    """All odd IDs, three transfer syntaxes each."""
    contexts = tuple(
        ProposedContext(
            number,
            f"1.2.840.10008.5.1.4.1.1.{number}",
            ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"),
        )
        for number in range(1, 256, 2)
    )
    encoded = encode_associate_request(AssociateRequest("A", "B", contexts, 0))
    assert contexts == decode_associate_request(encoded[6:]).contexts
    answers = tuple(AnsweredContext(each.context_id, 0, each.transfer_syntaxes[0]) for each in contexts)
    assert answers == decode_associate_accept(encode_associate_accept(AssociateAccept(answers, 0))[6:]).contexts


def test_user_identity_never_shows_in_a_requests_text(make_request: Callable[..., AssociateRequest]):
    """A request may be logged; a password in it may not."""
    request = make_request(user_identity=UserIdentity(2, response_requested=True, primary=b"user", secondary=b"secret"))
    assert "secret" not in repr(decode_associate_request(encode_associate_request(request)[6:]))
