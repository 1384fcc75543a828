"""Object stores, built from settings."""

from pathlib import Path

import pytest
from obstore.store import LocalStore, S3Store

from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store, local_root
from dicomflow.errors import PermanentError


def test_folder_url_makes_the_folder(tmp_path: Path):
    """A `file://` URL names a folder, which is made; spaces are percent-encoded."""
    root = tmp_path / "with space"
    store = build_store(DeliverySettings(store_url=root.as_uri()))
    assert isinstance(store, LocalStore)
    assert root.is_dir()
    assert root == local_root(root.as_uri())


def test_upload_options_reach_the_store():
    """Encryption, checksum and acceleration are what the settings say."""
    store = build_store(
        DeliverySettings(store_url="s3://bucket/prefix", kms_key_id="alias/key", accelerate=True),
    )
    assert isinstance(store, S3Store)
    config = {str(name).removeprefix("aws_"): value for name, value in store.config.items()}
    assert "SHA256" == config["checksum_algorithm"].upper()
    assert ("aws:kms", "alias/key") == (config["server_side_encryption"], config["sse_kms_key_id"])
    assert "https://bucket.s3-accelerate.amazonaws.com" == config["endpoint"]
    assert "prefix" == store.prefix


def test_requests_may_last_as_long_as_a_slow_line_needs():
    """A part of 5 MiB at 1 Mbit/s takes 42 s; no request is cut off before five minutes."""
    store = build_store(DeliverySettings(store_url="s3://bucket"))
    assert isinstance(store, S3Store)
    assert "5m" == store.client_options["timeout"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bucket",
        "http://bucket",
        "gs://bucket",
        "s3://",
        "s3:///key",
        "/folder",
        "file://folder/objects",
        "file:objects",
    ],
)
def test_other_url_is_refused_at_start(url: str):
    """A URL of another kind, or without a bucket, stops the program."""
    with pytest.raises(PermanentError, match="store_url"):
        build_store(DeliverySettings(store_url=url))


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    """A file in the folder's place stops the program with its name."""
    (tmp_path / "objects").write_text("a file")
    with pytest.raises(PermanentError, match="cannot open the object folder"):
        build_store(DeliverySettings(store_url=(tmp_path / "objects").as_uri()))
