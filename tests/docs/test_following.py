"""One instance can be followed through the logs, from its association to the image set that holds it."""

import json
from typing import Any

from waiting import wait_for


def test_logs_of_edge_and_pipeline_join_for_one_instance(site: Any):
    """Association, delivery and job ids lead from line to line, each a member of its JSON."""
    lines = [json.loads(line) for line in site.daemon.log.read_text().splitlines() if line.startswith("{")]
    by_event: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_event.setdefault(line["message"].split()[0], []).append(line)
    key, image_set_id = site.daemon.query(
        "SELECT instance.object_key, import_outcome.image_set_id FROM instance"
        " JOIN import_outcome ON import_outcome.object_key = instance.object_key"
    )[0]
    delivery = key.split("/")[1]

    (closed,) = [line for line in by_event["delivery_closed"] if line["delivery"] == delivery]
    associations = closed["associations"].split(",")
    ended = [line for line in by_event["association_ended"] if line["association"] in associations]
    assert len(associations) == len(ended)
    assert all("DICOMFLOW" == line["calling"] for line in ended)
    assert closed["instances"] <= sum(line["stored"] for line in ended)
    (stored,) = [line for line in by_event["delivery_stored"] if line["delivery"] == delivery]
    assert closed["instances"] == stored["instances"]

    # Messages come at least once: a manifest that is planned again queues nothing.
    planned = [line for line in by_event["delivery_planned"] if line["delivery"] == delivery]
    assert planned
    assert all(sorted(associations) == sorted(line["associations"]) for line in planned)
    started = [line for line in by_event["import_job_started"] if delivery in line["deliveries"]]
    assert sum(line["new_series"] for line in planned) == sum(line["series"] for line in started)
    finished = {line["job_id"]: line["state"] for line in by_event["import_job_ended"]}
    assert {"completed"} == {finished[line["job_id"]] for line in started}
    assert any(line["delivery"] == delivery for line in by_event["feedback_sent"])
    assert image_set_id


def test_logs_hold_no_patient_data(site: Any):
    """Neither a patient's name nor ID of the studies that went through is in any line."""
    text = site.daemon.log.read_text()
    values = {value for row in site.daemon.query("SELECT patient_name, patient_id FROM patient") for value in row}
    assert values
    assert [] == [value for value in values if value and value in text]


def test_events_of_a_delivery_are_posted(site: Any):
    """From its first image to its last series, each under an id of its own, and none names a patient."""
    (delivery, study) = site.daemon.query("SELECT delivery_id, study_instance_uid FROM series_import ORDER BY 1")[0]

    def posted() -> list[dict[str, Any]]:
        return [event for event in site.events if event["detail"]["delivery"] == delivery]

    wait_for(lambda: len(posted()) >= 4)
    kinds = [event["detail-type"] for event in posted()]
    assert ["Delivery Stored", "Series Imported", "Series Imported", "Study Receiving"] == sorted(kinds)
    assert 4 == len({event["id"] for event in posted()})
    assert study == posted()[0]["detail"].get("study_instance_uid", study)
    assert "Demo" not in json.dumps(site.events)
