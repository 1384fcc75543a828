"""What is found to be sent, and that its data set is the file's."""

import errno
import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
from media import write_medium

from dicomflow import samples
from dicomflow.errors import PeerError, PermanentError
from dicomflow.send.files import _on_medium, find_candidates, read_stored_file


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


def test_archive_that_is_none_is_a_failure(tmp_path: Path):
    """A broken archive and a broken member are told, and are no bug of ours."""
    path = tmp_path / "images.zip"
    path.write_bytes(b"no archive")
    (found,) = find_candidates([path])
    assert found.skipped is not None
    assert (f"{path} is no zip archive", True) == (found.skipped.reason, found.skipped.is_failure)
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("a", bytes(100_000))
    content = broken.read_bytes()
    broken.write_bytes(content[:5000] + b"x" + content[5001:])
    (found,) = find_candidates([broken])
    with pytest.raises((PermanentError, PeerError)):
        read_stored_file(found.path, found.member)


posix = pytest.mark.skipif(os.name != "posix", reason="links and FIFOs are POSIX's")


def reasons(*paths: Path) -> dict[str, tuple[str, bool] | None]:
    """Return what is found by its name, and why it is not to be sent."""
    return {
        found.path.name: None if found.skipped is None else (found.skipped.reason, found.skipped.is_failure)
        for found in find_candidates(paths)
    }


@posix
def test_folder_with_anything_in_it_gives_its_files_and_says_what_is_none(images: list[Path], tmp_path: Path):
    """Dangling links, loops, FIFOs, sockets and devices end nothing: what may hide an image is a failure."""
    folder = images[0].parent
    (folder / "a dangling link").symlink_to(folder / "nowhere")
    (folder / "a loop").symlink_to(folder / "a loop")
    (folder / "a link to a file").symlink_to(images[0])
    (folder / "deeper").mkdir()
    (folder / "deeper" / "a link back").symlink_to(folder)
    (folder / "a link to a device").symlink_to("/dev/zero")
    os.mkfifo(folder / "a fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    (folder / "empty").touch()
    found = reasons(folder)
    listener.close()
    no_file = ("it is no file, but a device or the like", False)
    assert {
        **dict.fromkeys(image.name for image in images),
        "a dangling link": ("No such file or directory", True),
        "a loop": ("Too many levels of symbolic links", True),
        "a link to a file": None,
        "a link back": ("it is a link to a folder; name it to send what is in it", False),
        "a link to a device": no_file,
        "a fifo": no_file,
        "s": no_file,
        "empty": None,
    } == found


def test_walk_error_of_a_folder_is_a_failure_of_its_own(images: list[Path], monkeypatch: pytest.MonkeyPatch):
    """A folder that may not be read, or whose names a disk does not give: the files beside it are found."""
    (images[0].parent / "broken").mkdir()
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = reasons(images[0].parent)
    assert (("Input/output error", True), 3) == (found.pop("broken"), len(found))


def test_named_paths_that_are_wrong_end_nothing(images: list[Path], tmp_path: Path):
    """A path that is not there, an archive and a DICOMDIR that are none: the files behind them are found."""
    (tmp_path / "none.zip").write_bytes(b"none")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 200)
    found = reasons(tmp_path / "missing", tmp_path / "none.zip", tmp_path / "DICOMDIR", images[0])
    assert [True, True, True] == [each is not None and each[1] for each in list(found.values())[:3]]
    assert found[images[0].name] is None


@pytest.mark.parametrize(
    "name",
    [
        "IM000000.dcm",
        "im000000",
        "Im000000.DCM",
        "IM000000.",
        "IM000000.;1",
        "im000000;1",
        "IM000000.dcm;1",
        "IM000000.v2",
    ],
)
@pytest.mark.parametrize("folder", ["IMAGES", "images", "Images"])
def test_file_of_a_medium_is_found_however_a_copy_spells_it(images: list[Path], tmp_path: Path, folder: str, name: str):
    """Extensions, cases and versions come and go when media are copied."""
    directory = write_medium(images[:1], tmp_path / "medium")
    (tmp_path / "medium" / "IMAGES").rename(tmp_path / "medium" / "moved")
    (tmp_path / "medium" / "moved").rename(tmp_path / "medium" / folder)
    wanted = tmp_path / "medium" / folder / name
    (tmp_path / "medium" / folder / "IM000000").rename(wanted)
    assert [(wanted, None)] == [(each.path, each.skipped) for each in find_candidates([directory])]


def test_file_of_a_medium_is_the_likest_of_several(images: list[Path], tmp_path: Path):
    """The name itself goes before another case, and that before an extension; a preview beside it is none."""
    directory = write_medium(images[:1], tmp_path / "medium")
    exact = tmp_path / "medium" / "IMAGES" / "IM000000"
    for other in ("IM000000.dcm", "IM000000.bmp", "im000000"):
        exact.with_name(other).write_bytes(b"another")
    assert [exact] == [each.path for each in find_candidates([directory])]
    exact.unlink()
    exact.with_name("im000000").unlink()
    assert ["IM000000.dcm"] == [each.path.name for each in find_candidates([directory])]


@pytest.mark.parametrize(
    "parts",
    [
        ["..", "secret"],
        ["IMAGES", "..", "..", "secret"],
        ["/etc", "passwd"],
        ["../secret"],
        ["..\\secret"],
        ["."],
        ["a\0b"],
    ],
)
def test_file_id_that_leads_out_of_the_medium_finds_nothing_there(tmp_path: Path, parts: list[str]):
    """PS3.10 8.5: a File ID is relative to the medium's root."""
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "medium" / "IMAGES").mkdir(parents=True)
    found = _on_medium(tmp_path / "medium", parts)
    assert found.resolve().is_relative_to(tmp_path / "medium")


@posix
def test_link_of_a_medium_that_leads_out_of_it_is_a_failure(images: list[Path], tmp_path: Path):
    """A medium whose names are links gives nothing of the machine that reads it; its other files are found."""
    directory = write_medium(images, tmp_path / "medium")
    link = tmp_path / "medium" / "IMAGES" / "IM000001"
    link.unlink()
    link.symlink_to(images[1])
    found = list(find_candidates([directory]))
    assert [None, (f"{link} leads out of the medium", True), None] == [
        each.skipped and (each.skipped.reason, each.skipped.is_failure) for each in found
    ]
