"""Negotiation: every proposed context gets one answer, by the rules of PS3.7 D.3 and this project's policy."""

from collections.abc import Callable
from typing import Any

import pytest

from dicomflow.dimse.items import AnsweredContext, ProposedContext, Role, UserIdentity
from dicomflow.dimse.negotiation import AcceptedContext, Offer, accepted_contexts, negotiate, proposes_storage
from dicomflow.dimse.pdu import (
    AssociateAccept,
    AssociateRequest,
    decode_associate_accept,
    decode_associate_request,
    encode_associate_accept,
    encode_associate_request,
)

MakeRequest = Callable[..., AssociateRequest]

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
WORKLIST = "1.2.840.10008.5.1.4.31"
HANGING_PROTOCOL = "1.2.840.10008.5.1.4.38.1"
PRIVATE = "1.3.6.1.4.1.343.7.1.1"
FUTURE_IN_ARC = "1.2.840.10008.5.1.4.1.1.999.1"
FUTURE_OUTSIDE_ARC = "1.2.840.10008.5.1.4.99.1"
STORAGE_SERVICE = "1.2.840.10008.4.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPIP = "1.2.840.10008.1.2.4.94"
PRIVATE_SYNTAX = "1.2.840.113619.5.2"
WITH_COMMITMENT = Offer(services=frozenset({COMMITMENT}))
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture
def answer(make_request: MakeRequest) -> Callable[..., tuple[int, str]]:
    """Negotiate one context; give its result and transfer syntax."""

    def _answer(
        abstract_syntax: str, *transfer_syntaxes: str, commitment: bool = False, **changes: object
    ) -> tuple[int, str]:
        request = make_request(
            contexts=(ProposedContext(7, abstract_syntax, transfer_syntaxes or (IMPLICIT,)),), **changes
        )
        (context,) = negotiate(request, max_length=0, offer=WITH_COMMITMENT if commitment else Offer()).contexts
        assert 7 == context.context_id
        return context.result, context.transfer_syntax

    return _answer


def test_every_context_of_one_sop_class_is_answered(make_request: MakeRequest):
    """Each context is judged on its own and answered with its own ID, in the request's order."""
    request = make_request(
        contexts=(
            ProposedContext(5, CT, (JPEG_2000,)),
            ProposedContext(1, CT, (JPIP,)),
            ProposedContext(3, CT, (IMPLICIT,)),
            ProposedContext(9, WORKLIST, (IMPLICIT,)),
            ProposedContext(7, VERIFICATION, (IMPLICIT,)),
        )
    )
    accept = negotiate(request, max_length=131_072)
    expected = (
        AnsweredContext(5, 0, JPEG_2000),
        AnsweredContext(1, 4, JPIP),
        AnsweredContext(3, 0, IMPLICIT),
        AnsweredContext(9, 3, IMPLICIT),
        AnsweredContext(7, 0, IMPLICIT),
    )
    assert expected == accept.contexts
    assert {
        5: AcceptedContext(5, CT, JPEG_2000),
        3: AcceptedContext(3, CT, IMPLICIT),
        7: AcceptedContext(7, VERIFICATION, IMPLICIT),
    } == accepted_contexts(request, accept)
    assert 131_072 == accept.max_length


@pytest.mark.parametrize(
    ("proposed", "expected"),
    [
        ((JPEG_2000, EXPLICIT, IMPLICIT), JPEG_2000),
        ((EXPLICIT, IMPLICIT, JPEG_2000), EXPLICIT),
        ((IMPLICIT, EXPLICIT), IMPLICIT),
        ((BIG_ENDIAN, IMPLICIT), BIG_ENDIAN),
        ((JPIP, PRIVATE_SYNTAX, JPEG_LOSSLESS, IMPLICIT), JPEG_LOSSLESS),
    ],
)
def test_requestors_first_acceptable_transfer_syntax_wins(
    proposed: tuple[str, ...], expected: str, answer: Callable[..., tuple[int, str]]
):
    """Senders use their order as preference; forcing another makes them decompress."""
    assert (0, expected) == answer(CT, *proposed)


def test_compressed_only_sender_is_accepted(answer: Callable[..., tuple[int, str]]):
    """Every compressed syntax that holds its pixels is taken."""
    for last in (
        "4.50",
        "4.51",
        "4.57",
        "4.70",
        "4.80",
        "4.81",
        "4.90",
        "4.91",
        "4.102",
        "4.108",
        "4.201",
        "4.203",
        "5",
    ):
        assert (0, f"1.2.840.10008.1.2.{last}") == answer(CT, f"1.2.840.10008.1.2.{last}")


@pytest.mark.parametrize(
    "syntax", [JPIP, "1.2.840.10008.1.2.4.205", "1.2.840.10008.1.2.7.1", "1.2.840.10008.1.20", PRIVATE_SYNTAX]
)
def test_syntax_whose_object_would_be_incomplete_is_refused(syntax: str, answer: Callable[..., tuple[int, str]]):
    """JPIP, live video, Papyrus and private syntaxes: transfer syntaxes not supported."""
    assert (4, syntax) == answer(CT, syntax)


@pytest.mark.parametrize(
    "sop_class", [CT, PRIVATE, FUTURE_IN_ARC, "1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.1.30"]
)
def test_private_sop_class_is_stored(sop_class: str, answer: Callable[..., tuple[int, str]]):
    """Known, private and future storage classes are accepted (PS3.4 B.4.1.1)."""
    assert (0, IMPLICIT) == answer(sop_class)


@pytest.mark.parametrize("last", ["200.4", "200.5", "200.6", "201.2", "201.3", "201.4", "201.5", "201.6"])
def test_query_classes_under_the_storage_arc_are_refused(last: str, answer: Callable[..., tuple[int, str]]):
    """They look like storage by their UID; no item makes them so."""
    uid = f"1.2.840.10008.5.1.4.1.1.{last}"
    assert (3, IMPLICIT) == answer(uid)
    assert (3, IMPLICIT) == answer(uid, common_extended=((uid, STORAGE_SERVICE, ()),))


@pytest.mark.parametrize(
    "sop_class", [WORKLIST, HANGING_PROTOCOL, "1.2.840.10008.5.1.4.1.2.1.1", FUTURE_OUTSIDE_ARC, "no uid", ""]
)
def test_other_class_is_refused_as_not_supported(sop_class: str, answer: Callable[..., tuple[int, str]]):
    """Other services, objects without a patient, and what is no UID at all."""
    assert (3, IMPLICIT) == answer(sop_class)


def test_unknown_class_that_names_the_storage_service_is_stored(answer: Callable[..., tuple[int, str]]):
    """Item 57H: the service class, or a related general class, says that it is storage (PS3.4 B.3.1.3, B.3.1.4)."""
    uid = FUTURE_OUTSIDE_ARC
    assert (0, IMPLICIT) == answer(uid, common_extended=((uid, STORAGE_SERVICE, ()),))
    assert (0, IMPLICIT) == answer(uid, common_extended=((uid, "", (WORKLIST, CT)),))
    assert (3, IMPLICIT) == answer(uid, common_extended=((uid, "1.2.840.10008.4.9", (WORKLIST,)),))
    assert (3, IMPLICIT) == answer(uid, common_extended=((CT, STORAGE_SERVICE, ()),))


@pytest.mark.parametrize("uid", [WORKLIST, HANGING_PROTOCOL, "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.1.9"])
def test_class_registered_for_another_service_stays_refused(uid: str, answer: Callable[..., tuple[int, str]]):
    """The standard's registry outweighs what item 57H claims."""
    assert (3, IMPLICIT) == answer(uid, common_extended=((uid, STORAGE_SERVICE, (CT,)),))


def test_echo_succeeds_on_every_listener(answer: Callable[..., tuple[int, str]]):
    """Verification is always accepted, by the same first-proposed rule (PS3.2 7.1)."""
    assert (0, IMPLICIT) == answer(VERIFICATION)
    assert (0, EXPLICIT) == answer(VERIFICATION, BIG_ENDIAN, EXPLICIT, IMPLICIT)
    assert (4, JPEG_2000) == answer(VERIFICATION, JPEG_2000)


def test_storage_commitment_is_accepted_only_where_it_is_served(answer: Callable[..., tuple[int, str]]):
    """Otherwise its class is not supported."""
    assert (3, IMPLICIT) == answer(COMMITMENT)
    assert (0, EXPLICIT) == answer(COMMITMENT, EXPLICIT, commitment=True)
    assert (4, BIG_ENDIAN) == answer(COMMITMENT, BIG_ENDIAN, commitment=True)


def test_request_without_acceptable_contexts_gets_an_acceptance_with_refusals(make_request: MakeRequest):
    """Neither a rejection nor an abort: the peer sees what was refused."""
    request = make_request(contexts=(ProposedContext(1, WORKLIST, (IMPLICIT,)), ProposedContext(3, CT, (JPIP,))))
    accept = negotiate(request, max_length=0)
    assert [3, 4] == [context.result for context in accept.contexts]
    assert {} == accepted_contexts(request, accept)


@pytest.mark.parametrize("garbage", [b"1.2.\xff", b"abc", b"", b"1..2", b"1.2\x00.3"])
def test_refused_context_without_a_uid_is_answered_all_the_same(garbage: bytes, make_request: MakeRequest):
    """What is no UID is refused in its own context, and the answer can be encoded."""
    encoded = encode_associate_request(make_request(contexts=(ProposedContext(1, CT, ("9" * 9,)),)))
    item = b"\x40\x00\x00\x09" + b"9" * 9
    replaced = b"\x40\x00\x00\x09" + garbage.ljust(9, b"\0")
    request = decode_associate_request(encoded.replace(item, replaced)[6:])
    accept = decode_associate_accept(encode_associate_accept(negotiate(request, max_length=0))[6:])
    assert [4] == [context.result for context in accept.contexts]


def test_128_contexts_are_negotiated(make_request: MakeRequest):
    """As many as there are odd IDs."""
    contexts = tuple(ProposedContext(number, CT, (JPEG_2000, IMPLICIT)) for number in range(1, 256, 2))
    accept = negotiate(make_request(contexts=contexts), max_length=0)
    assert {(0, JPEG_2000)} == {(context.result, context.transfer_syntax) for context in accept.contexts}
    assert [context.context_id for context in contexts] == [context.context_id for context in accept.contexts]


def test_role_proposals_are_answered_as_scu(make_request: MakeRequest):
    """(1,x) is answered (1,0), once for a SOP class, and only for those accepted (PS3.7 D.3.3.4)."""
    request = make_request(
        contexts=(
            ProposedContext(1, CT, (IMPLICIT,)),
            ProposedContext(3, PRIVATE, (IMPLICIT,)),
            ProposedContext(5, WORKLIST, (IMPLICIT,)),
        ),
        roles=(
            Role(CT, scu=True, scp=True),
            Role(CT, scu=True, scp=True),
            Role(PRIVATE, scu=True, scp=False),
            Role(WORKLIST, scu=True, scp=False),
            Role("1.2.3", scu=True, scp=True),
        ),
    )
    accept = negotiate(request, max_length=0)
    assert (Role(CT, scu=True, scp=False), Role(PRIVATE, scu=True, scp=False)) == accept.roles
    assert [0, 0, 3] == [context.result for context in accept.contexts]


@pytest.mark.parametrize("sop_class", [CT, COMMITMENT])
def test_requestor_that_only_wants_to_be_scp_is_refused(sop_class: str, make_request: MakeRequest):
    """(0,1) leaves no role for us: user rejection of the context, and no role item."""
    request = make_request(
        contexts=(ProposedContext(1, sop_class, (IMPLICIT,)),), roles=(Role(sop_class, scu=False, scp=True),)
    )
    accept = negotiate(request, max_length=0, offer=WITH_COMMITMENT)
    assert ([1], ()) == ([context.result for context in accept.contexts], accept.roles)


def _retrieving(
    *contexts: ProposedContext, make_request: MakeRequest, roles: tuple[Role, ...], **offer: Any
) -> tuple[list[tuple[int, str]], tuple[Role, ...]]:
    """Negotiate a request that proposes C-GET first; give the answers behind it and the roles."""
    request = make_request(contexts=(ProposedContext(1, STUDY_ROOT_GET, (IMPLICIT,)), *contexts), roles=roles)
    served = frozenset({STUDY_ROOT_GET, STUDY_ROOT_FIND})
    offered = Offer(services=served, retrieving=frozenset({STUDY_ROOT_GET}), **offer)
    accept = negotiate(request, max_length=0, offer=offered)
    assert 0 == accept.contexts[0].result
    return [(each.result, each.transfer_syntax) for each in accept.contexts[1:]], accept.roles


@pytest.mark.parametrize("scu", [False, True])
@pytest.mark.parametrize("storage", [False, True])
def test_role_0_1_and_1_1_are_returned(make_request: MakeRequest, *, scu: bool, storage: bool):
    """Who gets objects is SCP of their classes; SCU only where we store (PS3.4 C.5.3, PS3.7 D.3.3.4)."""
    context, role = ProposedContext(3, CT, (EXPLICIT,)), Role(CT, scu=scu, scp=True)
    expected = [(0, EXPLICIT)], (Role(CT, scu=scu and storage, scp=True),)
    assert expected == _retrieving(context, make_request=make_request, roles=(role,), storage=storage)


def test_no_role_stores_or_is_refused(make_request: MakeRequest):
    """Without an item the roles are the default ones: a storage class is then for storing, where we store."""
    context = ProposedContext(3, CT, (EXPLICIT,))
    assert ([(0, EXPLICIT)], ()) == _retrieving(context, make_request=make_request, roles=(), storage=True)
    assert ([(3, EXPLICIT)], ()) == _retrieving(context, make_request=make_request, roles=(), storage=False)


def test_requestor_is_scp_of_storage_alone(make_request: MakeRequest):
    """Of the query classes it is not, and of storage only beside an accepted C-GET."""
    find, role = ProposedContext(3, STUDY_ROOT_FIND, (IMPLICIT,)), Role(STUDY_ROOT_FIND, scu=False, scp=True)
    assert ([(1, IMPLICIT)], ()) == _retrieving(find, make_request=make_request, roles=(role,))
    request = make_request(
        contexts=(ProposedContext(1, STUDY_ROOT_GET, (JPEG_2000,)), ProposedContext(3, CT, (IMPLICIT,))),
        roles=(Role(CT, scu=False, scp=True),),
    )
    offered = Offer(services=frozenset({STUDY_ROOT_GET}), retrieving=frozenset({STUDY_ROOT_GET}))
    accept = negotiate(request, max_length=0, offer=offered)
    assert [4, 1] == [context.result for context in accept.contexts]


@pytest.mark.parametrize(
    ("stored", "proposed", "expected"),
    [
        ((), (JPEG_2000, EXPLICIT), EXPLICIT),
        ((JPEG_2000,), (EXPLICIT, JPEG_2000), JPEG_2000),
        ((JPEG_2000, EXPLICIT), (JPEG_2000, EXPLICIT), EXPLICIT),
        ((JPEG_2000, IMPLICIT), (EXPLICIT, IMPLICIT, JPEG_2000), IMPLICIT),
        ((JPEG_2000, JPEG_LOSSLESS), (JPEG_LOSSLESS, JPEG_2000), JPEG_2000),
        ((EXPLICIT,), (JPEG_2000, JPEG_LOSSLESS), JPEG_2000),
    ],
)
def test_syntax_of_what_is_got_is_one_that_fits_what_is_stored(
    stored: tuple[str, ...], proposed: tuple[str, ...], expected: str, make_request: MakeRequest
):
    """As stored where all objects are alike, else one that each can be decompressed to, else what most have."""
    context, role = ProposedContext(3, CT, proposed), Role(CT, scu=False, scp=True)
    answers, _ = _retrieving(context, make_request=make_request, roles=(role,), stored_syntaxes=((CT, stored),))
    assert [(0, expected)] == answers


def test_query_is_accepted_only_where_it_is_served(answer: Callable[..., tuple[int, str]]):
    """Otherwise its class is not supported."""
    assert (3, IMPLICIT) == answer(STUDY_ROOT_FIND)
    assert (3, IMPLICIT) == answer(STUDY_ROOT_FIND, commitment=True)


@pytest.mark.parametrize(
    ("role", "serves", "result", "granted"),
    [
        ((False, True), False, 0, (False, True)),
        ((False, True), True, 0, (False, True)),
        ((True, True), True, 0, (True, True)),
        ((True, True), False, 0, (False, True)),
        ((True, False), False, 3, None),
        ((True, False), True, 0, (True, False)),
        (None, False, 0, None),
    ],
)
def test_who_is_asked_for_commitment_may_report_as_scp(
    role: tuple[bool, bool] | None,
    serves: bool,  # noqa: FBT001  # a parameter of the test
    result: int,
    granted: tuple[bool, bool] | None,
    make_request: MakeRequest,
):
    """Where reports are expected the requestor is granted the role of SCP, with that of SCU only where it is served."""
    roles = () if role is None else (Role(COMMITMENT, scu=role[0], scp=role[1]),)
    request = make_request(contexts=(ProposedContext(1, COMMITMENT, (IMPLICIT,)),), roles=roles)
    offer = Offer(services=frozenset({COMMITMENT} if serves else ()), commitment_reports=True)
    accept = negotiate(request, max_length=0, offer=offer)
    assert [result] == [context.result for context in accept.contexts]
    assert (granted and [granted]) == ([(each.scu, each.scp) for each in accept.roles] or None)


def test_no_role_is_granted_that_was_not_proposed(make_request: MakeRequest):
    """Without an item there is none in the answer; (0,0) is answered (0,0)."""
    assert () == negotiate(make_request(), max_length=0).roles
    accept = negotiate(make_request(roles=(Role(CT, scu=False, scp=False),)), max_length=0)
    assert (Role(CT, scu=False, scp=False),) == accept.roles


@pytest.mark.parametrize(("offered", "expected"), [(None, None), ((0, 0), (1, 1)), ((1, 1), (1, 1)), ((50, 7), (1, 1))])
def test_asynchronous_window_is_answered_with_one_operation_each_way(
    offered: tuple[int, int] | None, expected: tuple[int, int] | None, make_request: MakeRequest
):
    """And only where it was offered (PS3.7 D.3.3.3)."""
    assert expected == negotiate(make_request(asynchronous_window=offered), max_length=0).asynchronous_window


def test_user_identity_response_is_what_the_caller_decided(make_request: MakeRequest):
    """Whether item 59H is sent does not depend on the request alone, so it is passed in (PS3.7 D.3.3.7.2)."""
    identity = UserIdentity(1, response_requested=True, primary=b"user", secondary=b"")
    request = make_request(user_identity=identity)
    assert None is negotiate(request, max_length=0).user_identity_response
    accept = negotiate(request, max_length=0, user_identity_response=b"")
    assert b"\x59\x00\x00\x02\x00\x00" in encode_associate_accept(accept)


def test_acceptance_echoes_the_request_and_offers_no_common_extended_item(make_request: MakeRequest):
    """Offsets 10 to 73 come back; item 57H never stands in an acceptance (PS3.7 D.3.3.6)."""
    request = decode_associate_request(
        encode_associate_request(make_request(common_extended=((CT, STORAGE_SERVICE, ()),)))[6:]
    )
    accept = negotiate(request, max_length=0)
    assert request.echoed == accept.echoed
    assert b"\x57\x00" not in encode_associate_accept(accept)[74:]


def test_acceptance_of_a_context_that_was_not_proposed_counts_for_nothing(make_request: MakeRequest):
    """A requestor keeps to what it proposed."""
    accept = AssociateAccept((AnsweredContext(99, 0, IMPLICIT), AnsweredContext(3, 0, EXPLICIT)), 0)
    assert {3: AcceptedContext(3, CT, EXPLICIT)} == accepted_contexts(make_request(), accept)


def test_storage_is_proposed_by_anything_but_the_two_services(make_request: MakeRequest):
    """With no space left an association for the two is still accepted."""
    assert proposes_storage(make_request())
    contexts = (ProposedContext(1, VERIFICATION, (IMPLICIT,)), ProposedContext(3, COMMITMENT, (IMPLICIT,)))
    assert not proposes_storage(make_request(contexts=contexts))


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (b"\x01", b"\x01"),
        (b"\x01\x01\x01\x01\x01", b"\x01\x01\x01\x00\x00"),
        (b"\x00\x01" + b"\x01" * 9, b"\x00\x01\x01\x00\x00\x01\x01"),
        (b"", b""),
    ],
)
def test_extended_negotiation_is_answered_no_longer_than_offered(
    make_request: MakeRequest, offered: bytes, agreed: bytes
):
    """What both sides have is agreed, a byte for a byte; a class that is not accepted has no item (PS3.7 D.3.3.5)."""
    contexts = (ProposedContext(1, STUDY_ROOT_FIND, (IMPLICIT,)), ProposedContext(3, WORKLIST, (IMPLICIT,)))
    request = make_request(contexts=contexts, extended=((STUDY_ROOT_FIND, offered), (WORKLIST, b"\x01")))
    sent = decode_associate_request(encode_associate_request(request)[6:])
    assert request.extended == sent.extended
    ours = ((STUDY_ROOT_FIND, b"\x01\x01\x01\x00\x00\x01\x01"), (WORKLIST, b"\x01"))
    accept = negotiate(sent, max_length=0, offer=Offer(services=frozenset({STUDY_ROOT_FIND}), extended=ours))
    assert ((STUDY_ROOT_FIND, agreed),) == accept.extended
    assert (b"\x56\x00" in encode_associate_accept(accept)) is True
