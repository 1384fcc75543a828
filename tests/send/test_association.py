"""What the store SCU reads from a file before it sends it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from waiting import WAIT_SECONDS, free_ports

from dicomflow import samples
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.uids import VERIFICATION
from dicomflow.errors import PeerError, PermanentError, TransientError
from dicomflow.send.association import Outcome, SendAssociation
from dicomflow.send.files import StoredFile, read_stored_file

PAIR = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")


def _file(folder: Path, **meta: str) -> Path:
    """Write one image whose file meta information has these elements instead of its own."""
    (path, *_) = samples.write(samples.ct_study(1, slices=1), folder)
    dataset = dcmread(path)
    for keyword, value in meta.items():
        setattr(dataset.file_meta, keyword, value)
    dataset.save_as(path, enforce_file_format=False)
    return path


def test_read_stored_file_meta_that_differs_takes_the_data_sets_uids(tmp_path: Path):
    """The command must name the data set's SOP class and instance, whatever the file meta information says."""
    path = _file(tmp_path, MediaStorageSOPInstanceUID="1.2.3", MediaStorageSOPClassUID="1.2.4")
    dataset = dcmread(path)
    assert "1.2.3" == dataset.file_meta.MediaStorageSOPInstanceUID
    meta = read_stored_file(path).meta
    assert (dataset.SOPClassUID, dataset.SOPInstanceUID) == (meta.sop_class_uid, meta.sop_instance_uid)


def test_read_stored_file_data_set_without_uids_keeps_the_metas(tmp_path: Path):
    """A data set that does not say what it is goes under the file's own word; the receiver judges it."""
    path = _file(tmp_path)
    dataset = dcmread(path)
    del dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=False)
    assert path.stem == read_stored_file(path).meta.sop_instance_uid


def test_read_stored_file_no_part_10_is_refused(tmp_path: Path):
    """A file that is no DICOM Part 10 file is refused before a connection is made."""
    path = tmp_path / "note.txt"
    path.write_text("not DICOM " * 100)
    with pytest.raises(PeerError):
        read_stored_file(path)


@pytest.fixture
def association_with(receiver: Any) -> Callable[..., SendAssociation]:
    """Make an association to the receiver of this folder, to be entered."""

    def _association_with(*pairs: tuple[str, str], port: int = 0, called: str = "DICOMFLOW") -> SendAssociation:
        return SendAssociation(
            "127.0.0.1",
            port or receiver.port,
            pairs or (PAIR,),
            calling_ae_title="CT1",
            called_ae_title=called,
            timeout_seconds=WAIT_SECONDS,
        )

    return _association_with


def _stored_files(folder: Path) -> list[StoredFile]:
    return [read_stored_file(path) for path in samples.write(samples.ct_study(3, series=1, slices=3), folder)]


def test_send_stores_the_data_set_bit_for_bit(receiver: Any, association_with: Any, tmp_path: Path):
    """What arrives behind the receiver's meta information is the file's data set."""
    files = _stored_files(tmp_path)
    with association_with() as association:
        outcomes = [association.store(file) for file in files]
    assert [0] * 3 == [outcome.status for outcome in outcomes]
    assert all(outcome.is_stored for outcome in outcomes)
    sent = [file.path.read_bytes()[file.meta.data_set_offset :] for file in files]
    stored = [whole[decode_file_meta(whole[:1000]).data_set_offset :] for whole in receiver.stored()]
    assert sent == stored


def test_send_reads_the_store_status(association_with: Any, tmp_path: Path):
    """A refused object is not stored, and its outcome tells status and comment."""
    (file, *_) = _stored_files(tmp_path)
    broken = StoredFile(file.path, replace(file.meta, sop_instance_uid="1.2.3"), file.bytes)
    with association_with() as association:
        outcome = association.store(broken)
        assert association.store(file).is_stored
    assert (0xA900, False) == (outcome.status, outcome.is_stored)
    assert (
        "status A900H (the data set does not match the SOP class): SOP Instance UID differs from the command's"
        == outcome.reason
    )


def test_send_failure_neither_kills_the_association_nor_the_rest(association_with: Any, tmp_path: Path):
    """A file that vanished, or that the peer has no context for, has its own outcome; the next one is stored."""
    gone, foreign, good = _stored_files(tmp_path)
    gone = replace(gone, content=None)  # as a larger file
    gone.path.unlink()
    foreign = StoredFile(foreign.path, replace(foreign.meta, transfer_syntax_uid="1.2.840.10008.1.2"), foreign.bytes)
    with association_with() as association:
        outcomes = [association.store(file) for file in (gone, foreign, good)]
    assert [False, False, True] == [outcome.is_stored for outcome in outcomes]
    assert "cannot be read: No such file or directory" == outcomes[0].reason
    assert outcomes[1].reason.startswith("the peer accepts no context for ")


def test_send_rejected_association_tells_permanent_from_transient(
    receiver_with: Any, association_with: Any, receiver: Any
):
    """A rejection for good is a permanent error, one for now a transient one, each with its three numbers."""
    strict = receiver_with(called_ae_titles=("OTHER",))
    with pytest.raises(PermanentError, match="association rejected 1/1/7"), association_with(port=strict.port):
        pass
    receiver.draining.set()
    with pytest.raises(TransientError, match="association rejected 2/3/1"), association_with():
        pass


def test_send_to_a_closed_port_is_transient(association_with: Any):
    """A receiver that is not there may be there later."""
    (port,) = free_ports(1)
    with pytest.raises(TransientError, match=f"cannot connect to 127.0.0.1 port {port}"), association_with(port=port):
        pass


def test_echo_of_the_sender_is_answered(association_with: Any):
    """The sender can verify a connection."""
    with association_with((VERIFICATION, "1.2.840.10008.1.2")) as association:
        assert 0 == association.echo()


@pytest.mark.parametrize(
    ("status", "is_stored"),
    [(0, True), (0xB000, True), (0x0107, True), (0xA700, False), (0xC000, False), (None, False)],
)
def test_outcome_counts_success_and_warnings_only_as_stored(tmp_path: Path, status: Any, is_stored: Any):
    """Common toolkits read warnings as stored, and so does the sender (PS3.7 C)."""
    (file, *_) = _stored_files(tmp_path)
    assert is_stored == Outcome(file, status, "").is_stored
