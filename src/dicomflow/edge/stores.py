"""The store of an edge, by its settings: credentials, endpoints and certificates; and whether it can be used."""

import asyncio
import contextlib
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.bucket import stores
from dicomflow.bucket.fips import fips_endpoint
from dicomflow.bucket.keys import probe_key
from dicomflow.bucket.stores import AT_ONCE, FROM_A_SITE, Patience
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.settings import DeliverySettings
from dicomflow.errors import PermanentError, TransientError
from dicomflow.folders import folder_of_url
from dicomflow.regularfiles import has_digest, read_regular

if TYPE_CHECKING:
    from dicomflow.edge.credentials import CredentialProvider

__all__ = [
    "build_credentials",
    "build_store",
    "check_store",
    "describe_refusal",
    "has_object",
    "identify_store",
    "is_unreachable",
    "local_root",
]

# S3's codes that mean the settings, the bucket's policy or the keys are wrong; all others may be over later.
_WRONG_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "KMS.DisabledException",
        "KMS.InvalidStateException",
        "KMS.NotFoundException",
        "MethodNotAllowed",
        "NoSuchBucket",
        "NotSignedUp",
        "PermanentRedirect",
        "SignatureDoesNotMatch",
    }
)
_ADVICE: Final = {
    "AccessDenied": "; the credentials need s3:PutObject there, and kms:GenerateDataKey where a key is set",
    "InvalidAccessKeyId": "; the keys are of another account, or deleted",
    "NoSuchBucket": "; make the bucket, or correct delivery.store_url",
    "PermanentRedirect": "; the bucket is in another region: set AWS_REGION",
    "SignatureDoesNotMatch": "; the secret key is wrong",
}
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_BARE_REDIRECT: Final = "incorrectly configured region"
# What obstore's many lines say of a connection that failed.
_CAUSE: Final = re.compile(
    r"Connection refused|Connection reset|TimedOut|timed out|dns error|InvalidCertificate\(\s*\w+|UnknownIssuer"
)


def build_store(settings: DeliverySettings, *, is_patient: bool = True) -> ObjectStore:
    """Build the store that `store_url` names: `s3://bucket[/prefix]` or `file:///folder`.

    One that is not patient gives up after seconds and tries nothing twice: somebody waits for its answer.

    Raises:
        PermanentError: the settings are wrong: a URL of neither kind, or a CA certificate that cannot be read.
        TransientError: the folder cannot be opened: what it lies on may be away, and come back.
    """
    patience = FROM_A_SITE if is_patient else AT_ONCE
    if not settings.store_url.startswith("s3://"):
        try:
            return stores.build_store(settings.store_url, patience)
        except PermanentError:
            raise
        except Exception as error:
            root = local_root(settings.store_url)
            raise TransientError(f"cannot open the object folder {root}: {_first_line(error)}") from error
    return _build_s3(settings, patience)


def identify_store(settings: DeliverySettings) -> str:
    """Return what tells this store from any other: what one took, another does not have."""
    root = local_root(settings.store_url)
    if root is not None:
        return root.absolute().as_uri()
    url = settings.store_url.rstrip("/")
    # As obstore and botocore rank them.
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoint = os.environ.get(names[0]) or settings.endpoint or os.environ.get(names[1])
    return f"{url} at {endpoint.rstrip('/')}" if endpoint else url


def build_credentials(settings: DeliverySettings) -> "tuple[CredentialProvider, str | None]":
    """Return what gives the credentials of the edge's store, and the region that is set, for other services of AWS."""
    import botocore.session  # noqa: PLC0415  # as in `_build_s3`

    session = botocore.session.Session(profile=settings.aws_profile)
    return _provider(session, settings), session.get_config_variable("region")


def check_store(settings: DeliverySettings, edge: str, mount: StoreMount | None = None) -> None:
    """Put a small object beside the edge's manifests and delete it; of a folder, ask only whether it may be written to.

    Raises:
        PermanentError: the store answered that it will never take one: no such bucket, access denied, wrong keys.
        TransientError: it cannot be reached, or may take one later.
    """
    root = local_root(settings.store_url)
    if root is not None:
        if mount is not None:
            mount.check()
        build_store(settings)
        if not os.access(root, os.W_OK | os.X_OK):
            raise TransientError(f"cannot write into the object folder {root}")
        return
    store = build_store(settings, is_patient=False)
    key = probe_key(edge)
    try:
        store.put(key, b"", use_multipart=False)
    except Exception as error:
        raise _describe(settings.store_url, error) from error
    # An edge needs no permission to delete; without it the one empty object stays.
    with contextlib.suppress(Exception):
        store.delete(key)


def describe_refusal(error: Exception) -> str:
    """Return S3's code with what to do, or the first of obstore's many lines with the cause that the others tell."""
    code, first = _code_of(error), _first_line(error)
    if code:
        return f"{code}{_ADVICE.get(code, '')}"
    cause = _CAUSE.search(str(error))
    return f"{first} ({cause[0]})" if cause else first


async def has_object(
    store: ObjectStore, root: Path | None, key: str, size_bytes: int, sha256: str, limit_seconds: float | None = None
) -> bool:
    """Tell whether an object is there as it was put; raises whatever the store raises when it does not say so.

    Of a folder the bytes are compared, since a disk may rot; of S3, which compared our checksum as they came and keeps
    them whole, their number.

    Args:
        store: where it is.
        root: the store's folder, if it is one.
        key: the object's.
        size_bytes: how many bytes were put.
        sha256: their digest.
        limit_seconds: for the store's answer.
    """
    async with asyncio.timeout(limit_seconds):
        found = await store.head_async(key)
    if found["size"] != size_bytes or root is None:
        return bool(found["size"] == size_bytes)
    return await asyncio.to_thread(has_digest, root / key, sha256)


def is_unreachable(error: Exception) -> bool:
    """Tell whether an error says that no store answered, so that it says nothing of rights."""
    return not _code_of(error) and _CAUSE.search(str(error)) is not None


def local_root(store_url: str) -> Path | None:
    """Return the folder of a `file://` URL; None for any other, one with a host (a slash too few) included."""
    return folder_of_url(store_url, Path)


def _build_s3(settings: DeliverySettings, patience: Patience) -> ObjectStore:
    # A third of a second, which an edge with a folder for a store need not wait for at its start.
    import botocore.session  # noqa: PLC0415  # as above

    session = botocore.session.Session(profile=settings.aws_profile)
    config: dict[str, object] = {"checksum_algorithm": "SHA256"}
    if region := session.get_config_variable("region"):
        config["region"] = region
    if settings.kms_key_id is not None:
        config |= {
            "server_side_encryption": "aws:kms",
            "sse_kms_key_id": settings.kms_key_id,
            "sse_bucket_key_enabled": True,
        }
    if settings.endpoint is not None:
        # Above AWS_ENDPOINT_URL; as elsewhere, the variable that names S3 alone is above the settings.
        config["endpoint"] = settings.endpoint
    elif (endpoint := _fips_endpoint(session, settings)) is not None:
        config["endpoint"] = endpoint
    if settings.accelerate:
        config |= {
            "endpoint": f"https://{urlsplit(settings.store_url).netloc}.s3-accelerate.amazonaws.com",
            "virtual_hosted_style_request": True,
        }
    try:
        return stores.build_store(
            settings.store_url,
            patience,
            config=config,
            client_options=_client_options(settings),
            credential_provider=_provider(session, settings),
        )
    except BaseError as error:  # nobody was asked yet
        wrong = "delivery.ca_certificate is no certificate" if settings.ca_certificate else _first_line(error)
        raise PermanentError(f"the store {settings.store_url} cannot be set up: {wrong}") from error


def _provider(session: Any, settings: DeliverySettings) -> "CredentialProvider":
    from dicomflow.edge.credentials import CredentialProvider, load_credentials  # noqa: PLC0415  # imports botocore

    load = partial(load_credentials, session)
    if (device := settings.credentials) is not None:
        from dicomflow.edge.devicecredentials import client_context, load_device_credentials  # noqa: PLC0415  # as above

        client_context(device)  # what is wrong with the files is told at start
        load = partial(load_device_credentials, device, settings.proxy_url, settings.proxy_excludes)
    return CredentialProvider(load)


def _fips_endpoint(session: Any, settings: DeliverySettings) -> str | None:
    """Return S3's FIPS endpoint, if it is asked for and no variable names another."""
    endpoint = fips_endpoint(session)
    if endpoint is not None and settings.accelerate:
        raise PermanentError("delivery.accelerate has no FIPS endpoint: switch it or AWS_USE_FIPS_ENDPOINT off")
    return None if os.environ.get("AWS_ENDPOINT_URL") else endpoint


def _client_options(settings: DeliverySettings) -> dict[str, object]:
    options: dict[str, object] = {}
    if settings.proxy_url is not None:
        options["proxy_url"] = settings.proxy_url
    if settings.proxy_excludes is not None:
        options["proxy_excludes"] = settings.proxy_excludes
    if settings.ca_certificate is not None:
        try:
            options["root_certificate"] = read_regular(settings.ca_certificate, follow=True)
        except OSError as error:
            raise PermanentError(
                f"cannot read delivery.ca_certificate {settings.ca_certificate}: {error.strerror}"
            ) from error
    return options


def _describe(store_url: str, error: Exception) -> PermanentError | TransientError:
    """Say in one line what a store's refusal means to the one who installs the edge."""
    if _code_of(error) in _WRONG_CODES:
        return PermanentError(f"the store {store_url} refuses what an edge must do: {describe_refusal(error)}")
    return TransientError(f"the store {store_url} cannot be used now: {describe_refusal(error)}")


def _code_of(error: Exception) -> str:
    found = _CODE.search(str(error))
    return "PermanentRedirect" if _BARE_REDIRECT in _first_line(error) else found[1] if found else ""


def _first_line(error: Exception) -> str:
    text = str(error)
    return text.splitlines()[0] if text else type(error).__name__
