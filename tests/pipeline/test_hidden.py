"""Image sets that are not primary: told as hidden everywhere, reported to the edge as not visible, and repaired."""

import gzip
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import pytest
from sqlalchemy import Engine, select, text

from dicomflow.bucket.feedback import Feedback
from dicomflow.catalog import tables
from dicomflow.catalog.audit import list_audit_events
from dicomflow.catalog.conflicts import list_conflicts
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.catalog.report import count_everything
from dicomflow.catalog.search import StudyFilter, search_studies
from dicomflow.catalog.states import SeriesState
from dicomflow.catalog.transfers import Selection, find_instances
from dicomflow.errors import PermanentError, TransientError
from dicomflow.healthimaging.simulator import SERVICE_RATES
from dicomflow.pipeline.metrics import Name
from dicomflow.pipeline.rebuild import rebuild_catalog
from dicomflow.pipeline.relay import RelayClient, answer_call
from dicomflow.pipeline.repair import Keep, Repair, Repaired

SECRETS = ("P1", "P2", "Invented", "Other^Name")


class Counting:
    """Metrics that are kept."""

    def __init__(self) -> None:
        self.counts: dict[Name, int] = {}

    def count(self, name: Name, number: int) -> None:
        """Add."""
        self.counts[name] = self.counts.get(name, 0) + number

    def backlog(self, series: int) -> None:
        """Forget it."""


def import_(deployment: Any, delivery: str, series: str = "1.2.1", **attributes: Any) -> None:
    """Bring a series of study 1.2 from its objects to its end."""
    manifest = deployment.deliver({series: 2}, delivery=delivery, **attributes)
    keys = deployment.keys(f"edge/{delivery}/")
    assert {"batchItemFailures": []} == deployment.handle("index", *map(deployment.object_event, keys))
    deployment.plan(manifest)
    deployment.drive()
    deployment.finish()
    deployment.advance(60)


@pytest.fixture
def conflicting(deploy: Callable[..., Any]) -> Any:
    """Give a deployment in which a study came twice, with another Patient ID the second time; changes take a minute."""
    deployment = deploy(update_seconds=60).variant(metrics=Counting())
    import_(deployment, "d1")
    import_(deployment, "d2", series="1.2.2", PatientID="P2", PatientName="Other^Name")
    return deployment


def image_sets(deployment: Any) -> dict[str, Any]:
    """Return the service's image sets by their series: those that are primary."""
    answer = deployment.deps.client.search_image_sets(datastoreId=deployment.deps.datastore_id)
    return {
        item["DICOMTags"]["DICOMSeriesInstanceUID"]: item
        for item in answer["imageSetsMetadataSummaries"]
        if item["isPrimary"]
    }


def hidden_id(deployment: Any) -> str:
    """Return the id of the image set that the catalog calls hidden."""
    (found,) = [row["image_set_id"] for row in deployment.rows("image_set") if row["is_primary"] is False]
    return str(found)


def repair_of(deployment: Any, keep: Keep, **changes: Any) -> Repair:
    """Return a repair of the hidden image set, whose waiting lets time pass."""
    arguments = {
        "client": deployment.deps.client,
        "engine": deployment.deps.engine,
        "store": deployment.store,
        "image_set_id": hidden_id(deployment),
        "keep": keep,
        "actor": "ines",
        "clock": deployment.deps.clock,
        "wait": deployment.advance,
    }
    return Repair(**(arguments | changes))


def feedback(deployment: Any, delivery: str) -> Feedback:
    """Return what the edge was told last of a delivery."""
    return Feedback.from_json(bytes(deployment.store.get(f"feedback/edge/{delivery}.json").bytes()))


def test_series_that_conflicts_is_hidden_everywhere(conflicting: Any) -> None:
    """State, status, counts, views, conflict, metric, search and feedback say so, and nothing calls it completed."""
    engine, this = conflicting.deps.engine, hidden_id(conflicting)
    assert {"1.2.1": "completed", "1.2.2": "hidden"} == conflicting.states()
    row = conflicting.rows("series_import")[1]
    assert 3 == row["status"]
    assert row["message"].startswith(f"not visible: image set {this} is not primary, which differs")
    assert row["message"].endswith(" in PatientID")
    counts = count_everything(engine)
    assert {"queued": 0, "in_progress": 0, "completed": 1, "hidden": 1, "failed": 0} == counts["imports"]
    assert (2, 1) == (counts["image_sets"], counts["hidden_image_sets"])
    assert {Name.IMPORTS_COMPLETED: 1, Name.IMPORTS_HIDDEN: 1} == {
        name: count
        for name, count in conflicting.deps.metrics.counts.items()
        if name.name.startswith("IMPORTS_")
        if name is not Name.IMPORTS_STARTED
    }
    with engine.begin() as connection:
        (found,) = [each for each in list_conflicts(connection) if each.kind == "hidden"]
        assert ("1.2.2", (f"image set {this}", "differs in PatientID")) == (found.uid, found.details)
        for status, number in ((SeriesState.HIDDEN, 1), (SeriesState.COMPLETED, 1), (SeriesState.FAILED, 0)):
            assert number == len(search_studies(connection, StudyFilter(status=status)).studies), status
        (study,) = search_studies(connection, StudyFilter()).studies
        assert {"completed": 1, "hidden": 1} == study.imports
        jobs = connection.execute(text("SELECT status, state FROM ahlijob ORDER BY jobid")).all()
        assert [(3, "completed"), (3, "hidden")] == [tuple(each) for each in jobs]
        flags = connection.execute(text("SELECT seriesid, isprimary FROM ahliimageset ORDER BY 1")).all()
        assert [("1.2.1", True), ("1.2.2", False)] == [(uid, bool(flag)) for uid, flag in flags]
    told = feedback(conflicting, "d2")
    assert ((), 2) == (told.imported, len(told.failed))
    assert {f"not visible: image set {this} is not primary"} == {each.reason for each in told.failed}
    assert 2 == len(feedback(conflicting, "d1").imported)


def test_same_bytes_again_are_hidden_too(conflicting: Any) -> None:
    """What is in already, in an image set that is hidden, is not called done either, and no job is started for it."""
    jobs = len(conflicting.service_jobs())
    import_(conflicting, "d3", series="1.2.2", PatientID="P2", PatientName="Other^Name")
    assert ["completed", "hidden", "hidden"] == [row["state"] for row in conflicting.rows("series_import")]
    assert jobs == len(conflicting.service_jobs())


def test_rebuilt_catalog_knows_what_is_hidden(conflicting: Any, empty_catalog: Any) -> None:
    """The jobs' output says which image sets are primary."""
    rebuild_catalog(empty_catalog, conflicting.store, conflicting.deps.bucket, issuers={})
    counts = count_everything(empty_catalog)["imports"]
    assert (1, 1) == (counts["completed"], counts["hidden"])


@pytest.fixture
def empty_catalog(tmp_path: Path) -> Iterator[Engine]:
    """Give another catalog, without rows."""
    engine = create_engine_for(f"sqlite:///{tmp_path / 'another.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


def test_dry_run_names_the_steps_and_changes_nothing(conflicting: Any) -> None:
    """Elements are named, no value is, and the service is only asked."""
    this, primary = hidden_id(conflicting), image_sets(conflicting)["1.2.1"]["imageSetId"]
    before = conflicting.rows("image_set")
    patient = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
    for keep, changed, of_study in ((Keep.PRIMARY, this, False), (Keep.THIS, primary, True)):
        found = repair_of(conflicting, keep).foresee()
        update, promotion = found.steps
        assert ("update", changed, patient, of_study) == (
            update.action,
            update.image_set_id,
            update.elements,
            update.of_study,
        )
        assert ("promote", this, ()) == (promotion.action, promotion.image_set_id, promotion.elements)
    assert before == conflicting.rows("image_set")
    with conflicting.deps.engine.begin() as connection:
        assert [] == list_audit_events(connection)


@pytest.mark.parametrize("keep", Keep)
def test_rebuilt_catalog_knows_what_was_repaired(conflicting: Any, empty_catalog: Engine, keep: Keep) -> None:
    """A repair leaves a note in the bucket: nothing is hidden in a new catalog, nor by a second rebuild."""
    repair_of(conflicting, keep).run()
    for _ in range(2):
        rebuild_catalog(empty_catalog, conflicting.store, conflicting.deps.bucket, issuers={})
        counts = count_everything(empty_catalog)
        assert (2, 0, 0) == (
            counts["imports"]["completed"],
            counts["imports"]["hidden"],
            counts["hidden_image_sets"],
        )
        assert image_set_rows(conflicting.deps.engine) == image_set_rows(empty_catalog)
        assert sendable(conflicting.deps.engine) == sendable(empty_catalog)


def sendable(engine: Engine) -> dict[str, int | None]:
    """Return how many instances of each series, and of the study, go back to a site; None for what is refused."""
    found: dict[str, int | None] = {}
    with engine.begin() as connection:
        for uid in ("1.2.1", "1.2.2", "1.2"):
            try:
                found[uid] = len(find_instances(connection, [Selection(any=uid)]))
            except PermanentError:
                found[uid] = None
        assert 4 == len(find_instances(connection, [Selection(any="1.2")], as_stored=True))
    return found


@pytest.mark.parametrize(("keep", "kept", "refused"), [(Keep.PRIMARY, "1.2.1", "1.2.2"), (Keep.THIS, "1.2.2", "1.2.1")])
def test_values_that_were_decided_against_are_not_sent_back(
    conflicting: Any, keep: Keep, kept: str, refused: str
) -> None:
    """Until corrected images come, or somebody wants what is stored; the reason names the elements, and no value."""
    assert {"1.2.1": 2, "1.2.2": 2, "1.2": 4} == sendable(conflicting.deps.engine)
    repair_of(conflicting, keep).run()
    assert {kept: 2, refused: None, "1.2": None} == sendable(conflicting.deps.engine)
    reasons = {
        row["object_key"].split("/")[3]: row["reason"] for row in conflicting.rows("import_outcome") if row["reason"]
    }
    assert {refused: "repaired: other values are shown of PatientID"} == reasons
    right = {"PatientID": "P1"} if keep is Keep.PRIMARY else {"PatientID": "P2", "PatientName": "Other^Name"}
    import_(conflicting, "d3", series=refused, **right)
    assert {kept: 2, refused: 2, "1.2": 4} == sendable(conflicting.deps.engine)


def test_note_of_a_repair_is_put_before_the_catalog_has_it(
    conflicting: Any, empty_catalog: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes no note leaves the image set hidden in the catalog, so that the repair is called again."""

    def refuse(*_: Any, **__: Any) -> None:
        raise obstore.exceptions.GenericError("away")

    with monkeypatch.context() as patch:
        patch.setattr("dicomflow.pipeline.repair.obstore.put", refuse)
        with pytest.raises(TransientError, match="does not take the note"):
            repair_of(conflicting, Keep.THIS).run()
    assert 1 == count_everything(conflicting.deps.engine)["hidden_image_sets"]
    repair_of(conflicting, Keep.THIS).run()
    assert 0 == count_everything(conflicting.deps.engine)["hidden_image_sets"]
    rebuild_catalog(empty_catalog, conflicting.store, conflicting.deps.bucket, issuers={})
    assert 0 == count_everything(empty_catalog)["hidden_image_sets"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b'{"format": 2}',
        b'{"datastore_id": "../x", "image_set_id": "a", "primary_image_set_id": "b", "image_sets": []}',
        b'{"datastore_id": "0123", "image_set_id": "4568", "primary_image_set_id": "b", "image_sets": []}',
    ],
)
def test_note_that_is_none_keeps_no_rebuild_from_its_end(
    conflicting: Any, empty_catalog: Engine, content: bytes
) -> None:
    """It is listed among the problems, and everything else is as without it."""
    obstore.put(conflicting.store, "imports/repaired/0123/4567.json", content)
    done = rebuild_catalog(empty_catalog, conflicting.store, conflicting.deps.bucket, issuers={})
    assert (1, 1) == (done.problems, count_everything(empty_catalog)["imports"]["hidden"])


def image_set_rows(engine: Engine) -> list[Any]:
    """Return what a catalog says of image sets and of the series in them, but for times."""
    sets, mapped = tables.image_set.c, tables.series_image_set.c
    statements = (
        select(sets.datastore_id, sets.image_set_id, sets.version, sets.is_primary).order_by(sets.image_set_id),
        select(mapped.image_set_id, mapped.series_instance_uid, mapped.study_instance_uid).order_by(
            mapped.image_set_id, mapped.series_instance_uid
        ),
    )
    with engine.begin() as connection:
        return [tuple(row) for statement in statements for row in connection.execute(statement)]


@pytest.mark.parametrize(("keep", "kept"), [(Keep.PRIMARY, "P1"), (Keep.THIS, "P2")])
def test_repaired_image_set_is_visible_and_its_series_complete(conflicting: Any, keep: Keep, kept: str) -> None:
    """Both series are primary under one Patient ID, the series is completed, the edge is told, and no value is kept."""
    done = repair_of(conflicting, keep).run()
    sets = image_sets(conflicting)
    assert {"1.2.1": kept, "1.2.2": kept} == {uid: item["DICOMTags"]["DICOMPatientId"] for uid, item in sets.items()}
    assert 1 == len({item["DICOMTags"]["DICOMPatientName"] for item in sets.values()})
    assert ("1.2", sets["1.2.2"]["imageSetId"], 1) == (
        done.study_instance_uid,
        done.primary_image_set_id,
        done.series_completed,
    )
    assert {"completed"} == set(conflicting.states().values())
    assert 0 == count_everything(conflicting.deps.engine)["hidden_image_sets"]
    with conflicting.deps.engine.begin() as connection:
        assert [] == [each for each in list_conflicts(connection) if each.kind == "hidden"]
        events = list_audit_events(connection)
    assert ["repair_image_set", "repair_image_set_begun"] == [event.action for event in events]
    assert {("ines", "1.2")} == {(event.actor, event.uid) for event in events}
    assert [] == [secret for secret in SECRETS if secret in json.dumps([event.details for event in events])]
    conflicting.drive()
    assert (2, ()) == (len(feedback(conflicting, "d2").imported), feedback(conflicting, "d2").failed)
    metadata = conflicting.deps.client.get_image_set_metadata(
        datastoreId=conflicting.deps.datastore_id, imageSetId=done.primary_image_set_id
    )
    document = json.loads(gzip.decompress(metadata["imageSetMetadataBlob"].read()))
    assert 2 == len(document["Study"]["Series"]["1.2.2"]["Instances"])


def test_series_of_another_number_is_repaired_within_its_series(deploy: Callable[..., Any]) -> None:
    """What differs is of the series: the same image set of it gets what was hidden."""
    deployment = deploy(update_seconds=60)
    import_(deployment, "d1")
    manifest = deployment.deliver({"1.2.1": 3}, delivery="d2", SeriesNumber=9)
    deployment.plan(manifest)
    deployment.drive()
    deployment.finish()
    deployment.advance(60)
    primary = image_sets(deployment)["1.2.1"]["imageSetId"]
    done = repair_of(deployment, Keep.THIS).run()
    assert ((primary, ("SeriesNumber",), False), primary) == (
        (done.steps[0].image_set_id, done.steps[0].elements, done.steps[0].of_study),
        done.primary_image_set_id,
    )
    assert 9 == image_sets(deployment)["1.2.1"]["DICOMTags"]["DICOMSeriesNumber"]
    assert {"completed"} == {row["state"] for row in deployment.rows("series_import")}


def test_repair_goes_on_after_it_was_interrupted(conflicting: Any) -> None:
    """Whatever the service has done is not done again, and the audit trail has each attempt."""

    class Interrupted(BaseException):
        pass

    def interrupt(_seconds: float) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        repair_of(conflicting, Keep.PRIMARY, wait=interrupt).run()
    conflicting.advance(60)
    done = repair_of(conflicting, Keep.PRIMARY).run()
    assert ["promote"] == [step.action for step in done.steps]
    with conflicting.deps.engine.begin() as connection:
        actions = [event.action.removeprefix("repair_image_set") for event in list_audit_events(connection)]
    assert ["", "_begun", "_failed", "_begun"] == actions


def test_repair_keeps_to_the_services_rate(deploy: Callable[..., Any]) -> None:
    """What is refused for want of a token, or since something is locked, is asked again later."""
    deployment = deploy(update_seconds=1, rates=SERVICE_RATES)
    import_(deployment, "d1")
    import_(deployment, "d2", series="1.2.2", PatientID="P2")
    deployment.faults.fail_calls("CopyImageSet", "ConflictException", count=2)
    deployment.faults.fail_calls("UpdateImageSetMetadata", "ThrottlingException", count=3)
    assert 1 == repair_of(deployment, Keep.PRIMARY).run().series_completed


def test_repair_works_through_the_relay(conflicting: Any) -> None:
    """In a deployed stack the operator's function calls the service so; JSON goes in and out."""

    class Function:
        def invoke(self, FunctionName: str, Payload: bytes) -> Any:  # noqa: N803  # botocore's names
            assert "relay" == FunctionName
            answered = answer_call(json.loads(Payload), lambda _: conflicting.deps.client)
            return {"Payload": BytesIO(json.dumps(answered).encode())}

    client = RelayClient(Function(), "relay", "medical-imaging")
    done: Repaired = repair_of(conflicting, Keep.PRIMARY, client=client).run()
    assert 1 == done.series_completed


def test_repair_of_what_is_not_there_says_so(conflicting: Any) -> None:
    """An image set that the catalog does not know, one that the data store lost, and a service that gives up."""
    with pytest.raises(PermanentError, match="the catalog knows no image set"):
        repair_of(conflicting, Keep.THIS, image_set_id="0" * 32)
    this = hidden_id(conflicting)
    conflicting.faults.fail_calls("SearchImageSets", "InternalServerException", count=20)
    with pytest.raises(TransientError):
        repair_of(conflicting, Keep.THIS, wait=lambda _seconds: None).run()
    conflicting.faults.clear()
    conflicting.deps.client.delete_image_set(datastoreId=conflicting.deps.datastore_id, imageSetId=this)
    conflicting.advance(60)
    with pytest.raises(PermanentError, match=r"has no image set \w+ any more"):
        repair_of(conflicting, Keep.THIS).run()
