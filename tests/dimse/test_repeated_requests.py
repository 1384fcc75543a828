"""Requests that come again: answered as the first time, from memory that stays small and holds no passcode."""

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse import pdu
from dicomflow.dimse.items import ProposedContext, UserIdentity
from dicomflow.dimse.negotiation import negotiate
from dicomflow.dimse.pdu import (
    AssociateRequest,
    decode_associate_request,
    encode_associate_accept,
    encode_associate_request,
)


def _body(calling_ae_title: str = "CT1", identity: UserIdentity | None = None) -> bytes:
    contexts = (ProposedContext(1, VERIFICATION, (EXPLICIT_VR_LITTLE_ENDIAN,)),)
    return encode_associate_request(
        AssociateRequest("EDGE", calling_ae_title, contexts, 16_384, user_identity=identity)
    )[6:]


def test_repeated_request_gets_the_same_answer_without_decoding() -> None:
    """The second time is a look-up, and its answer the same bytes; another policy gets another answer."""
    first, second = decode_associate_request(_body()), decode_associate_request(_body())
    assert first is second
    answers = [encode_associate_accept(negotiate(each, max_length=0)) for each in (first, second)]
    assert answers[0] == answers[1]
    assert answers[0] != encode_associate_accept(negotiate(first, max_length=1))


def test_request_with_a_passcode_is_not_kept() -> None:
    """A passcode leaves the process with its association."""
    body = _body(identity=UserIdentity(2, response_requested=False, primary=b"user", secondary=b"passcode"))
    decode_associate_request(body)
    assert body not in pdu._known_requests
    assert decode_associate_request(body) is not decode_associate_request(body)


def test_many_requests_keep_memory_small() -> None:
    """However many callers there are, or however long their requests, little is kept."""
    for number in range(1000):
        decode_associate_request(_body(f"CT{number}"))
    assert len(pdu._known_requests) <= 64
    padded = _body("LONG") + b"\x59\0" + (40_000).to_bytes(2, "big") + bytes(40_000)  # an item that is skipped
    decode_associate_request(padded)
    assert padded not in pdu._known_requests


def test_request_that_is_not_kept_is_answered_anew_each_time() -> None:
    """Neither a passcode nor a long request stays behind in the memory of answers."""
    identity = UserIdentity(2, response_requested=False, primary=b"user", secondary=b"passcode")
    for body in (_body(identity=identity), _body("LONG") + b"\x59\0" + (40_000).to_bytes(2, "big") + bytes(40_000)):
        request = decode_associate_request(body)
        first, second = negotiate(request, max_length=0), negotiate(request, max_length=0)
        assert first == second
        assert first is not second
