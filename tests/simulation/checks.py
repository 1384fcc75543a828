"""What must hold of the cloud half after the storm: each a function of a cloud that yields what is broken, in words."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from tests.simulation.cloud import Cloud
from tests.simulation.seams import state, tables

_NEIGHBOUR = timedelta(hours=3)


def rows(engine: Any, table: Any) -> list[dict[str, Any]]:
    """Return a table."""
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def dead_letter(cloud: Cloud) -> Iterator[str]:
    """No message dies whose failures were its neighbours' or nobody's; a handler ends in an answer."""
    yield from (f"{each.queue} {each.body[:160]}" for each in cloud.queues.dead)
    yield from cloud.errors


def failed_without_fault(cloud: Cloud) -> Iterator[str]:
    """A call fails only by a fault that was injected into it."""
    yield from (f"{number} times {text}" for text, number in cloud.listener.failures.items())


def patient_in_a_log(cloud: Cloud) -> Iterator[str]:
    """No patient data in log lines or in exceptions that leave a handler."""
    yield from cloud.listener.leaks[:2]


def object_without_row(cloud: Cloud) -> Iterator[str]:
    """Every stored object is a row, or a problem with its reason; a good one has no problem."""
    stored = {row["object_key"]: row for row in rows(cloud.engine, tables.stored_object)}
    for key, sent in cloud.books.sent.items():
        row = stored.get(key)
        if key not in cloud.bucket.objects:
            continue
        if row is None or (row["indexed_at"] is None and row["problem"] is None):
            yield f"{key} odd={sent.is_odd} row={row is not None}"
        elif not sent.is_odd and row["problem"]:
            yield f"{key}: {row['problem']}"
    planned = {row["delivery_id"] for row in rows(cloud.engine, tables.delivery)}
    for delivery, (key, _) in cloud.books.manifests.items():
        if key in cloud.bucket.objects and delivery not in planned:
            yield f"{key} is not planned"


def series_without_end(cloud: Cloud) -> Iterator[str]:
    """Every series ends in a state with its reason."""
    for row in rows(cloud.engine, tables.series_import):
        what = f"{row['delivery_id']} {row['series_instance_uid']} {row['state']} after {row['attempts']}"
        if row["state"] in {"queued", "in_progress"}:
            yield f"{what}: {row['message']} not before {row['not_before']}"
        elif row["state"] in {"failed", "partial"} and not row["message"]:
            yield f"{what}: no reason"


def _objects_of_series(cloud: Cloud) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows(cloud.engine, tables.stored_object):
        found[row["delivery_id"], row["series_instance_uid"]].append(row)
    return found


def completed_but_not_there(cloud: Cloud) -> Iterator[str]:
    """What is called completed is in the service."""
    i, s = state.image_set_instance, state.image_set
    live = (i.c.to_version.is_(None), s.c.state != "DELETED", s.c.deleted_at.is_(None))
    statement = select(i.c.sop_instance_uid).join(s, s.c.image_set_id == i.c.image_set_id).where(*live)
    with cloud.service.simulator.engine.connect() as connection:
        held = set(connection.scalars(statement))
    objects = _objects_of_series(cloud)
    named = {key for _, keys in cloud.books.manifests.values() for key in keys}
    for row in rows(cloud.engine, tables.series_import):
        if row["state"] != "completed" or row["study_instance_uid"] in cloud.books.deleted:
            continue
        of_it = objects[row["delivery_id"], row["series_instance_uid"]]
        of_it = [each["sop_instance_uid"] for each in of_it if each["object_key"] in named]
        if lacking := [uid for uid in of_it if uid not in held]:
            yield f"{row['delivery_id']} {row['series_instance_uid']} lacks {len(lacking)}"


def good_series_failed(cloud: Cloud) -> Iterator[str]:
    """A series of good objects is imported, whatever its neighbours are."""
    if cloud.box.is_excused("good_series_failed", cloud.books.kinds & {"job_fault", "unreadable_results", "restored"}):
        return
    objects = _objects_of_series(cloud)
    for row in rows(cloud.engine, tables.series_import):
        keys = [each["object_key"] for each in objects[row["delivery_id"], row["series_instance_uid"]]]
        sent = [cloud.books.sent[key] for key in keys if key in cloud.books.sent]
        is_good = sent and not any(each.is_odd for each in sent)
        if row["state"] in {"failed", "partial"} and is_good and row["study_instance_uid"] not in cloud.books.deleted:
            yield f"{row['delivery_id']} {row['series_instance_uid']} {row['state']}: {row['message']}"


def imported_twice(cloud: Cloud) -> Iterator[str]:
    """No object is in the success lists of two jobs."""
    kinds = {"job_fault", "delete", "unreadable_results", "restored"}
    if cloud.box.is_excused("imported_twice", cloud.books.kinds & kinds):
        return
    times: Counter[str] = Counter()
    for key, (content, _) in cloud.bucket.objects.items():
        if key.endswith("success.ndjson"):
            times.update(json.loads(line)["inputFile"] for line in content.decode().splitlines())
    yield from (f"{key} {number} times" for key, number in times.items() if number > 1)


def wrong_row(cloud: Cloud) -> Iterator[str]:
    """An empty value never wins; no image is under another patient or study."""
    sent = cloud.books.sent
    patients = {row["patient_key"]: row for row in rows(cloud.engine, tables.patient)}
    studies = {row["study_key"]: row for row in rows(cloud.engine, tables.study)}
    series = {row["series_key"]: row for row in rows(cloud.engine, tables.series)}
    indexed = [row["object_key"] for row in rows(cloud.engine, tables.stored_object) if row["indexed_at"]]
    values, odd = defaultdict(list), {sent[key].study["uid"] for key in indexed if key in sent and sent[key].is_odd}
    for key in indexed:
        if key in sent and not sent[key].is_odd:
            values[sent[key].study["uid"]].append(sent[key].study)
            values[key.split("/")[0], sent[key].study["patient"]].append(sent[key].study)
    columns = {"accession_number": "accession", "study_date": "date", "study_description": "description"}
    for row in studies.values():
        for column, name in columns.items():
            if not row[column] and any(each[name] for each in values[row["study_instance_uid"]]):
                yield f"study {row['study_instance_uid']} has an empty {column}"
    for row in patients.values():
        if not row["patient_name"] and any(
            each["name"] for each in values[row["issuer_of_patient_id"], row["patient_id"]]
        ):
            yield f"patient {row['patient_id']} has no name"
    for row in rows(cloud.engine, tables.instance):
        fact = sent.get(row["object_key"])
        if fact is None or fact.is_odd:
            continue
        study = studies[series[row["series_key"]]["study_key"]]
        patient = patients[study["patient_key"]]["patient_id"]
        if study["study_instance_uid"] != fact.study["uid"]:
            yield f"{row['sop_instance_uid']} of {fact.study['uid']} is under {study['study_instance_uid']}"
        elif patient != fact.study["patient"] and fact.study["uid"] not in odd:  # an odd one may name another patient
            yield f"{row['sop_instance_uid']} of {fact.study['patient']} is under {patient!r}"


def neighbour_held_up(cloud: Cloud) -> Iterator[str]:
    """Before anything is healed, the series of hours ago are settled, whatever became of others."""
    kinds = cloud.books.kinds & {"outage", "job_fault", "delete", "limits", "restore", "rebuild"}
    if cloud.box.is_excused("neighbour_held_up", kinds or cloud.box.chances["late"]):
        return
    jobs = {row["import_job_id"]: row for row in rows(cloud.engine, tables.import_job)}
    for row in rows(cloud.engine, tables.series_import):
        job = jobs.get(row["import_job_id"])
        is_unreadable = job and job["job_id"] and any(job["job_id"] in prefix for prefix in cloud.bucket.unreadable)
        is_old = row["created_at"] < cloud.box.now - _NEIGHBOUR
        if row["state"] in {"queued", "in_progress"} and is_old and not is_unreadable:
            yield f"{row['delivery_id']} {row['series_instance_uid']} {row['state']} since {row['created_at']}"


BEFORE_HEALING = (neighbour_held_up,)
AFTER = (
    *(dead_letter, failed_without_fault, patient_in_a_log, object_without_row, series_without_end),
    *(completed_but_not_there, good_series_failed, imported_twice, wrong_row),
)
