"""dicomweb-client, as researchers and 3D Slicer use it, reads a study end to end and stores one."""

import io
import threading
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from framed import GREY, ROOT, image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from stored_archive import SERIES, STUDY, StoredArchive, as_stored, stored_archive
from web_archive import archive_over, asking

from dicomflow.edge.receive.posting import Posting
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.lane import Lane

EXPLICIT, JPEG_LS = f"{ROOT}.1", f"{ROOT}.4.80"
FIRST, SECOND = f"{SERIES}.1", f"{SERIES}.2"

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredArchive]:
    """Give an archive of an image, and of one with two compressed frames."""
    folder = tmp_path_factory.mktemp("archive")
    with stored_archive(folder) as found:
        pixels = encapsulate([imagecodecs.jpegls_encode(each) for each in (GREY, GREY // 2)])
        found.receive(
            as_stored(image(EXPLICIT, GREY.tobytes()), 1),
            as_stored(image(JPEG_LS, pixels, is_encapsulated=True, NumberOfFrames=2), 2),
        )
        yield found


@pytest.fixture(scope="module")
def client(stored: StoredArchive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a client; what it stores goes into a spool."""
    folder = tmp_path_factory.mktemp("spool")
    watermark = Watermark(SpoolSettings(dir=folder), measure=lambda _: 10**12)
    posting = Posting(Lane(folder, "web"), watermark, "ARCHIVE", threading.Event())
    archive = archive_over(stored.engine, None, stored.store)
    with asking(archive, store=posting) as web:
        yield DICOMwebClient(str(web.base_url).rstrip("/"))
    archive.conversions.close()


def test_study_is_found_and_described(client: Any):
    """Search and metadata, at each level."""
    assert (1, 1, 2) == (
        len(client.search_for_studies()),
        len(client.search_for_series(STUDY)),
        len(client.search_for_instances(STUDY)),
    )
    assert (2, 2) == (len(client.retrieve_study_metadata(STUDY)), len(client.retrieve_series_metadata(STUDY, SERIES)))
    assert FIRST == client.retrieve_instance_metadata(STUDY, SERIES, FIRST)["00080018"]["Value"][0]


def test_objects_and_frames_are_what_was_stored(client: Any):
    """A study is asked for without a syntax and comes decompressed, an instance with any and comes as stored."""
    for found in (client.retrieve_study(STUDY), client.retrieve_series(STUDY, SERIES), client.iter_study(STUDY)):
        first, second = found
        assert {EXPLICIT} == {first.file_meta.TransferSyntaxUID, second.file_meta.TransferSyntaxUID}
        assert np.array_equal(GREY, first.pixel_array)
        assert np.array_equal(np.stack([GREY, GREY // 2]), second.pixel_array)
    assert JPEG_LS == client.retrieve_instance(STUDY, SERIES, SECOND).file_meta.TransferSyntaxUID
    frames = client.retrieve_instance_frames(STUDY, SERIES, SECOND, [2, 1])
    assert [(GREY // 2).tolist(), GREY.tolist()] == [imagecodecs.jpegls_decode(each).tolist() for each in frames]
    plain = (("application/octet-stream", EXPLICIT),)
    assert [GREY.tobytes()] == client.retrieve_instance_frames(STUDY, SERIES, SECOND, [1], media_types=plain)


def test_bulk_data_and_renderings_are_given(client: Any):
    """By the addresses of the metadata, which name a port although this client's Host header does not."""
    address = client.retrieve_instance_metadata(STUDY, SERIES, FIRST)["7FE00010"]["BulkDataURI"]
    assert [GREY.tobytes()] == client.retrieve_bulkdata(address)
    picture = client.retrieve_instance_rendered(STUDY, SERIES, FIRST, media_types=("image/png",))
    assert GREY.shape == imagecodecs.png_decode(picture).shape


def test_store_is_answered_by_what_became_of_each(client: Any, stored: StoredArchive):
    """And what is not there is an error."""
    answer = client.store_instances([dcmread(io.BytesIO(stored.contents[FIRST]))])
    assert [FIRST] == [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence]
    with pytest.raises(requests.HTTPError):
        client.retrieve_study("1.2.3")
