"""What is stored as files: whole headers, instances and series for an admin, and studies that are deleted."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hospital import Hospital
from obstore.store import LocalStore
from sqlalchemy import select

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.tables import audit_event, instance, series


def _instances(hospital: Hospital, series_uid: str) -> list[Any]:
    with begin_read(hospital.engine) as connection:
        statement = (
            select(instance.c.sop_instance_uid, instance.c.object_key)
            .join_from(instance, series, series.c.series_key == instance.c.series_key)
            .where(series.c.series_instance_uid == series_uid)
            .order_by(instance.c.instance_number)
        )
        return list(connection.execute(statement))


def _audited(hospital: Hospital, action: str) -> list[Any]:
    with begin_read(hospital.engine) as connection:
        return list(connection.execute(select(audit_event).where(audit_event.c.action == action)))


def _object(store: LocalStore, key: str) -> bytes:
    return bytes(store.get(key).bytes())


def test_instance_is_downloaded_byte_for_byte_and_audited(client: httpx.Client, hospital: Hospital):
    """The file is the object, under the instance's UID."""
    row = _instances(hospital, hospital.chest_series)[0]
    answer = client.get(f"/instances/{row.sop_instance_uid}.dcm")
    assert _object(hospital.store, row.object_key) == answer.content
    assert f'attachment; filename="{row.sop_instance_uid}.dcm"' == answer.headers["content-disposition"]
    assert [row.sop_instance_uid] == [each.uid for each in _audited(hospital, "download_instance")]


def test_series_is_downloaded_as_a_zip_of_its_objects(client: httpx.Client, hospital: Hospital):
    """Each object stands in it as it is stored, and the same series is the same zip."""
    rows = _instances(hospital, hospital.chest_series)
    answer = client.get(f"/series/{hospital.chest_series}.zip", params={"study": hospital.chest})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert [f"{n:05}-{row.sop_instance_uid}.dcm" for n, row in enumerate(rows, 1)] == names
        assert [_object(hospital.store, row.object_key) for row in rows] == [archive.read(name) for name in names]
    assert (
        answer.content == client.get(f"/series/{hospital.chest_series}.zip", params={"study": hospital.chest}).content
    )
    assert {"instances": len(rows)} == _audited(hospital, "download_series")[0].details


def test_header_shows_every_element_with_its_keyword(client: httpx.Client, hospital: Hospital):
    """Sequences' items too; pixels by name alone."""
    row = _instances(hospital, hospital.chest_series)[0]
    elements = client.get(f"/instances/{row.sop_instance_uid}/header.json").json()["elements"]
    shown = {each["keyword"]: each["value"] for each in elements}
    assert "Lindqvist^Ada Maria" == shown["PatientName"]
    assert row.sop_instance_uid == shown["SOPInstanceUID"]
    assert "not shown: too long, or pixels" == shown["PixelData"]
    assert "Lindqvist^Ada Maria" in client.get(f"/instances/{row.sop_instance_uid}/header").text


@pytest.mark.parametrize("path", ["/instances/1.2.3.dcm", "/series/1.2.3.zip", "/instances/1.2.3/header"])
def test_file_of_what_is_not_there_is_404(client: httpx.Client, path: str):
    """No empty file, and no empty zip."""
    assert 404 == client.get(path).status_code


def test_study_is_deleted_when_that_is_confirmed(client_of: Any, new_hospital: Any, token_of: Callable[..., str]):
    """Without `sure` nothing goes; with it the rows, and the objects if asked, and the trail names who did it."""
    hospital = new_hospital()
    client = client_of(hospital)
    keys = [row.object_key for row in _instances(hospital, hospital.chest_series)]
    path = f"/studies/{hospital.chest}/delete"
    assert "stored objects" in client.get(path).text
    form = {"csrf": token_of(client, path), "objects": "yes"}
    assert 400 == client.post(path, data=form).status_code
    assert 200 == client.get(f"/studies/{hospital.chest}").status_code
    assert 303 == client.post(path, data=form | {"sure": "yes"}).status_code
    assert 404 == client.get(f"/studies/{hospital.chest}").status_code
    for key in keys:
        with pytest.raises(FileNotFoundError):
            hospital.store.head(key)
    assert "console:local" in {each.actor for each in _audited(hospital, "delete_objects")}
