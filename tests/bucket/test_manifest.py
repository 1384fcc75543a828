"""The manifest: written strictly, read back equal, and refused when it is another thing."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.bucket.manifest import (
    Association,
    Instance,
    Manifest,
    Series,
    Study,
)
from dicomflow.errors import PermanentError

# What a key and both databases can hold: no U+0000, and UTF-8 knows no surrogate.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
INSTANCES = st.builds(Instance, *[TEXT] * 4, st.integers(0, 2**63), *[TEXT] * 3)
MANIFESTS = st.builds(
    Manifest,
    edge=TEXT,
    delivery=TEXT,
    opened_at=st.datetimes(timezones=st.just(UTC)),
    closed_at=st.datetimes(timezones=st.just(UTC)),
    associations=st.lists(st.builds(Association, *[TEXT] * 5), max_size=3).map(tuple),
    studies=st.lists(
        st.builds(
            Study,
            TEXT,
            st.lists(st.builds(Series, TEXT, st.lists(INSTANCES, max_size=3).map(tuple)), max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
)


@pytest.fixture
def manifest() -> Manifest:
    """Give a manifest of one study with two series."""
    instances = [
        Instance(f"1.2.{n}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2", f"k{n}", n, "ab" * 32, "t", "a1")
        for n in range(1, 4)
    ]
    return Manifest(
        edge="site-1",
        delivery="d1",
        opened_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        closed_at=datetime(2026, 1, 31, 13, tzinfo=UTC),
        associations=(Association("a1", "CT1", "DICOMFLOW", "10.0.0.1", "released"),),
        studies=(Study("1.2", (Series("1.2.1", tuple(instances[:2])), Series("1.2.2", tuple(instances[2:])))),),
    )


@given(MANIFESTS)
def test_manifest_read_back_equals_what_was_written(original: Manifest):
    """Whatever is written is read back equal, and written again gives the same bytes."""
    encoded = original.to_json()
    assert original == Manifest.from_json(encoded)
    assert encoded == Manifest.from_json(encoded).to_json()


def test_association_of_an_earlier_edge_has_no_originators(manifest: Manifest):
    """What it did not tell is not missing."""
    document = json.loads(manifest.to_json())
    del document["associations"][0]["move_originators"]
    assert manifest == Manifest.from_json(json.dumps(document).encode())


def test_unknown_members_are_ignored(manifest: Manifest):
    """A later writer may add members anywhere."""
    document = json.loads(manifest.to_json())
    document["new"] = document["studies"][0]["new"] = document["studies"][0]["series"][0]["new"] = 1
    document["associations"][0]["new"] = document["studies"][0]["series"][0]["instances"][0]["new"] = 1
    assert manifest == Manifest.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("encoded", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000])
def test_other_bytes_are_refused(encoded: bytes):
    """What is no manifest raises one documented error."""
    with pytest.raises(PermanentError, match="not a manifest of version 1"):
        Manifest.from_json(encoded)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("edge",), 1),
        (("delivery",), None),
        (("opened_at",), "yesterday"),
        (("opened_at",), "2026-01-31T12:00:00"),
        (("closed_at",), 1),
        (("associations",), 1),
        (("associations", 0), "a1"),
        (("associations", 0, "peer"), 1),
        (("studies",), None),
        (("studies", 0, "study_instance_uid"), 1),
        (("studies", 0, "series", 0, "series_instance_uid"), []),
        (("studies", 0, "series", 0, "instances", 0, "bytes"), "1"),
        (("studies", 0, "series", 0, "instances", 0, "bytes"), True),
        (("studies", 0, "series", 0, "instances", 0, "sha256"), 5),
    ],
)
def test_member_of_another_type_is_refused(manifest: Manifest, path: tuple[Any, ...], value: Any):
    """Each member must have its type; times must have a zone."""
    document = json.loads(manifest.to_json())
    _place(document, path)[path[-1]] = value
    with pytest.raises(PermanentError):
        Manifest.from_json(json.dumps(document).encode())


def _place(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


def test_missing_member_is_refused(manifest: Manifest):
    """Each member of the document is required."""
    document = json.loads(manifest.to_json())
    for name in document:
        with pytest.raises(PermanentError):
            Manifest.from_json(json.dumps({key: value for key, value in document.items() if key != name}).encode())


def test_only_keeps_named_instances_and_drops_what_is_empty(manifest: Manifest):
    """Instances that are not named go, and with them series and studies that hold nothing else."""
    kept = manifest.only({"1.2.1"})
    assert ["1.2.1"] == [instance.sop_instance_uid for instance in kept.instances()]
    assert ["1.2.1"] == [series.series_instance_uid for series in kept.studies[0].series]
    assert manifest == manifest.only({"1.2.1", "1.2.2", "1.2.3"})
    assert replace(manifest, studies=()) == manifest.only(set())
