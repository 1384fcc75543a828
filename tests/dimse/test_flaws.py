"""Requests and command sets with one flaw: it costs its own context, item or element, and the good context stores.

The table stands in `flawed_requests`; `tests/interop/test_dcmtk.py` tells what DCMTK's storescp makes of it.
"""

import os
import struct
from collections.abc import Iterator

import pytest
from flawed_requests import CT, FLAWED_COMMANDS, FLAWED_REQUESTS, GOOD, USER, item, request
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT, is_usable
from dicomflow.dimse.acceptor import Acceptor, State
from dicomflow.dimse.command import Command
from dicomflow.dimse.events import AssociationRequested, CommandReceived, DataSetReceived, Event
from dicomflow.dimse.negotiation import AcceptedContext, Offer, negotiate
from dicomflow.dimse.pdu import AssociateRequest, decode_associate_accept

OFFER = Offer(services=frozenset({STORAGE_COMMITMENT}))
EXAMPLES = int(os.environ.get("DICOMFLOW_FUZZ_EXAMPLES", "100"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, database=None)


def drain(acceptor: Acceptor, data: bytes) -> Iterator[Event]:
    """Yield what bytes lead to; a request for an association is accepted."""
    for event in acceptor.receive(memoryview(data)):
        if isinstance(event, AssociationRequested):
            acceptor.accept(negotiate(event.request, max_length=131_072, offer=OFFER))
        yield event


def accepted(encoded: bytes) -> Acceptor:
    """Return an acceptor that took a request, of which context 1 is accepted and each ID answered once."""
    acceptor = Acceptor()
    (event,) = drain(acceptor, encoded)
    assert isinstance(event, AssociationRequested), event
    assert AcceptedContext(1, CT.decode(), EXPLICIT_VR_LITTLE_ENDIAN) == acceptor.contexts[1]
    answer = acceptor.data_to_send()
    contexts = decode_associate_accept(answer[6:]).contexts
    assert [each.context_id for each in event.request.contexts] == [each.context_id for each in contexts]
    assert all(is_usable(each.transfer_syntax) for each in contexts)
    assert len(contexts) == len({each.context_id for each in contexts})
    return acceptor


def stored(acceptor: Acceptor, command: bytes) -> Command:
    """Send a C-STORE-RQ and a data set on context 1, and return the command as it was understood."""
    message = b"".join(
        struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, 1, control) + data
        for control, data in ((3, command), (2, b"data"))
    )
    event, data_set = drain(acceptor, message)
    assert isinstance(event, CommandReceived), event
    assert isinstance(data_set, DataSetReceived), data_set
    assert data_set.is_last
    assert State.STA6 is acceptor.state
    return event.command


@pytest.mark.parametrize("name", FLAWED_REQUESTS)
def test_flaw_beside_a_good_context_leaves_it_usable(name: str):
    """The association is accepted and stores, whatever is wrong with another context or with user information."""
    command = stored(accepted(FLAWED_REQUESTS[name]), FLAWED_COMMANDS["no priority"])
    assert b"1.2.3.4\0" == command.affected_sop_instance_uid


def test_flawed_context_is_answered_or_has_no_id():
    """A context that nobody can use is refused by its ID; only one without an ID, or one too many, has no answer."""
    unanswered = {name for name, encoded in FLAWED_REQUESTS.items() if len(_answers(encoded)) == 1}
    expected = {"empty context", "ID twice, the same", "ID twice, another abstract syntax"}
    expected |= {"ID twice, another transfer syntax", "an answered context", "unknown item", "empty item of type 0"}
    assert expected == {name.partition(": ")[2] for name in unanswered if name.startswith("context")}


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("letters in the abstract syntax", 3),
        ("abstract syntax of 70 characters", 3),
        ("no abstract syntax", 3),
        ("two abstract syntaxes", 3),
        ("sub-item longer than its context", 3),
        ("no transfer syntax", 4),
        ("empty transfer syntax", 4),
        ("ID 0", 2),
        ("even ID", 0),
        ("transfer syntax of 70 characters", 0),
        ("padding behind the sub-items", 0),
        ("padded with spaces", 0),
    ],
)
def test_flawed_context_has_the_result_of_its_flaw(name: str, result: int):
    """3 without one abstract syntax that is served, 4 without a transfer syntax that is; what is unsafe to use is 2."""
    assert result == _answers(FLAWED_REQUESTS[f"context: {name}"])[-1]


def _answers(encoded: bytes) -> list[int]:
    acceptor = Acceptor()
    list(drain(acceptor, encoded))
    return [each.result for each in decode_associate_accept(acceptor.data_to_send()[6:]).contexts]


@pytest.mark.parametrize("name", FLAWED_COMMANDS)
def test_flawed_command_set_stores(name: str):
    """What is flawed in a command set and not needed to store the instance does not hinder it."""
    command = stored(accepted(request()), FLAWED_COMMANDS[name])
    assert (1, 1, b"1.2.3.4") == (
        command.command_field,
        command.message_id,
        (command.affected_sop_instance_uid or b"").rstrip(b"\0"),
    )
    assert CT == (command.affected_sop_class_uid or b"").rstrip(b"\0 ")


_values = st.binary(max_size=60)
_sub_items = st.lists(
    st.tuples(st.integers(0x51, 0x5A), _values, st.integers(0, 99)).map(lambda each: item(each[0], each[1], each[2]))
    | st.tuples(st.integers(0, 255), _values).map(lambda each: item(*each))
    | _values,
    max_size=5,
).map(b"".join)


@fuzzed
@given(st.lists(_values | _sub_items, max_size=4), _sub_items)
def test_whatever_stands_in_another_context_the_good_one_is_accepted(contexts: list[bytes], user: bytes):
    """Any bytes in a context's item, and any behind the sub-items that every request has."""
    others = b"".join(item(0x20, value) for value in contexts)
    acceptor = accepted(request(GOOD + others, item(0x50, USER + user)))
    assert isinstance(acceptor.request, AssociateRequest)
    assert 16_384 == acceptor.request.max_length
    stored(acceptor, FLAWED_COMMANDS["no priority"])


@fuzzed
@given(_values | _sub_items)
def test_whatever_user_information_holds_the_context_is_accepted(user: bytes):
    """Any bytes at all, and the good context is accepted."""
    accepted(request(user=item(0x50, user)))
