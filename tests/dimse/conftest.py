"""Requests, strategies for hypothesis, and two endpoints joined without a network."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.events import AssociationRequested, Event
from dicomflow.dimse.items import AnsweredContext, ProposedContext, Role, UserIdentity
from dicomflow.dimse.negotiation import negotiate
from dicomflow.dimse.pdu import AssociateAccept, AssociateReject, AssociateRequest, encode_associate_request
from dicomflow.dimse.requestor import Requestor

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def make_request() -> Callable[..., AssociateRequest]:
    """Make a request: context 1 for Verification and context 3 for CT, unless told otherwise."""

    def _make_request(**changes: Any) -> AssociateRequest:
        contexts = (ProposedContext(1, VERIFICATION, (IMPLICIT,)), ProposedContext(3, CT, (EXPLICIT, IMPLICIT)))
        fields: dict[str, Any] = {
            "called_ae_title": "CALLED",
            "calling_ae_title": "CALLING",
            "contexts": contexts,
            "max_length": 16_384,
        }
        return AssociateRequest(**{**fields, **changes})

    return _make_request


@pytest.fixture
def established(make_request: Callable[..., AssociateRequest]) -> Callable[..., Acceptor]:
    """Make an acceptor in Sta6 that has sent its acceptance."""

    def _established(**changes: Any) -> Acceptor:
        acceptor = Acceptor()
        for event in acceptor.receive(memoryview(encode_associate_request(make_request(**changes)))):
            assert isinstance(event, AssociationRequested)
            acceptor.accept(negotiate(event.request, max_length=131_072))
        acceptor.data_to_send()
        return acceptor

    return _established


class Wire:
    """A requestor and an acceptor joined without a network; what each saw stands in its list of events."""

    def __init__(self, request: AssociateRequest, answer: Callable[[AssociateRequest], Any], piece: int) -> None:
        self.requestor = Requestor(request)
        self.acceptor = Acceptor()
        self.requestor_events: list[Event] = []
        self.acceptor_events: list[Event] = []
        self.data_sets: list[bytes] = []
        self._current = bytearray()
        self._answer = answer
        self._piece = piece

    def exchange(self) -> None:
        """Carry bytes both ways until neither side has any."""
        while True:
            outbound = b"".join(self.requestor.parts_to_send())
            for piece in self._cut(outbound):
                for event in self.acceptor.receive(piece):
                    self.acceptor_events.append(event)
                    self._serve(event)
            inbound = self.acceptor.data_to_send()
            for piece in self._cut(inbound):
                self.requestor_events.extend(self.requestor.receive(piece))
            if not outbound and not inbound:
                return

    def _serve(self, event: Event) -> None:
        if isinstance(event, AssociationRequested):
            answer = self._answer(event.request)
            if isinstance(answer, AssociateReject):
                self.acceptor.reject(answer)
            else:
                self.acceptor.accept(answer)
        elif fragments := getattr(event, "fragments", None):
            self._current += b"".join(fragments)
        if getattr(event, "is_last", False):
            self.data_sets.append(bytes(self._current))
            self._current.clear()

    def _cut(self, data: bytes) -> Iterator[memoryview]:
        size = self._piece or max(len(data), 1)
        for start in range(0, len(data), size):
            yield memoryview(data)[start : start + size]


@pytest.fixture
def join(make_request: Callable[..., AssociateRequest]) -> Callable[..., Wire]:
    """Join two endpoints; `piece` cuts the bytes on the wire, `answer` replaces the usual negotiation."""

    def _join(
        request: AssociateRequest | None = None,
        answer: Callable[[AssociateRequest], AssociateAccept | AssociateReject] | None = None,
        piece: int = 0,
    ) -> Wire:
        usual = answer or (lambda asked: negotiate(asked, max_length=131_072))
        return Wire(request or make_request(), usual, piece)

    return _join


_uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(lambda parts: "1." + ".".join(map(str, parts)))
_titles = st.text(
    st.characters(codec="ascii", min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"),
    min_size=1,
    max_size=16,
)
_lengths = st.integers(0, 2**32 - 1)
_windows = st.none() | st.tuples(st.integers(0, 65_535), st.integers(0, 65_535))
_roles = st.builds(Role, _uids, st.booleans(), st.booleans())
_distinct_roles = st.lists(_roles, max_size=3, unique_by=lambda role: role.sop_class_uid).map(tuple)
_proposed = st.builds(ProposedContext, st.just(0), _uids, st.lists(_uids, min_size=1, max_size=4).map(tuple))
_answered = st.builds(AnsweredContext, st.just(0), st.integers(0, 4), _uids)
_fields = st.binary(min_size=1, max_size=40)
# Only type 2 has a secondary field (PS3.7 D.3.3.7.1).
_identities = st.builds(UserIdentity, st.sampled_from((1, 3, 4, 5)), st.booleans(), _fields, st.just(b"")) | st.builds(
    UserIdentity, st.just(2), st.booleans(), _fields, _fields
)


def _number(contexts: list[Any]) -> tuple[Any, ...]:
    """Give contexts the odd numbers."""
    return tuple(type(each)(2 * index + 1, *_rest(each)) for index, each in enumerate(contexts))


def _rest(context: Any) -> tuple[Any, Any]:
    if isinstance(context, ProposedContext):
        return context.abstract_syntax, context.transfer_syntaxes
    return context.result, context.transfer_syntax


@pytest.fixture(scope="session")
def associate_requests() -> st.SearchStrategy[AssociateRequest]:
    """Give a strategy for requests of all shapes."""
    return st.builds(
        AssociateRequest,
        called_ae_title=_titles,
        calling_ae_title=_titles,
        contexts=st.lists(_proposed, min_size=1, max_size=8).map(_number),
        max_length=_lengths,
        protocol_version=st.integers(0, 65_535),
        application_context=_uids,
        implementation_class_uid=_uids,
        implementation_version_name=_titles,
        asynchronous_window=_windows,
        roles=_distinct_roles,
        common_extended=st.lists(st.tuples(_uids, _uids, st.lists(_uids, max_size=3).map(tuple)), max_size=3).map(
            tuple
        ),
        user_identity=st.none() | _identities,
    )


@pytest.fixture(scope="session")
def associate_accepts() -> st.SearchStrategy[AssociateAccept]:
    """Give a strategy for acceptances of all shapes."""
    return st.builds(
        AssociateAccept,
        contexts=st.lists(_answered, max_size=8).map(_number),
        max_length=_lengths,
        echoed=st.binary(min_size=64, max_size=64),
        asynchronous_window=_windows,
        roles=_distinct_roles,
        user_identity_response=st.none() | st.binary(max_size=40),
        implementation_class_uid=_uids,
        implementation_version_name=_titles,
    )
