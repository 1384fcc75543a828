"""Image sets changed by hand, and tags, by an unmodified boto3 client."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

NOT_LATEST = "Requested version(s) of ImageSet(s) is not the latest."


def import_one(simulation: Any, prefix: str = "in/", **attributes: Any) -> str:
    """Import one object; return the image set that was made last."""
    known = {item["imageSetId"] for item in simulation.image_sets()}
    simulation.put(f"{prefix}a.dcm", **attributes)
    simulation.run(prefix)
    (created,) = [item["imageSetId"] for item in simulation.image_sets() if item["imageSetId"] not in known]
    return str(created)


def metadata(simulation: Any, image_set_id: str, **arguments: Any) -> Any:
    """Return an image set's metadata document."""
    answer = simulation.client.get_image_set_metadata(
        datastoreId=simulation.datastore_id, imageSetId=image_set_id, **arguments
    )
    return json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))


def edit(simulation: Any, image_set_id: str, version: str, member: str, document: Any, **arguments: Any) -> Any:
    """Update or remove attributes."""
    answer = simulation.client.update_image_set_metadata(
        datastoreId=simulation.datastore_id,
        imageSetId=image_set_id,
        latestVersionId=version,
        updateImageSetMetadataUpdates={"DICOMUpdates": {member: json.dumps(document).encode()}},
        **arguments,
    )
    simulation.advance(1)
    return answer


def test_update_makes_a_version_and_keeps_the_old_one(simulation: Any) -> None:
    """Attributes of patient and instance change in the next version, and the search finds the new value."""
    image_set_id = import_one(simulation)
    instances = {"1.2.3.1.1": {"DICOM": {"InstanceNumber": 9}}}
    change = {
        "SchemaVersion": "1.1",
        "Patient": {"DICOM": {"PatientName": "New^Name"}},
        "Study": {"Series": {"1.2.3.1": {"Instances": instances}}},
    }
    answer = edit(simulation, image_set_id, "1", "updatableAttributes", change)
    assert ("2", "LOCKED", "UPDATING") == (
        answer["latestVersionId"],
        answer["imageSetState"],
        answer["imageSetWorkflowStatus"],
    )
    new, old = metadata(simulation, image_set_id), metadata(simulation, image_set_id, versionId="1")
    assert ("New^Name", "Invented^Patient") == (
        new["Patient"]["DICOM"]["PatientName"],
        old["Patient"]["DICOM"]["PatientName"],
    )
    assert 9 == new["Study"]["Series"]["1.2.3.1"]["Instances"]["1.2.3.1.1"]["DICOM"]["InstanceNumber"]
    assert "New^Name" == simulation.image_sets()[0]["DICOMTags"]["DICOMPatientName"]


def test_removed_attribute_is_gone_and_a_revert_brings_it_back(simulation: Any) -> None:
    """Removing and reverting are versions of their own."""
    image_set_id = import_one(simulation)
    edit(simulation, image_set_id, "1", "removableAttributes", {"Study": {"DICOM": {"AccessionNumber": None}}})
    assert "AccessionNumber" not in metadata(simulation, image_set_id)["Study"]["DICOM"]
    answer = simulation.client.update_image_set_metadata(
        datastoreId=simulation.datastore_id,
        imageSetId=image_set_id,
        latestVersionId="2",
        updateImageSetMetadataUpdates={"revertToVersionId": "1"},
    )
    simulation.advance(1)
    assert "3" == answer["latestVersionId"]
    assert "A1" == metadata(simulation, image_set_id)["Study"]["DICOM"]["AccessionNumber"]


def test_update_of_an_older_version_is_not_found(simulation: Any) -> None:
    """Who does not know the latest version is told so in the service's words."""
    image_set_id = import_one(simulation)
    with pytest.raises(simulation.client.exceptions.ResourceNotFoundException, match="not the latest") as caught:
        edit(simulation, image_set_id, "7", "updatableAttributes", {})
    assert NOT_LATEST == caught.value.response["Error"]["Message"]


def test_update_of_an_identifier_needs_force(simulation: Any) -> None:
    """A study UID changes only with force."""
    image_set_id = import_one(simulation)
    change = {"Study": {"DICOM": {"StudyID": "S2"}}}
    with pytest.raises(simulation.client.exceptions.ValidationException):
        edit(simulation, image_set_id, "1", "updatableAttributes", change)
    edit(simulation, image_set_id, "1", "updatableAttributes", change, force=True)
    assert "S2" == metadata(simulation, image_set_id)["Study"]["DICOM"]["StudyID"]


def test_locked_image_set_is_in_conflict(simulate: Callable[..., Any]) -> None:
    """While an update is under way a second one is refused."""
    simulation = simulate(update_seconds=60)
    image_set_id = import_one(simulation)
    edit(simulation, image_set_id, "1", "updatableAttributes", {})
    with pytest.raises(simulation.client.exceptions.ConflictException):
        edit(simulation, image_set_id, "2", "updatableAttributes", {})


def test_non_primary_set_is_repaired_by_update_and_copy(simulation: Any) -> None:
    """The documented repair: correct the conflicting element, then copy with promotion into the primary set."""
    primary = import_one(simulation)
    other = import_one(simulation, "two/", SOPInstanceUID="1.2.3.1.2", PatientID="P2")
    edit(simulation, other, "1", "updatableAttributes", {"Patient": {"DICOM": {"PatientID": "P1"}}})
    answer = simulation.client.copy_image_set(
        datastoreId=simulation.datastore_id,
        sourceImageSetId=other,
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": "2"}},
        promoteToPrimary=True,
    )
    simulation.advance(1)
    assert (primary, "2") == (
        answer["destinationImageSetProperties"]["imageSetId"],
        answer["destinationImageSetProperties"]["latestVersionId"],
    )
    assert ["1.2.3.1.1", "1.2.3.1.2"] == sorted(
        metadata(simulation, primary)["Study"]["Series"]["1.2.3.1"]["Instances"]
    )


def state(simulation: Any, image_set_id: str) -> tuple[str, str]:
    """Return an image set's state and workflow status."""
    found = simulation.client.get_image_set(datastoreId=simulation.datastore_id, imageSetId=image_set_id)
    return found["imageSetState"], found["imageSetWorkflowStatus"]


def test_update_of_a_study_changes_its_image_sets(simulate: Callable[..., Any]) -> None:
    """Patient and study of all get the values, not their series; the others are locked for consistency meanwhile."""
    simulation = simulate(update_seconds=60)
    first = import_one(simulation)
    second = import_one(simulation, "two/", SeriesInstanceUID="1.2.3.2", SOPInstanceUID="1.2.3.2.1")
    of_series = {"1.2.3.1": {"DICOM": {"SeriesNumber": 9}}}
    change = {"Patient": {"DICOM": {"PatientID": "P9"}}, "Study": {"Series": of_series}}
    edit(simulation, first, "1", "updatableAttributes", change, includeStudyImageSets=True)
    assert [("LOCKED", "UPDATING"), ("LOCKED", "UPDATING_FOR_STUDY_CONSISTENCY")] == [
        state(simulation, each) for each in (first, second)
    ]
    simulation.advance(60)
    assert {("ACTIVE", "UPDATED")} == {state(simulation, each) for each in (first, second)}
    found = {item["imageSetId"]: (item["version"], item["DICOMTags"]) for item in simulation.image_sets()}
    assert {(2, "P9")} == {(version, tags["DICOMPatientId"]) for version, tags in found.values()}
    assert (9, 1) == tuple(found[each][1]["DICOMSeriesNumber"] for each in (first, second))


def test_promotion_of_what_conflicts_is_refused(simulation: Any) -> None:
    """A series whose study has another Patient ID does not become primary as it is."""
    import_one(simulation)
    other = import_one(simulation, "two/", SeriesInstanceUID="1.2.3.2", SOPInstanceUID="1.2.3.2.1", PatientID="P2")
    with pytest.raises(simulation.client.exceptions.ConflictException):
        simulation.client.copy_image_set(
            datastoreId=simulation.datastore_id,
            sourceImageSetId=other,
            copyImageSetInformation={"sourceImageSet": {"latestVersionId": "1"}},
            promoteToPrimary=True,
        )


def test_image_set_that_a_job_adds_to_is_importing_then_imported(simulate: Callable[..., Any]) -> None:
    """Where changes take time, it is locked until it is done."""
    simulation = simulate(update_seconds=60)
    image_set_id = import_one(simulation)
    assert ("ACTIVE", "CREATED") == state(simulation, image_set_id)
    simulation.put("two/a.dcm", SOPInstanceUID="1.2.3.1.2")
    simulation.run("two/")
    assert ("LOCKED", "IMPORTING") == state(simulation, image_set_id)
    simulation.advance(60)
    assert ("ACTIVE", "IMPORTED") == state(simulation, image_set_id)


def test_copy_of_chosen_instances_makes_a_new_image_set(simulation: Any) -> None:
    """Without a destination the named instances make an image set of their own, which is not primary."""
    simulation.put("in/b.dcm", SOPInstanceUID="1.2.3.1.2")
    source = import_one(simulation)
    chosen = {"SchemaVersion": "1.1", "Study": {"Series": {"1.2.3.1": {"Instances": {"1.2.3.1.2": {}}}}}}
    answer = simulation.client.copy_image_set(
        datastoreId=simulation.datastore_id,
        sourceImageSetId=source,
        copyImageSetInformation={
            "sourceImageSet": {"latestVersionId": "1", "DICOMCopies": {"copiableAttributes": json.dumps(chosen)}}
        },
    )
    simulation.advance(1)
    copy = answer["destinationImageSetProperties"]["imageSetId"]
    assert ["1.2.3.1.2"] == list(metadata(simulation, copy)["Study"]["Series"]["1.2.3.1"]["Instances"])
    assert {source: True, copy: False} == {item["imageSetId"]: item["isPrimary"] for item in simulation.image_sets()}


def test_member_that_is_not_simulated_is_refused(simulation: Any) -> None:
    """What would be taken and forgotten is said to be missing instead."""
    image_set_id = import_one(simulation)
    with pytest.raises(ClientError, match="includeStudyImageSets is for DICOMUpdates"):
        simulation.client.update_image_set_metadata(
            datastoreId=simulation.datastore_id,
            imageSetId=image_set_id,
            latestVersionId="1",
            includeStudyImageSets=True,
            updateImageSetMetadataUpdates={"revertToVersionId": "1"},
        )
    mapping = {"studyInstanceUID": "9.9.9", "metadataFilePath": "nothing.json"}
    with pytest.raises(ClientError, match="importConfiguration is not simulated"):
        simulation.client.start_dicom_import_job(
            datastoreId=simulation.datastore_id,
            jobName="job",
            clientToken="another",
            dataAccessRoleArn="arn:aws:iam::123456789012:role/import",
            inputS3Uri="s3://images/in/",
            outputS3Uri="s3://images/out/",
            importConfiguration={"dicomJsonMetadataImportConfiguration": {"dicomMetadataMappings": [mapping]}},
        )


def test_tags_are_kept_until_they_are_removed(simulation: Any) -> None:
    """Tags of an image set are listed, replaced and removed by its ARN."""
    image_set_id = import_one(simulation)
    found = simulation.client.get_image_set(datastoreId=simulation.datastore_id, imageSetId=image_set_id)
    arn = found["imageSetArn"]
    simulation.client.tag_resource(resourceArn=arn, tags={"a": "1", "b": "2"})
    simulation.client.tag_resource(resourceArn=arn, tags={"a": "3"})
    assert {"a": "3", "b": "2"} == simulation.client.list_tags_for_resource(resourceArn=arn)["tags"]
    simulation.client.untag_resource(resourceArn=arn, tagKeys=["a", "c"])
    assert {"b": "2"} == simulation.client.list_tags_for_resource(resourceArn=arn)["tags"]


def test_tags_of_an_unknown_resource_are_not_found(simulation: Any) -> None:
    """An ARN that names nothing has no tags."""
    arn = f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{'0' * 32}"
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        simulation.client.list_tags_for_resource(resourceArn=arn)


def test_every_operation_of_the_model_has_a_route() -> None:
    """Whatever an SDK can call, the simulator answers."""
    from dicomflow.healthimaging.simulator.app import OPERATIONS
    from dicomflow.healthimaging.simulator.model import load_model

    assert set(load_model().operation_names) == set(OPERATIONS)
