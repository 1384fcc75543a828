"""The journal of `dicomflow send`."""

from pathlib import Path

import pytest

from dicomflow.errors import PermanentError
from dicomflow.send.files import Candidate
from dicomflow.send.journal import Journal

FIRST, SECOND, MEMBER = Candidate(Path("/a"), 1, 2), Candidate(Path("/b"), 1, 2), Candidate(Path("/a"), 1, 2, "x")


def test_journal_opened_again_has_what_was_added(tmp_path: Path):
    """A file is known by its name, size and time of change: one that has changed is not."""
    path = tmp_path / "journal"
    journal = Journal(path, "pacs 104 PACS")
    assert not journal.has(FIRST)
    journal.add(FIRST, "1.2.3")
    journal.close()
    again = Journal(path, "pacs 104 PACS")
    assert [True, False, False] == [again.has(each) for each in (FIRST, SECOND, MEMBER)]
    assert not again.has(Candidate(Path("/a"), 2, 2))
    assert not again.has(Candidate(Path("/a"), 1, 3))
    again.close()


def test_journal_cut_off_keeps_the_whole_lines(tmp_path: Path):
    """Of a line that a power cut left half the file is sent again."""
    path = tmp_path / "journal"
    journal = Journal(path, "pacs 104 PACS")
    journal.add(FIRST, "1.2.3")
    journal.add(SECOND, "1.2.4")
    journal.close()
    path.write_bytes(path.read_bytes()[:-20])
    again = Journal(path, "pacs 104 PACS")
    assert [True, False] == [again.has(each) for each in (FIRST, SECOND)]
    again.close()


@pytest.mark.parametrize("content", ['{"journal": "dicomflow send 1", "receiver": "other 104 X"}\n', "notes\n", "{}\n"])
def test_journal_of_something_else_is_refused(tmp_path: Path, content: str):
    """What one receiver has is no reason to keep it from another; a file that is no journal is not written to."""
    path = tmp_path / "journal"
    path.write_text(content)
    with pytest.raises(PermanentError):
        Journal(path, "pacs 104 PACS")
    assert content == path.read_text()
