"""A catalog rebuilt from the bucket equals the one that lived."""

from collections.abc import Iterator
from typing import Any

from tests.simulation.checks import rows
from tests.simulation.cloud import Cloud
from tests.simulation.database import open_catalog
from tests.simulation.seams import rebuild_catalog, tables
from tests.simulation.site import BUCKET

_KEYS = {"patient_key", "study_key", "series_key", "instance_key"}
_OF_OBJECT = ("sha256", "object_sha256", "problem", "sop_instance_uid")


def rebuilt_differs(cloud: Cloud) -> Iterator[str]:
    """Rebuild, and compare what a reader sees of all that was never deleted."""
    engine = open_catalog(cloud.templates, cloud.folder / "rebuilt.db")
    try:
        rebuild_catalog(engine, cloud.store, BUCKET, issuers={}, clock=cloud.box.clock)
        deleted = cloud.books.deleted
        lived, again = _view(cloud.engine, deleted), _view(engine, deleted)
        for key in sorted(set(lived) | set(again), key=str):
            if key[0] == "patient" and deleted:
                continue
            if key[0] == "object" and key not in again and key[1] not in cloud.bucket.objects:
                continue  # an event came after its object was deleted, and its row says that it is not there
            one, two = lived.get(key), again.get(key)
            if one is None or two is None:
                yield f"{key} lived={one is not None} rebuilt={two is not None}"
            elif one != two:
                yield f"{key} " + str({name: (one[name], two[name]) for name in one if one[name] != two[name]})[:240]
        kinds = cloud.books.kinds & {"job_fault", "unreadable_results", "restored"}
        if not cloud.box.is_excused("completed again", deleted or kinds):
            lived, again = _completed(cloud.engine), _completed(engine)
            yield from (f"{key} was completed, rebuilt it is not" for key in sorted(lived - again))
    except Exception as error:  # noqa: BLE001  # it is what is checked
        yield f"rebuild raised {type(error).__name__}: {error!s:.200}"
    finally:
        engine.dispose()


def _completed(engine: Any) -> set[tuple[str, str]]:
    found = (row for row in rows(engine, tables.series_import) if row["state"] == "completed")
    return {(row["delivery_id"], row["series_instance_uid"]) for row in found}


def _view(engine: Any, deleted: set[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    patients = {row["patient_key"]: row for row in rows(engine, tables.patient)}
    studies = {row["study_key"]: row for row in rows(engine, tables.study)}
    series = {row["series_key"]: row for row in rows(engine, tables.series)}
    view: dict[tuple[Any, ...], dict[str, Any]] = {}

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in _KEYS}

    def identity(patient: dict[str, Any]) -> tuple[Any, ...]:
        return patient["issuer_of_patient_id"], patient["patient_id"], patient["unidentified_study_uid"]

    for row in studies.values():
        patient = {"patient": identity(patients[row["patient_key"]])}
        view["study", row["study_instance_uid"]] = plain(row) | patient
    for row in rows(engine, tables.instance):
        of = series[row["series_key"]]
        study = studies[of["study_key"]]["study_instance_uid"]
        view["instance", row["sop_instance_uid"]] = plain(row) | {"at": (of["series_instance_uid"], study)}
    for row in patients.values():
        view["patient", *identity(row)] = plain(row)
    for row in rows(engine, tables.stored_object):
        if row["object_key"].startswith("imports/"):
            continue  # a job's output that cannot be read: a rebuild lists it, where the catalog that lived has its job
        view["object", row["object_key"]] = {name: row[name] for name in _OF_OBJECT} | {
            "study": row["study_instance_uid"]
        }
    of_deleted = {"study": lambda key, _: key[1], "instance": lambda _, row: row["at"][1]}
    of_deleted |= {"object": lambda _, row: row["study"], "patient": lambda _key, _row: None}
    return {key: row for key, row in view.items() if of_deleted[key[0]](key, row) not in deleted}
