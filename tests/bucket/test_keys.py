"""Keys: what names an object, and what a name says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.bucket.keys import (
    ADOPTED,
    MANIFEST_PREFIX,
    OWN_PREFIXES,
    RESERVED_NAMES,
    check_edge_name,
    feedback_key,
    feedback_prefix,
    heartbeat_key,
    instance_key,
    is_heartbeat,
    is_manifest,
    is_received,
    is_staging,
    manifest_key,
    probe_key,
    staging_prefix,
)

TEXT = st.text(max_size=20)
NAMES = st.sampled_from([*sorted(RESERVED_NAMES), "site-1", "a.b", "manifests.json"])


def test_keys_name_edge_delivery_and_uids():
    """Keys are deterministic, and manifests lie outside every delivery's prefix."""
    assert "site-1/d1/1.2/1.2.1/1.2.1.1.dcm" == instance_key("site-1", "d1", "1.2", "1.2.1", "1.2.1.1")
    assert "manifests/site-1/d1.json" == manifest_key("site-1", "d1")
    assert manifest_key("e", "d").startswith(MANIFEST_PREFIX)


@given(st.lists(TEXT, min_size=5, max_size=5))
def test_keys_cannot_be_escaped_by_uid_or_ae_title(parts: list[str]):
    """Whatever the parts hold, a key has five segments and no separator comes from a part."""
    assert 4 == instance_key(*parts).count("/")
    assert 2 == manifest_key(*parts[:2]).count("/")


def test_key_of_feedback_stays_under_its_edge():
    """Whatever the names are, an edge finds its feedback under its own prefix."""
    assert "feedback/edge-1/d1.json" == feedback_key("edge-1", "d1")
    assert feedback_key("a/b", "../c").startswith(feedback_prefix("a/b"))
    assert 2 == feedback_key("a/b", "../c").count("/")


def test_heartbeat_key_is_one_object_below_the_prefix():
    """A name cannot leave the prefix."""
    assert "status/site-1.json" == heartbeat_key("site-1")
    assert "status/a%2Fb.json" == heartbeat_key("a/b")


@given(NAMES, NAMES)
def test_every_key_is_taken_for_what_it_is_whatever_the_edge_is_called(edge: str, delivery: str):
    """An image of an edge called "status" is no heartbeat, and a heartbeat is no image."""
    image = instance_key(edge, delivery, "1.2", "1.2.1", "1.2.1.1")
    series = image.rpartition("/")[0] + "/"
    study = series.rstrip("/").rpartition("/")[0] + "/"
    assert is_received(image)
    assert not any((is_manifest(image), is_heartbeat(image), is_staging(series), is_staging(study)))
    manifest, heartbeat, copies = manifest_key(edge, delivery), heartbeat_key(edge), staging_prefix("a" * 64)
    assert (True, False, False) == (is_manifest(manifest), is_heartbeat(manifest), is_received(manifest))
    assert (False, True, False) == (is_manifest(heartbeat), is_heartbeat(heartbeat), is_received(heartbeat))
    assert (True, False) == (is_staging(copies), is_received(f"{copies}1.2.1.1.dcm"))
    for other in (feedback_key(edge, delivery), probe_key(edge), "imports/ds-DicomImport-1/SUCCESS/success.ndjson"):
        assert not any((is_received(other), is_manifest(other), is_heartbeat(other)))


def test_what_lies_elsewhere_may_be_an_image():
    """An object that something else has put is looked at, whatever its key: it is indexed or a problem."""
    assert all(map(is_received, ("x", "foreign/x.dcm", "manifest/e/d.json", "imports", "Manifests/e/d.json")))


@pytest.mark.parametrize("name", [*sorted(RESERVED_NAMES), "Manifests", "STATUS", "returnS", "imports.."])
def test_name_of_a_prefix_is_refused_to_an_edge(name: str):
    """Folders of some systems know no case, nor a dot at the end."""
    assert {ADOPTED, *(prefix.rstrip("/") for prefix in OWN_PREFIXES)} == RESERVED_NAMES
    with pytest.raises(ValueError, match=f"'{name}' is reserved"):
        check_edge_name(name)


@pytest.mark.parametrize("name", ["manifests-1", "iep-status", "import", "a", "status.json"])
def test_name_like_a_prefix_is_taken(name: str):
    """Only the whole name collides."""
    assert name == check_edge_name(name)
