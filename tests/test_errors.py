"""What an error says, and how long a failure is waited out."""

from datetime import timedelta

import pytest

from dicomflow.errors import PermanentError, pause_after, text_of


@pytest.mark.parametrize(("failures", "seconds"), [(0, 2), (1, 2), (2, 4), (4, 16), (6, 60), (10**9, 60)])
def test_pause_doubles_up_to_its_limit(failures: int, seconds: int):
    """However many failures: the number is cut before it is a power."""
    assert seconds == pause_after(failures, 2.0, 60.0)
    assert timedelta(seconds=seconds) == pause_after(failures, timedelta(seconds=2), timedelta(seconds=60))


def test_text_of_a_systems_error_names_no_path():
    """A path may hold what a name of a patient's folder is."""
    assert "No space left on device" == text_of(OSError(28, "No space left on device", "/data/Doe^Jane"))
    assert "as it says" == text_of(PermanentError("as it says"))
