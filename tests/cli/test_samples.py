"""`dicomflow samples` writes the demonstration's studies."""

from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread

Run = Callable[..., tuple[int, str, str]]


def test_samples_are_written_into_a_folder_that_is_made(run: Run, tmp_path: Path):
    """18 images of 3 studies, and again the same."""
    folder = tmp_path / "new" / "dcmdata"
    for _ in range(2):
        assert (0, f"18 images in {folder}\n", "") == run("samples", folder)
    files = sorted(folder.iterdir())
    assert (18, 3) == (len(files), len({dcmread(path).StudyInstanceUID for path in files}))


def test_samples_where_a_file_is_says_so(run: Run, tmp_path: Path):
    """A file in the folder's place is named."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    code, _, errors = run("samples", file)
    assert 1 == code
    assert str(file) in errors
