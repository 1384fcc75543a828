"""Transfers as the spool keeps them: an answer that is damaged costs itself alone."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from spoiling import ODD_VALUES

from dicomflow.bucket.transfer import InstanceState
from dicomflow.edge.spool.transfers import Answer, TransferFolders

ANSWERS = tuple(Answer(1, number, InstanceState.DONE, 0, "", 1.5) for number in range(3))


@pytest.mark.parametrize("member", ["round", "number", "state", "status", "reason", "at", "is_strike", "is_stored"])
def test_answer_that_is_none_is_left_out_and_the_others_are_read(tmp_path: Path, member: str):
    """Whatever a line holds: the transfer, and all others of the edge, go on."""
    folder = TransferFolders(tmp_path, fsync=False).of("t")
    folder.path.mkdir(parents=True)
    for value in ODD_VALUES:
        folder.record(ANSWERS)
        (path,) = folder.path.iterdir()
        lines = path.read_bytes().splitlines()
        lines[1] = json.dumps(asdict(ANSWERS[1]) | {member: value}).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
        found = folder.answers()
        assert (ANSWERS[0], ANSWERS[2]) == (found[0], found[-1])
        path.unlink()
