"""Queries and retrievals as a requestor, against another make that answers as it likes (PS3.4 C.4)."""

import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sources import Source
from waiting import WAIT_SECONDS

from dicomflow import samples
from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import AssociationRequested, CommandReceived
from dicomflow.dimse.identifier import Tag, decode_identifier, encode_identifier, text_value, uid_list, uid_value
from dicomflow.dimse.items import AnsweredContext, Role
from dicomflow.dimse.pdu import AssociateAccept
from dicomflow.dimse.status import Status
from dicomflow.errors import PeerError, PermanentError, TransientError
from dicomflow.network import requesting
from dicomflow.network.querying import QueryAssociation, Retrieved
from dicomflow.network.requesting import propose

# pynetdicom leaves sockets to the collector when a peer breaks off.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

BOTH = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDIES = {Tag.QUERY_RETRIEVE_LEVEL: b"STUDY", Tag.STUDY_INSTANCE_UID: b"", Tag.STUDY_DATE: b""}


@pytest.fixture
def source() -> Iterator[Source]:
    """Give a source with a study of four images."""
    made = Source(list(samples.ct_study(1, series=2, slices=2)))
    yield made
    made.close()


def _association(port: int, *classes: str, seconds: float = WAIT_SECONDS, roles: tuple[Role, ...] = ()) -> Any:
    pairs = [(each, BOTH) for each in classes]
    pairs += [(role.sop_class_uid, BOTH) for role in roles]
    return QueryAssociation(
        *("127.0.0.1", port, propose(pairs)),
        calling_ae_title="EDGE",
        called_ae_title="SOURCE",
        timeout_seconds=seconds,
        roles=roles,
    )


def test_find_gives_each_answer_and_how_it_ended(source: Source):
    """Answers come in order, with what was asked of them."""
    found: list[dict[int, bytes]] = []
    with _association(source.port, STUDY_ROOT_FIND) as association:
        result = association.find(STUDIES, found.append)
    (study,) = {image.StudyInstanceUID for image in source.images}
    assert (0, 1, 0) == (result.status, result.answers, result.unreadable)
    assert [(study, "20260131")] == [
        (uid_value(each, Tag.STUDY_INSTANCE_UID), text_value(each, Tag.STUDY_DATE)) for each in found
    ]


def test_find_of_a_failing_source_is_no_empty_answer(source: Source):
    """The status says so, and nothing else may be taken for an answer."""
    source.fails_find = 0xA700
    with _association(source.port, STUDY_ROOT_FIND) as association:
        assert 0xA700 == association.find(STUDIES, lambda _: None).status


def test_find_where_no_query_is_taken_is_permanent(source: Source):
    """A peer that does not accept the context is no empty source either."""
    with (
        _association(source.port, STUDY_ROOT_MOVE) as association,
        pytest.raises(PermanentError, match="accepts no presentation context"),
    ):
        association.find(STUDIES, lambda _: None)


def test_find_request_leaves_in_one_send(source: Source, monkeypatch: pytest.MonkeyPatch):
    """A peer with delayed acknowledgements makes a request in two segments wait 40 ms."""
    sends: list[int] = []
    with _association(source.port, STUDY_ROOT_FIND) as association:
        real = requesting.send_all
        monkeypatch.setattr(requesting, "send_all", lambda *each: (sends.append(len(each[1])), real(*each)))
        association.find(STUDIES, lambda _: None)
        assert [4] == sends


def test_move_follows_the_counts_to_the_end(source: Source):
    """A pending answer tells how far it is; the destination is named as the peer knows it."""
    told: list[Retrieved | None] = []

    def go_on(each: Retrieved | None) -> bool:
        told.append(each)
        return True

    with _association(source.port, STUDY_ROOT_MOVE) as association:
        unknown = association.move(STUDIES, "NOWHERE", go_on=go_on)
    assert 0xA801 == unknown.status


def test_get_without_a_role_is_told_and_with_it_brings_the_objects(source: Source):
    """PS3.4 C.5.3: the requestor of a C-GET is SCP of storage, by role selection."""
    (study,) = {image.StudyInstanceUID for image in source.images}
    keys = {Tag.QUERY_RETRIEVE_LEVEL: b"STUDY", Tag.STUDY_INSTANCE_UID: study.encode()}
    sink = _Sink()
    with _association(source.port, STUDY_ROOT_GET, roles=(Role(CT, scu=False, scp=True),)) as association:
        assert association.is_scp_of(CT)
        result = association.get(keys, sink, go_on=lambda _: True)
    assert (0, 4, 0) == (result.status, result.completed, result.failed)
    assert sorted(image.SOPInstanceUID for image in source.images) == sorted(sink.finished)


def test_get_that_is_cancelled_ends_with_what_it_had(source: Source):
    """FE00H, and the objects that came before stay taken."""
    (study,) = {image.StudyInstanceUID for image in source.images}
    keys = {Tag.QUERY_RETRIEVE_LEVEL: b"STUDY", Tag.STUDY_INSTANCE_UID: study.encode()}
    source.late_seconds = 0.2
    sink = _Sink()
    with _association(source.port, STUDY_ROOT_GET, roles=(Role(CT, scu=False, scp=True),)) as association:
        result = association.get(keys, sink, go_on=lambda _: not sink.finished)
    assert 0xFE00 == result.status
    assert len(sink.finished) < 4


def test_odd_answers_are_taken_as_they_are():
    """A pending without a status or an identifier, one that is none, another message's, and counts left out."""
    failed = encode_identifier({Tag.FAILED_SOP_INSTANCE_UID_LIST: b"1.2.3 \\1.2.4\0"}, BOTH[0])
    good = encode_identifier({Tag.STUDY_INSTANCE_UID: b" 1.2 \0"}, BOTH[0])
    script: dict[int, list[tuple[int | None, bytes | None, dict[str, int]]]] = {
        CommandField.C_FIND_RQ: [
            (None, good, {}),
            (0xFF01, b"", {}),
            (0xFF00, b"\x08\x00no identifier", {}),
            (0xFF00, good, {"message_id_responded_to": 77}),
            (0x0000, None, {}),
        ],
        CommandField.C_MOVE_RQ: [
            (0xFF00, None, {"completed_suboperations": 3, "remaining_suboperations": 2}),
            (0xB000, failed, {"failed_suboperations": 2}),
        ],
    }
    found: list[dict[int, bytes]] = []
    with _scripted(script) as port, _association(port, STUDY_ROOT_FIND, STUDY_ROOT_MOVE) as association:
        result = association.find(STUDIES, found.append)
        moved = association.move(STUDIES, "EDGE", go_on=lambda _: True)
    assert (0, 3, 2) == (result.status, result.answers, result.unreadable)
    assert ["1.2", "", ""] == [uid_value(each, Tag.STUDY_INSTANCE_UID) for each in found]
    assert Retrieved(0xB000, "", None, 3, 2, None, ("1.2.3", "1.2.4")) == moved


def test_an_answer_without_status_and_identifier_is_the_peers_fault():
    """It can be neither an answer nor an end."""
    with (
        _scripted({CommandField.C_FIND_RQ: [(None, None, {})]}) as port,
        _association(port, STUDY_ROOT_FIND) as association,
        pytest.raises(PeerError, match="no status"),
    ):
        association.find(STUDIES, lambda _: None)


def test_silence_is_an_error_and_no_end():
    """A source that says nothing any more has not answered."""
    with (
        _scripted({CommandField.C_FIND_RQ: []}) as port,
        _association(port, STUDY_ROOT_FIND, seconds=0.3) as association,
        pytest.raises(TransientError, match="no answer"),
    ):
        association.find(STUDIES, lambda _: None)


@pytest.mark.parametrize("transfer_syntax_uid", BOTH)
def test_identifiers_are_read_as_they_were_written(transfer_syntax_uid: str):
    """Both encodings, ascending, padded to even lengths, and read by pydicom too."""
    values = {Tag.SOP_INSTANCE_UID: uid_list(["1.2.3", "1.2.4"]), Tag.STUDY_DATE: b"", Tag.PATIENT_ID: b"ABC"}
    encoded = encode_identifier(values, transfer_syntax_uid)
    assert "ABC" == text_value(decode_identifier(encoded, transfer_syntax_uid), Tag.PATIENT_ID)
    from pydicom.filereader import read_dataset

    read = read_dataset(io.BytesIO(encoded), transfer_syntax_uid == BOTH[0], is_little_endian=True)
    assert ["1.2.3", "1.2.4"] == list(read.SOPInstanceUID)
    assert [*sorted(values)] == [int(element.tag) for element in read]


def test_a_list_that_explicit_vr_cannot_hold_is_an_error_of_ours():
    """PS3.5 7.1.2: it would be cut."""
    with pytest.raises(ValueError, match="exceeds"):
        encode_identifier({Tag.SOP_INSTANCE_UID: uid_list(["1.2.840." + "1" * 56] * 1020)}, BOTH[1])


def test_an_identifier_that_is_cut_short_is_refused():
    """What is missing might be the key."""
    encoded = encode_identifier({Tag.STUDY_INSTANCE_UID: b"1.2.3.4"}, BOTH[0])
    with pytest.raises(PeerError):
        decode_identifier(encoded[:-3], BOTH[0])


class _Sink:
    def __init__(self) -> None:
        self.finished: dict[str, bytes] = {}

    def begin(self, _sop_class_uid: str, sop_instance_uid: str, _transfer_syntax_uid: str) -> None:
        self._uid, self._data = sop_instance_uid, bytearray()

    def write(self, data: memoryview) -> None:
        self._data += data

    def finish(self) -> Status:
        self.finished[self._uid] = bytes(self._data)
        return Status.SUCCESS


class _scripted:  # noqa: N801  # used as a function is
    """A peer that answers each command with what its script has."""

    def __init__(self, script: dict[int, list[tuple[int | None, bytes | None, dict[str, int]]]]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._thread.join(WAIT_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        core = Acceptor()
        with connection:
            while data := connection.recv(65536):
                for event in core.receive(memoryview(data)):
                    if isinstance(event, AssociationRequested):
                        answers = tuple(AnsweredContext(each.context_id, 0, BOTH[0]) for each in event.request.contexts)
                        core.accept(AssociateAccept(answers, 16384))
                    elif isinstance(event, CommandReceived):
                        self._answer(core, event)
                connection.sendall(core.data_to_send())

    def _answer(self, core: Acceptor, event: CommandReceived) -> None:
        for status, identifier, changes in self._script.get(event.command.command_field, []):
            fields: dict[str, Any] = {
                "message_id_responded_to": event.command.message_id,
                "status": status,
                "data_set_type": 0x0101 if identifier is None else 1,
            }
            command = Command(event.command.command_field | 0x8000, **(fields | changes))
            core.send(event.context.context_id, encode_command(command), identifier)
