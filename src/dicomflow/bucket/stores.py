"""Object stores, built in one place for edge and cloud: what a URL names, and how long it is waited for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from obstore.store import LocalStore, ObjectStore, S3Store

from dicomflow.errors import PermanentError
from dicomflow.folders import folder_of_url

if TYPE_CHECKING:
    from obstore.store import S3Credential

__all__ = ["AT_ONCE", "FROM_A_SITE", "IN_THE_CLOUD", "Patience", "build_store"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request and its connection may take, and how often and how long it is tried again."""

    request: timedelta
    connect: timedelta
    retries: int
    retrying: timedelta


# A part of 8 MiB at 1 Mbit/s takes 68 s, and several share the line: the default of 30 s would let none through.
FROM_A_SITE: Final = Patience(timedelta(minutes=15), timedelta(seconds=10), 3, timedelta(seconds=60))
IN_THE_CLOUD: Final = Patience(timedelta(seconds=60), timedelta(seconds=5), 5, timedelta(seconds=120))
# For whom somebody waits.
AT_ONCE: Final = Patience(timedelta(seconds=5), timedelta(seconds=5), 0, timedelta(seconds=60))


def build_store(
    store_url: str,
    patience: Patience,
    *,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
    credential_provider: "Callable[[], S3Credential] | None" = None,
) -> ObjectStore:
    """Build the store that a URL names, `s3://bucket[/prefix]` or `file:///folder`; nobody is asked yet.

    Args:
        store_url: the URL.
        patience: for a bucket.
        config: what obstore is told of a bucket beside its environment.
        client_options: of its HTTP client, beside the times.
        credential_provider: gives credentials; without one obstore finds them.

    Raises:
        PermanentError: the URL is of neither kind.
        Exception: whatever obstore raises: a folder cannot be opened, or the options are wrong.
    """
    folder = folder_of_url(store_url)
    if folder is not None:
        return LocalStore(folder, mkdir=True)
    if not store_url.startswith("s3://") or not urlsplit(store_url).netloc:
        raise PermanentError(f"store_url {store_url!r} is neither s3://BUCKET nor file:///FOLDER")
    # AWS's own endpoints are https; http is spoken only where an endpoint says so.
    times = {"timeout": patience.request, "connect_timeout": patience.connect, "allow_http": True}
    return S3Store.from_url(
        store_url,
        config=dict(config or {}),  # type: ignore[arg-type]  # a TypedDict cannot be built by parts
        client_options={**times, **(client_options or {})},  # type: ignore[arg-type]  # as above
        retry_config={"max_retries": patience.retries, "retry_timeout": patience.retrying},
        credential_provider=credential_provider,
    )
