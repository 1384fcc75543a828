"""Object stores, built in one place with timeouts, retries and credentials set explicitly."""

from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, ObjectStore, S3Store

from dicomflow.edge.settings import DeliverySettings
from dicomflow.errors import PermanentError

__all__ = ["build_store", "local_root"]

# A part of 5 MiB at 1 Mbit/s takes 42 s; the default of 30 s for a whole request would never let it through.
_REQUEST_TIMEOUT: Final = timedelta(seconds=300)
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_MAX_RETRIES: Final = 3
_RETRY_TIMEOUT: Final = timedelta(seconds=60)


def build_store(settings: DeliverySettings) -> ObjectStore:
    """Build the store that `store_url` names: `s3://bucket[/prefix]` or `file:///folder`.

    Raises:
        PermanentError: the URL is of neither kind, or the folder cannot be made.
    """
    root = local_root(settings.store_url)
    if root is not None:
        try:
            return LocalStore(root, mkdir=True)
        except Exception as error:
            raise PermanentError(f"cannot open the object folder {root}: {error}") from error
    bucket = urlsplit(settings.store_url).netloc
    if not settings.store_url.startswith("s3://") or not bucket:
        raise PermanentError(f"delivery.store_url {settings.store_url!r} is neither s3://bucket nor file:///folder")
    config: dict[str, object] = {"checksum_algorithm": "SHA256"}
    if settings.kms_key_id is not None:
        config |= {
            "server_side_encryption": "aws:kms",
            "sse_kms_key_id": settings.kms_key_id,
            "sse_bucket_key_enabled": True,
        }
    if settings.accelerate:
        config |= {
            "endpoint": f"https://{bucket}.s3-accelerate.amazonaws.com",
            "virtual_hosted_style_request": True,
        }
    return S3Store.from_url(
        settings.store_url,
        config=config,  # type: ignore[arg-type]  # a TypedDict cannot be built by parts
        client_options={"timeout": _REQUEST_TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT, "allow_http": True},
        retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": _RETRY_TIMEOUT},
    )


def local_root(store_url: str) -> Path | None:
    """Return the folder of a `file://` URL; None for any other, one with a host (a slash too few) included."""
    parts = urlsplit(store_url)
    is_folder = parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/")
    return Path(unquote(parts.path)) if is_folder else None
