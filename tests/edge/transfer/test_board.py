"""What is to be sent next: each instance is one thread's at a time."""

from pathlib import Path

import pytest
from clocks import Clock

from dicomflow.bucket.transfer import InstanceState, Job, JobInstance
from dicomflow.edge.spool.transfers import TransferFolders
from dicomflow.edge.transfer.board import Board, Transfer


@pytest.fixture
def board(clock: Clock) -> Board:
    """Give a board."""
    return Board(clock)


@pytest.fixture
def transfer(tmp_path: Path, board: Board) -> Transfer:
    """Give a transfer of three instances on it."""
    instances = tuple(JobInstance(number, "1.2", f"1.2.{number}", "1.2.3", 100, "") for number in range(3))
    job = Job("edge", "t1", 1, "PACS", instances)
    return board.add(job, TransferFolders(tmp_path).take(job), "PACS")


@pytest.mark.parametrize("how", ["tried again", "put off"])
def test_what_another_has_taken_meanwhile_is_not_given_back(board: Board, transfer: Transfer, clock: Clock, how: str):
    """A slow batch ends after its first instance was due again: that is another's by now, and not sent twice."""
    slow = board.take("PACS")
    assert slow is not None
    if how == "put off":
        board.put_off(transfer, 0, "the store did not answer")
    else:
        board.note(transfer, board.answer_of(transfer, 0, InstanceState.QUEUED, "status A700H", 0xA700))
    clock.now += 1000
    other = board.take("PACS")
    assert other is not None
    assert [0] == [each.number for each in other.instances]
    board.put_back(slow)
    rest = board.take("PACS")
    assert rest is not None
    assert [1, 2] == [each.number for each in rest.instances]
    assert board.take("PACS") is None


def test_instance_that_is_put_off_waits_longer_each_time(board: Board, transfer: Transfer, clock: Clock):
    """Its neighbours go before it, up to a minute passes, it costs no attempt, and its reason is told."""
    board.take("PACS")
    pauses = []
    for _ in range(8):
        board.put_off(transfer, 0, "the store did not answer")
        assert board.take("PACS") is None
        began = clock.now
        while (batch := board.take("PACS")) is None:
            clock.now += 1
        assert [0] == [each.number for each in batch.instances]
        pauses.append(clock.now - began)
    assert [1, 2, 4, 8, 16, 32, 60, 60] == pauses
    (told,) = board.returns_of(transfer, "edge").instances
    assert (0, "the store did not answer", 0) == (told.number, told.reason, told.attempts)
