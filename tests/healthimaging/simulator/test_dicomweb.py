"""The simulator's DICOMweb as the service's is documented, and an edge's archive over it."""

import io
from collections.abc import Callable
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from dimse_archive import find, serving
from pydicom import dcmread
from pydicom.encaps import generate_frames
from retrieving import EXPLICIT, as_read, counts, destined, keys, move

from dicomflow.archive.dimse.move import MoveDestination
from dicomflow.archive.remote.building import open_remote_archive
from dicomflow.archive.remote.origin import Kind, Origin
from dicomflow.dicom.quiet import without_warnings
from dicomflow.healthimaging.simulator import SERVICE_RATES

CT, COUNT = "1.2.840.10008.5.1.4.1.1.2", 25
HTJ2K = "1.2.840.10008.1.2.4.201"


def asking(simulation: Any) -> httpx.Client:
    """Return a client of its data store."""
    return httpx.Client(base_url=f"{simulation.server.url}/datastore/{simulation.datastore_id}")


def filled(simulation: Any) -> None:
    """Import a series, an instance that contradicts it, and another patient's."""
    for number in range(1, COUNT + 1):
        simulation.put(f"in/{number:03}.dcm", SOPInstanceUID=f"1.2.3.1.{number}", InstanceNumber=number)
    simulation.put("in/x.dcm", SOPInstanceUID="1.2.3.1.99", PatientID="P2", InstanceNumber=99)
    simulation.put(
        "in/y.dcm",
        StudyInstanceUID="1.2.4",
        SeriesInstanceUID="1.2.4.1",
        SOPInstanceUID="1.2.4.1.1",
        PatientName="Smithers^Ann",
        PatientID="P3",
        Modality="MR",
        StudyDate="20260301",
    )
    simulation.run("in/")


def uids(response: httpx.Response, tag: str = "00080018") -> list[str]:
    """Return one attribute of all rows."""
    assert response.status_code == 200, response.text
    return [each[tag]["Value"][0] for each in response.json()]


def test_searches_see_what_is_primary_in_pages(simulation: Any) -> None:
    """Rows by number, so many from a place on; studies by name as the words begin; the hidden instance is none."""
    filled(simulation)
    with asking(simulation) as client:
        series = "/studies/1.2.3/series/1.2.3.1/instances"
        assert [f"1.2.3.1.{number}" for number in range(1, COUNT + 1)] == uids(client.get(series))
        assert ["1.2.3.1.6", "1.2.3.1.7"] == uids(client.get(series, params={"limit": 2, "offset": 5}))
        assert ["1.2.4.1.1"] == uids(client.get("/instances", params={"SOPInstanceUID": "1.2.4.1.1,9.9"}))
        fuzzy = {"PatientName": "smi", "fuzzymatching": "true"}
        assert ["1.2.4"] == uids(client.get("/studies", params=fuzzy), "0020000D")
        assert [] == client.get("/studies", params={"PatientName": "smi"}).json()
        assert ["1.2.4"] == uids(client.get("/studies", params={"StudyDate": "20260201-"}), "0020000D")
        assert ["1.2.4.1"] == uids(client.get("/series", params={"00080060": "MR"}), "0020000E")
        assert {"1.2.3", "1.2.4"} == set(
            uids(client.get("/studies", params={"includefield": "NoSuchThing"}), "0020000D")
        )


@pytest.mark.parametrize(
    "query",
    ["limit=1001", "limit=0", "offset=1000001", "limit=x", "PatientAge=030Y", "StudyDate=yesterday",
     "includefield=" + ",".join(f"{tag:08X}" for tag in range(0x00100010, 0x00100010 + 51))],
)  # fmt: skip
def test_what_the_service_does_not_take_is_400(simulation: Any, query: str) -> None:
    """A limit above 1,000, a place beyond a million, a key of no level, the fifty-first field."""
    with asking(simulation) as client:
        answer = client.get(f"/studies?{query}")
    assert (400, "ValidationException") == (answer.status_code, answer.headers["x-amzn-errortype"])


def test_instance_comes_plain_or_as_it_is_kept(simulation: Any) -> None:
    """Explicit VR Little Endian by itself, HTJ2K for `*`, 406 for anything else, and for what was warned of."""
    simulation.put("in/a.dcm")
    with without_warnings():
        simulation.put("in/b.dcm", SOPInstanceUID="1.2.3.1.2", PatientName="N" * 300)
    simulation.run("in/")
    path = "/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1."
    with asking(simulation) as client:
        plain = client.get(f"{path}1", headers={"accept": "application/dicom"})
        assert f"application/dicom; transfer-syntax={EXPLICIT}" == plain.headers["content-type"]
        assert bytes(8) == dcmread(io.BytesIO(plain.content)).PixelData
        kept = dcmread(io.BytesIO(client.get(f"{path}1", headers=_syntax("*")).content))
        assert HTJ2K == kept.file_meta.TransferSyntaxUID
        (frame,) = generate_frames(kept.PixelData, number_of_frames=1)
        assert np.array_equal(np.zeros((2, 2)), imagecodecs.htj2k_decode(frame))
        assert 406 == client.get(f"{path}1", headers=_syntax("1.2.840.10008.1.2.4.80")).status_code
        assert [406, 200] == [client.get(f"{path}2", headers=_syntax(each)).status_code for each in (EXPLICIT, "*")]
        assert 404 == client.get(f"{path}3").status_code
        assert b"transfer-syntax=1.2.840.10008.1.2.1\r\n\r\n" + bytes(8) in client.get(f"{path}1/frames/1").content
        assert 400 == client.get(f"{path}1/frames/1,1").status_code
        (found,) = client.get(f"{path}1/metadata").json()
        assert ("1.2.3.1.1", False) == (found["00080018"]["Value"][0], "7FE00010" in found)
        assert 2 == len(client.get("/studies/1.2.3/series/1.2.3.1/metadata").json())


def test_hidden_instance_is_had_by_its_image_set_alone(simulation: Any) -> None:
    """404 without `imageSetId`."""
    filled(simulation)
    hidden = next(each["imageSetId"] for each in simulation.image_sets() if not each["isPrimary"])
    path = "/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.99"
    with asking(simulation) as client:
        assert [404, 200] == [client.get(path, params=each).status_code for each in ({}, {"imageSetId": hidden})]


def test_retrievals_are_throttled_as_the_service_does(simulate: Callable[..., Any]) -> None:
    """A hundred at once, then 429."""
    simulation = simulate(rates=SERVICE_RATES)
    with asking(simulation) as client:
        codes = [client.get("/studies/1/series/2/instances/3").status_code for _ in range(101)]
    assert ([404] * 100, 429) == (codes[:100], codes[100])


def test_edge_gives_what_healthimaging_has(simulation: Any) -> None:
    """C-FIND and C-MOVE over it: all that is primary, in what the destination takes; what is throttled is repeated."""
    filled(simulation)
    origin = Origin(f"{simulation.server.url}/datastore/{simulation.datastore_id}", Kind.HEALTHIMAGING)
    simulation.app.state.world.faults.fail_calls("GetDICOMInstance", "ThrottlingException", count=3)
    with destined(EXPLICIT, classes=(CT,)) as destination:
        destinations = {"DEST": MoveDestination("127.0.0.1", destination.port, "DEST", "EDGE")}
        with (
            open_remote_archive(origin, "EDGE", sleep=lambda _seconds: None) as archive,
            serving(archive, destinations=destinations) as server,
        ):
            port = server.ports[0]
            asked = {"QueryRetrieveLevel": "STUDY", "PatientName": "invented^*", "PatientID": ""}
            answers, statuses, _ = find(port, asked)
            assert (["P1"], [0xFF00, 0]) == ([each.PatientID for each in answers], statuses)
            asked = {"QueryRetrieveLevel": "STUDY", "PatientAge": "030Y", "StudyInstanceUID": "1.2.4"}
            assert [0xFF01, 0] == find(port, asked)[1]
            codes, last, failed = move(port, keys(StudyInstanceUID="1.2.3"))
            assert (0x0000, (COUNT, 0, 0), []) == (codes[-1], counts(last), failed)
            codes, last, _ = move(port, keys("IMAGE", SOPInstanceUID="1.2.3.1.99"))
            assert (0x0000, (0, 0, 0)) == (codes[-1], counts(last))
    found = destination.data_sets()
    assert COUNT == len(found)
    assert all(bytes(8) == as_read(*each).PixelData for each in found.values())


def _syntax(uid: str) -> dict[str, str]:
    return {"accept": f"application/dicom; transfer-syntax={uid}"}
