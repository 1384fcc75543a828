"""What the routes say of a series."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.edge.destinations import Destination, Route
from dicomflow.edge.routes.decision import ATTRIBUTES, Candidate, SeriesDecision, configuration_of, decide

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.11"
DESTINATIONS = {
    "pacs": Destination(host="h", port=104, ae_title="PACS"),
    "research": Destination(host="h", port=104, ae_title="RESEARCH", required=False),
}


def route(when: dict[str, Any], *to: str, stop: bool = False, name: str | None = None) -> Route:
    """Make a route as edge.toml has it."""
    return Route.model_validate({"when": when, "to": to, "stop": stop, "name": name})


def instance(
    sop: str = "1", *, series: str = "s", sop_class: str = CT, calling: str = "CT1", called: str = "EDGE", **values: str
) -> Candidate:
    """Make an instance; of the attributes those that are given have a value."""
    read = {key: frozenset(values[key].split("\\") if key in values else ()) for key in ATTRIBUTES}
    return Candidate(sop, sop_class, series, calling, called, read)


def destinations_of(decision: SeriesDecision, sop: str = "1") -> list[str]:
    """Return where an instance goes."""
    return [each.destination for each in decision.of(sop)]


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({"modality": "CT"}, True),
        ({"modality": "ct"}, True),
        ({"modality": ["MR", "C?"]}, True),
        ({"modality": "MR"}, False),
        ({"modality": "*"}, True),
        ({"study_description": "*schädel*"}, True),
        ({"study_description": "SCHÄDEL*"}, True),
        ({"body_part": "chest"}, True),
        ({"body_part": "abdomen"}, True),
        ({"station_name": "*"}, False),
        ({"station_name": ""}, True),
        ({"modality": ""}, False),
        ({"sop_class": CT}, True),
        ({"sop_class": "ctimage*"}, True),
        ({"calling_ae_title": "CT[12]", "called_ae_title": "EDGE"}, True),
        ({"calling_ae_title": "CT[12]", "called_ae_title": "OTHER"}, False),
        ({"modality": "CT", "not": {"calling_ae_title": "CT1"}}, False),
        ({"not": {"modality": "MR", "station_name": "X"}}, True),
        ({"not": {"modality": "MR", "body_part": "CHEST"}}, False),
        ({}, True),
    ],
)
def test_a_condition_is_a_glob_that_one_value_fits(when: dict[str, Any], *, fits: bool) -> None:
    """Globs are compared without case, several values one by one, and an absent value fits nothing but ""."""
    of_it = instance(modality="CT", study_description="Schädel nativ ", body_part="CHEST\\ABDOMEN")
    (decision,) = decide([route(when, "pacs")], DESTINATIONS, [of_it])
    assert destinations_of(decision) == (["pacs"] if fits else ["store"])


def test_all_routes_that_fit_are_taken_up_to_a_stop() -> None:
    """Each destination is named once, by the first route that names it, and a `stop` ends the search."""
    routes = [
        route({"modality": "CT"}, "pacs", "store", name="first"),
        route({"modality": "MR"}, "research"),
        route({}, "pacs", "research"),
        route({"modality": "CT"}, "store", stop=True),
        route({}, "research"),
    ]
    (decision,) = decide(routes, DESTINATIONS, [instance(modality="CT")])
    assert [(each.destination, each.route) for each in decision.choices] == [
        ("pacs", "first"),
        ("store", "first"),
        ("research", "route 3"),
    ]
    (stopped,) = decide(routes[3:], DESTINATIONS, [instance(modality="CT")])
    assert destinations_of(stopped) == ["store"]


def test_series_of_one_study_are_decided_apart() -> None:
    """A CT series goes where CT goes, and the report beside it to the default store."""
    found = decide(
        [route({"modality": "CT"}, "pacs")],
        DESTINATIONS,
        [instance("1", series="a", modality="CT"), instance("2", series="b", sop_class=SR, modality="SR")],
    )
    assert [(each.series_instance_uid, destinations_of(each)) for each in found] == [("a", ["pacs"]), ("b", ["store"])]


def test_instances_that_disagree_go_to_the_default_store() -> None:
    """On an attribute that some route looks at, and on no other; a header that cannot be read is no agreement."""
    routes = [route({"modality": "CT"}, "pacs")]
    one, other = instance("1", modality="CT", body_part="HEAD"), instance("2", modality="CT", body_part="NECK")
    (decision,) = decide(routes, DESTINATIONS, [one, other])
    assert (destinations_of(decision), decision.doubt) == (["pacs"], "")
    (decision,) = decide([*routes, route({"body_part": "FOOT"}, "store")], DESTINATIONS, [one, other])
    assert (destinations_of(decision), decision.doubt) == (["store"], "its instances disagree on body_part")
    unread = Candidate("3", CT, "s", "CT1", "EDGE", None)
    (decision,) = decide(routes, DESTINATIONS, [one, unread])
    assert (destinations_of(decision), decision.doubt) == (["store"], "a header cannot be read")
    (decision,) = decide([route({"sop_class": CT}, "pacs")], DESTINATIONS, [one, unread])
    assert destinations_of(decision) == ["pacs"]


def test_a_series_of_two_associations_fits_by_either() -> None:
    """AE titles are of associations, and no attribute that instances could disagree on."""
    both = [instance("1", calling="CT1"), instance("2", calling="CT2")]
    (decision,) = decide([route({"calling_ae_title": "CT2"}, "pacs")], DESTINATIONS, both)
    assert destinations_of(decision) == ["pacs"]
    (decision,) = decide([route({"not": {"calling_ae_title": "CT2"}}, "pacs")], DESTINATIONS, both)
    assert destinations_of(decision) == ["store"]


def test_what_a_destination_sent_does_not_go_back_to_it() -> None:
    """It would come again for ever; what has no other home goes to the default store."""
    echoed = [instance("1", calling="CT1"), instance("2", calling="PACS")]
    (decision,) = decide([route({}, "pacs", "research")], DESTINATIONS, echoed)
    assert destinations_of(decision, "1") == ["pacs", "research"]
    assert destinations_of(decision, "2") == ["research", "store"]
    (decision,) = decide([route({}, "pacs", "store")], DESTINATIONS, echoed)
    assert destinations_of(decision, "2") == ["store"]


_KEYS = st.sampled_from(["modality", "body_part", "calling_ae_title", "sop_class"])
_GLOBS = st.dictionaries(_KEYS, st.sampled_from(["A", "B*", "?", "", "*"]), max_size=2)
_ROUTES = st.lists(
    st.builds(
        lambda when, excluded, to, stop: route(when | {"not": excluded}, *to, stop=stop),
        *(_GLOBS, _GLOBS, st.lists(st.sampled_from(["store", "pacs", "research"]), min_size=1), st.booleans()),
    ),
    max_size=4,
)
_VALUE = st.sampled_from(["A", "B", "BB", "", "A\\B"])


@given(_ROUTES, st.lists(st.tuples(_VALUE, _VALUE, st.sampled_from(["A", "B", "PACS"])), min_size=1, max_size=4))
def test_every_instance_has_a_home_and_no_destination_twice(
    routes: list[Route], values: list[tuple[str, str, str]]
) -> None:
    """Whatever the rules are: nothing is discarded, and nothing that no rule names is sent anywhere but home."""
    instances = [
        instance(str(number), modality=modality, body_part=part, calling=calling)
        for number, (modality, part, calling) in enumerate(values)
    ]
    (decision,) = decide(routes, DESTINATIONS, instances)
    named = {name for each in routes for name in each.to} | {"store"}
    for each in instances:
        found = destinations_of(decision, each.sop_instance_uid)
        assert found
        assert len(set(found)) == len(found)
        assert set(found) <= named
        assert each.calling_ae_title != "PACS" or "pacs" not in found


def test_a_configuration_is_told_from_another() -> None:
    """The digest is of all that decides, and the same in any process."""
    one = configuration_of([route({"modality": "CT"}, "pacs")], DESTINATIONS)
    assert one == configuration_of([route({"modality": "CT"}, "pacs")], dict(reversed(DESTINATIONS.items())))
    assert one != configuration_of([route({"modality": "CT"}, "pacs", stop=True)], DESTINATIONS)
    changed = DESTINATIONS | {"pacs": DESTINATIONS["pacs"].model_copy(update={"required": False})}
    assert one != configuration_of([route({"modality": "CT"}, "pacs")], changed)
