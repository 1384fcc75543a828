"""What is found to be sent, and that its data set is the file's."""

import zipfile
from pathlib import Path

import pytest
from media import write_medium

from dicomflow import samples
from dicomflow.edge.sendfiles import find_candidates, read_stored_file
from dicomflow.errors import PeerError, PermanentError


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Write three images."""
    return samples.write(samples.ct_study(5, series=1, slices=3), tmp_path / "images")


def _enlarge(path: Path, size: int) -> None:
    """Make a file longer, as one with more pixels is."""
    with path.open("ab") as file:
        file.write(b"\xfc\xff\xfc\xffOB\0\0" + size.to_bytes(4, "little") + bytes(size))


@pytest.mark.parametrize("more_bytes", [0, 20_000, 2 << 20])
@pytest.mark.parametrize("is_packed", [False, True])
def test_data_set_of_any_size_is_the_files(images: list[Path], tmp_path: Path, more_bytes: int, *, is_packed: bool):
    """Small and large files, and members of archives, give the same bytes behind the meta information."""
    if more_bytes:
        _enlarge(images[0], more_bytes)
    content = images[0].read_bytes()
    if is_packed:
        with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(images[0], "a/b")
        file = read_stored_file(tmp_path / "images.zip", "a/b")
    else:
        file = read_stored_file(images[0])
    assert len(content) == file.bytes
    with file.data_set() as data_set:
        assert content[file.meta.data_set_offset :] == bytes(data_set)


def test_find_candidates_of_an_archive_are_its_members(images: list[Path], tmp_path: Path):
    """Every member is a candidate with its own name, folders are none."""
    with zipfile.ZipFile(tmp_path / "images.ZIP", "w") as archive:
        archive.mkdir("a")
        for image in images:
            archive.write(image, f"a/{image.name}")
    found = list(find_candidates([tmp_path / "images.ZIP"]))
    assert [f"{tmp_path / 'images.ZIP'}!a/{image.name}" for image in images] == [each.name for each in found]
    assert [image.stat().st_size for image in images] == [each.bytes for each in found]


def test_find_candidates_of_a_dicomdir_are_the_files_that_it_lists(images: list[Path], tmp_path: Path):
    """Of a medium every referenced file is found, and one that is missing is a failure of its own."""
    write_medium(images, tmp_path / "medium")
    found = list(find_candidates([tmp_path / "medium" / "DICOMDIR"]))
    assert 3 == len(found)
    assert {read_stored_file(image).meta.sop_instance_uid for image in images} == {
        read_stored_file(each.path).meta.sop_instance_uid for each in found
    }
    assert all(each.is_named for each in found)
    found[0].path.unlink()
    (first, *_) = find_candidates([tmp_path / "medium" / "DICOMDIR"])
    with pytest.raises(FileNotFoundError):
        read_stored_file(first.path)


def test_find_candidates_of_a_medium_in_lower_case_are_found(images: list[Path], tmp_path: Path):
    """A copy whose names have lost their case is read all the same."""
    write_medium(images[:1], tmp_path / "medium")
    (found,) = find_candidates([tmp_path / "medium" / "DICOMDIR"])
    lower = tmp_path / "lower" / Path(str(found.path.relative_to(tmp_path / "medium")).lower())
    lower.parent.mkdir(parents=True)
    found.path.rename(lower)
    (tmp_path / "medium" / "DICOMDIR").rename(tmp_path / "lower" / "dicomdir")
    assert [lower] == [each.path for each in find_candidates([tmp_path / "lower" / "dicomdir"])]


def test_read_stored_file_of_a_dicomdir_is_refused(images: list[Path], tmp_path: Path):
    """In a folder a DICOMDIR is no instance; what it lists lies beside it."""
    write_medium(images[:1], tmp_path / "medium")
    with pytest.raises(PeerError, match="no instance"):
        read_stored_file(tmp_path / "medium" / "DICOMDIR")
    assert 2 == len(list(find_candidates([tmp_path / "medium"])))


def test_archive_that_is_none_is_a_permanent_error(tmp_path: Path):
    """A broken archive and a broken member are told, and are no bug of ours."""
    path = tmp_path / "images.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(PermanentError, match="is no zip archive"):
        list(find_candidates([path]))
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("a", bytes(100_000))
    content = broken.read_bytes()
    broken.write_bytes(content[:5000] + b"x" + content[5001:])
    (found,) = find_candidates([broken])
    with pytest.raises((PermanentError, PeerError)):
        read_stored_file(found.path, found.member)
