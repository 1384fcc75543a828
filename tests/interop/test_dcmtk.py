"""DCMTK's programs as peers: what they send is stored as they sent it, indexed and mapped."""

import shutil
import socket
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from flawed_requests import FLAWED_REQUESTS, REFUSED_BY_DCMTK
from pydicom import dcmread
from waiting import WAIT_SECONDS, wait_for

from dicomflow import samples

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
PEER = ("-aec", "DICOMFLOW", "127.0.0.1")

pytestmark = pytest.mark.interop


def test_echoscu_verification_succeeds(receiver: Any, dcmtk: Any):
    """C-ECHO is answered, three times in one association, under any called AE title."""
    result = dcmtk("echoscu", "-v", "--repeat", 3, "-aec", "ANY-AE", "127.0.0.1", receiver.port)
    assert 0 == result.returncode, result.stderr
    assert 3 == (result.stdout + result.stderr).count("Received Echo Response (Success)")


@pytest.mark.parametrize("options", [(), ("-xi",), ("-xe",), ("-R",), ("-R", "+C"), ("--max-pdu", "4096")])
def test_storescu_uncompressed_study_is_mapped(receiver: Any, dcmtk: Any, study: tuple[Path, ...], options: Any):
    """Whatever uncompressed transfer syntaxes storescu proposes, all instances arrive with their pixels."""
    result = dcmtk("storescu", *options, *PEER, receiver.port, *study)
    assert 0 == result.returncode, result.stderr
    receiver.wait_until_mapped(path.stem for path in study)
    objects = receiver.objects()
    for path in study:
        (stored,) = objects[path.stem]
        assert dcmread(path) == dcmread(stored)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-xy", "SC_rgb_jpeg_dcmtk.dcm"),
        ("-xs", "SC_rgb_jpeg_gdcm.dcm"),
        ("-xx", "JPGExtended.dcm"),
        ("-xv", "MR_small_jp2klossless.dcm"),
        ("-xw", "JPEG2000.dcm"),
        ("-xt", "MR_small_jpeg_ls_lossless.dcm"),
        ("-xr", "MR_small_RLE.dcm"),
        ("-xb", "MR_small_bigendian.dcm"),
        ("-xd", "image_dfl.dcm"),
    ],
)
def test_storescu_compressed_file_keeps_its_transfer_syntax(
    receiver: Any, dcmtk: Any, tmp_path: Path, option: str, name: str
):
    """A compressed object is stored in the transfer syntax it has, with the same pixel data."""
    original = dcmread(PYDICOM_FILES / name)
    syntax = original.file_meta.TransferSyntaxUID
    # Some of these files share their UIDs; each test needs an object of its own.
    number = 10 * zlib.crc32(name.encode())
    original.SOPInstanceUID = original.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number}"
    original.StudyInstanceUID = f"2.25.{number + 1}"
    original.SeriesInstanceUID = f"2.25.{number + 2}"
    path = tmp_path / f"{original.SOPInstanceUID}.dcm"
    original.save_as(path)
    result = dcmtk("storescu", "-R", option, *PEER, receiver.port, path)
    assert 0 == result.returncode, result.stderr
    receiver.wait_until_mapped([path.stem])
    (stored,) = receiver.objects()[path.stem]
    assert syntax == dcmread(stored).file_meta.TransferSyntaxUID
    assert original.PixelData == dcmread(stored).PixelData


def test_dcmsend_study_with_private_and_compressed_objects_is_mapped(receiver: Any, dcmtk: Any, tmp_path: Path):
    """dcmsend, which negotiates what its files need, delivers a private SOP class and JPEG in one association."""
    paths = samples.write(samples.demo_studies(seed=77), tmp_path)
    result = dcmtk("dcmsend", "-v", "-aec", "DICOMFLOW", "127.0.0.1", receiver.port, *paths)
    assert 0 == result.returncode, result.stderr
    assert "with status SUCCESS  : 18" in result.stdout + result.stderr
    receiver.wait_until_mapped(path.stem for path in paths)


def test_storescu_four_at_once_are_all_mapped(receiver: Any, dcmtk: Any, tmp_path: Path):
    """Four senders at once, each with a study of its own, lose nothing."""
    studies = [samples.write(samples.ct_study(900 + n, slices=10), tmp_path / str(n)) for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda paths: dcmtk("storescu", *PEER, receiver.port, *paths), studies))
    assert [0] * 4 == [result.returncode for result in results]
    receiver.wait_until_mapped(path.stem for paths in studies for path in paths)


def test_storescu_association_for_each_file_is_one_delivery(receiver: Any, dcmtk: Any, study: tuple[Path, ...]):
    """A modality that opens an association for each image still gets one delivery for its study."""
    for path in study:
        assert 0 == dcmtk("storescu", "-R", *PEER, receiver.port, path).returncode
    receiver.wait_until_mapped(path.stem for path in study)
    uid = dcmread(study[0], stop_before_pixels=True).StudyInstanceUID
    sql = f"SELECT count(DISTINCT delivery_id) FROM stored_object WHERE study_instance_uid = '{uid}'"
    assert [(1,)] == receiver.query(sql)


def test_storescu_that_aborts_loses_nothing_it_was_told_is_stored(receiver: Any, dcmtk: Any, study: tuple[Path, ...]):
    """An association that ends in an abort keeps what was acknowledged before it."""
    result = dcmtk("storescu", "-v", "--abort", *PEER, receiver.port, *study)
    assert len(study) == (result.stdout + result.stderr).count("Received Store Response (Success)")
    receiver.wait_until_mapped(path.stem for path in study)


def test_storescp_takes_the_flawed_requests_that_are_said_to_be_taken(tmp_path: Path):
    """What stands in the table as taken by DCMTK is: a device that worked with it works here."""
    found = shutil.which("storescp")
    if found is None:
        pytest.skip("DCMTK's storescp is not installed (package dcmtk)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([found, "-od", tmp_path, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _answer(port, FLAWED_REQUESTS["no user information"]) == 2)
        expected = {name for name in FLAWED_REQUESTS if name.rpartition(": ")[2] not in REFUSED_BY_DCMTK}
        assert expected == {name for name in expected if _answer(port, FLAWED_REQUESTS[name]) == 2}
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)


def _answer(port: int, request: bytes) -> int:
    """Return the type of the PDU that answers a request; 0 for none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as connection:
            connection.sendall(request)
            return int.from_bytes(connection.recv(1), "big")
    except ConnectionError:
        return 0
