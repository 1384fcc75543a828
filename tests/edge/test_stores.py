"""Object stores, built from settings."""

import base64
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import obstore
import pytest
from fault_proxy import FaultProxy
from obstore.store import LocalStore, S3Store

from dicomflow.edge.deliver.bandwidth import LEAST_IN_FLIGHT_BYTES
from dicomflow.edge.deliver.uploader import _PART_BYTES
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store, check_store, local_root
from dicomflow.errors import PermanentError, TransientError


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


def test_folder_that_cannot_be_opened_may_be_later(tmp_path: Path):
    """A file in the folder's place is no mistake in the settings: what the folder lies on may be away."""
    (tmp_path / "objects").write_text("a file")
    with pytest.raises(TransientError, match="cannot open the object folder"):
        build_store(DeliverySettings(store_url=(tmp_path / "objects").as_uri()))


@pytest.fixture
def settings_of(aws_environment: pytest.MonkeyPatch, fault_proxy: FaultProxy, bucket: str) -> Callable[..., Any]:
    """Give settings of an edge that stores in a bucket behind a proxy that can fail."""

    def _settings_of(**fields: Any) -> DeliverySettings:
        return DeliverySettings(**({"store_url": f"s3://{bucket}", "endpoint": fault_proxy.url} | fields))

    return _settings_of


def test_upload_options_reach_the_uploads(settings_of: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str):
    """Each object is stored with the key that the settings name, and with a bucket key."""
    obstore.put(build_store(settings_of(kms_key_id="alias/images")), "k", b"content")
    headers = fault_proxy.requests[-1].headers
    expected = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "alias/images",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
    }
    assert expected.items() <= headers.items()
    stored = s3_client.head_object(Bucket=bucket, Key="k")
    assert ("aws:kms", "alias/images") == (stored["ServerSideEncryption"], stored["SSEKMSKeyId"])


def test_checksum_travels_with_the_put(settings_of: Any, fault_proxy: FaultProxy):
    """S3 is told the SHA-256 of the bytes, so that it refuses others."""
    obstore.put(build_store(settings_of()), "k", b"content")
    sent = fault_proxy.requests[-1].headers["x-amz-checksum-sha256"]
    assert sha256(b"content").digest() == base64.b64decode(sent)


def test_endpoint_of_the_environment_is_used(settings_of: Any, fault_proxy: FaultProxy, aws_environment: Any):
    """AWS_ENDPOINT_URL counts where the settings name none, and AWS_ENDPOINT_URL_S3 above both."""
    aws_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    obstore.put(build_store(settings_of()), "by-settings", b"x")
    aws_environment.setenv("AWS_ENDPOINT_URL", fault_proxy.url)
    obstore.put(build_store(settings_of(endpoint=None)), "by-variable", b"x")
    aws_environment.setenv("AWS_ENDPOINT_URL_S3", fault_proxy.url)
    obstore.put(build_store(settings_of(endpoint="http://127.0.0.1:1")), "by-variable-of-s3", b"x")
    assert ["by-settings", "by-variable", "by-variable-of-s3"] == [path.split("/")[-1] for path in fault_proxy.puts()]


def test_proxy_is_asked_for_the_endpoint(settings_of: Any, fault_proxy: FaultProxy):
    """Requests go through the proxy, which can reach what the edge cannot; excluded hosts do not."""
    hidden = "http://127.0.0.1:1"
    obstore.put(build_store(settings_of(endpoint=hidden, proxy_url=fault_proxy.url)), "k", b"x")
    assert "127.0.0.1:1" == fault_proxy.requests[-1].headers["host"]
    excluded = settings_of(proxy_url="http://127.0.0.1:1", proxy_excludes="127.0.0.1")
    obstore.put(build_store(excluded), "k", b"x")


def test_proxy_of_the_environment_is_asked(settings_of: Any, fault_proxy: FaultProxy, aws_environment: Any):
    """Without a proxy in the settings the variables count, as elsewhere; NO_PROXY leaves hosts out."""
    hidden = settings_of(endpoint="http://127.0.0.1:1")
    for name in ("HTTP_PROXY", "http_proxy"):
        aws_environment.setenv(name, fault_proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        aws_environment.setenv(name, "example.org")
    obstore.put(build_store(hidden), "k", b"x")
    assert "127.0.0.1:1" == fault_proxy.requests[-1].headers["host"]
    for name in ("NO_PROXY", "no_proxy"):
        aws_environment.setenv(name, "127.0.0.1")
    with pytest.raises(TransientError, match="cannot be used now"):
        check_store(hidden, "site-1")


def test_own_certificate_authority_is_trusted(settings_of: Any, tls_sink: tuple[str, Path]):
    """A store whose certificate is of the site's own authority is refused without it, and used with it."""
    url, authority = tls_sink
    check_store(settings_of(endpoint=url, ca_certificate=authority), "site-1")
    with pytest.raises(TransientError, match="UnknownIssuer"):
        check_store(settings_of(endpoint=url), "site-1")


def test_certificate_that_cannot_be_read_is_refused(settings_of: Any, tmp_path: Path):
    """A wrong path stops the program with the setting's name."""
    with pytest.raises(PermanentError, match=r"delivery\.ca_certificate"):
        build_store(settings_of(ca_certificate=tmp_path / "none.pem"))


def test_certificate_that_is_none_is_refused(settings_of: Any, tmp_path: Path):
    """So does a file with something else."""
    path = tmp_path / "ca.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
    with pytest.raises(PermanentError, match=r"delivery\.ca_certificate is no certificate"):
        build_store(settings_of(ca_certificate=path))


def test_acceleration_with_an_endpoint_is_refused():
    """Both name an endpoint: one would be ignored."""
    with pytest.raises(ValueError, match="exclude each other"):
        DeliverySettings(store_url="s3://bucket", endpoint="https://s3.example", accelerate=True)


def test_slow_uplink_does_not_time_out_a_part(settings_of: Any, fault_proxy: FaultProxy):
    """Bytes that trickle are waited for: the time for a request is that of a part at 64 kbit/s."""
    store = build_store(settings_of())
    assert isinstance(store, S3Store)
    assert _PART_BYTES * 8 / 80_000 <= 15 * 60
    assert LEAST_IN_FLIGHT_BYTES * 8 / 1_000_000 <= 15 * 60  # all that shares a line of 1 Mbit/s
    assert "15m" == store.client_options["timeout"]
    fault_proxy.fault = FaultProxy.slow(64 << 10)
    obstore.put(store, "k", bytes(128 << 10), use_multipart=False)
    assert 128 << 10 == obstore.head(store, "k")["size"]


def test_store_that_takes_objects_passes_the_check(settings_of: Any, s3_client: Any, bucket: str):
    """The probe leaves nothing behind."""
    check_store(settings_of(), "site-1")
    assert "Contents" not in s3_client.list_objects_v2(Bucket=bucket)


def test_folder_passes_the_check(tmp_path: Path):
    """So does a folder, in which no object stays."""
    check_store(DeliverySettings(store_url=tmp_path.as_uri()), "site-1")
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_folder_without_permission_is_no_reason_not_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder that is not ours to write to may be later."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(TransientError, match="cannot write into the object folder"):
        check_store(DeliverySettings(store_url=tmp_path.as_uri()), "site-1")


def test_missing_bucket_is_wrong(settings_of: Any):
    """The text says what is to be done."""
    with pytest.raises(PermanentError, match=r"s3://no-such-bucket .*NoSuchBucket; make the bucket"):
        check_store(settings_of(store_url="s3://no-such-bucket"), "site-1")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (400, "KMS.NotFoundException"),
        (400, "AuthorizationHeaderMalformed"),
        (301, "PermanentRedirect"),
    ],
)
def test_refusal_that_stays_is_wrong(settings_of: Any, fault_proxy: FaultProxy, status: int, code: str):
    """What no time heals stops the program, with S3's own code in the text."""
    fault_proxy.fault = FaultProxy.status(status, code)
    with pytest.raises(PermanentError, match=code):
        check_store(settings_of(), "site-1")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (503, "SlowDown"),
        (403, "RequestTimeTooSkewed"),
        (400, "ExpiredToken"),
        (409, "OperationAborted"),
        (400, "RequestTimeout"),
    ],
)
def test_refusal_that_passes_is_no_reason_not_to_start(
    settings_of: Any, fault_proxy: FaultProxy, status: int, code: str
):
    """What may be over later is told apart: the edge starts without the cloud."""
    fault_proxy.fault = FaultProxy.status(status, code)
    with pytest.raises(TransientError, match=code):
        check_store(settings_of(), "site-1")


def test_unreachable_store_is_no_reason_not_to_start(settings_of: Any, fault_proxy: FaultProxy):
    """The text says why it cannot be reached."""
    fault_proxy.refuse()
    with pytest.raises(TransientError, match="Connection refused"):
        check_store(settings_of(), "site-1")
    with pytest.raises(TransientError, match="dns error"):
        check_store(settings_of(endpoint="https://s3.site.invalid"), "site-1")


def test_missing_credentials_are_no_reason_not_to_start(settings_of: Any, aws_environment: pytest.MonkeyPatch):
    """A machine's role may come late; the text names what was looked for."""
    aws_environment.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(TransientError, match="neither keys, profile"):
        check_store(settings_of(), "site-1")
