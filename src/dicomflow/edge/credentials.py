"""Credentials for the object store: found by botocore's chain, kept exactly as long as they are valid.

The chain is static keys, profile, web identity, token exchange (Greengrass, ECS, EKS) and instance metadata.
obstore's own chain does not know the variable with which Greengrass hands out its token, and its boto3 provider keeps
credentials for half an hour whatever their expiry: with those of a role alias, uploads then fail until it is over.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import botocore.credentials
import botocore.exceptions
import botocore.session

from dicomflow.errors import TransientError

if TYPE_CHECKING:
    from obstore.store import S3Credential

__all__ = ["CredentialProvider", "Credentials", "load_credentials"]

# With less than this left, newer ones are asked for; the token exchange itself renews its own five minutes before.
_RENEW_BEFORE: Final = timedelta(minutes=10)
# What it hands out may have five minutes left from the start: it is not asked again for each request.
_ASK_AGAIN_AFTER: Final = timedelta(seconds=30)
# After a failure without valid credentials: long enough not to be a hammer, short enough not to add to an outage.
_FAIL_AGAIN_AFTER: Final = timedelta(seconds=2)

# Keys in a file have no expiry, but may be exchanged. obstore asks five minutes before an expiry.
_LOOK_AGAIN_AFTER: Final = timedelta(minutes=15)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """One set of credentials; `expires_at` None means never."""

    access_key_id: str
    secret_access_key: str
    token: str | None
    expires_at: datetime | None

    def __repr__(self) -> str:
        """Show no secret in tracebacks and logs."""
        return f"Credentials(expires_at={self.expires_at})"


def load_credentials(session: botocore.session.Session) -> Credentials:
    """Ask the sources of the chain, one after the other, for credentials that are fresh now.

    Raises:
        TransientError: no source has any, or one that is configured gave none; the text names it.
    """
    try:
        found = session.get_component("credential_provider").load_credentials()
        if found is None:
            raise TransientError(
                "no AWS credentials: neither keys, profile, web identity, token exchange nor instance metadata"
            )
        frozen = found.get_frozen_credentials()
    except (botocore.exceptions.BotoCoreError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise TransientError(f"AWS credentials cannot be had: {type(error).__name__}: {error}") from error
    # Only here does botocore tell when they end.
    expires_at: datetime | None = getattr(found, "_expiry_time", None)
    if not frozen.access_key or not frozen.secret_key:
        raise TransientError("AWS credentials cannot be had: the source gave an empty key")
    # obstore takes no other time zone.
    return Credentials(
        frozen.access_key, frozen.secret_key, frozen.token, expires_at.astimezone(UTC) if expires_at else None
    )


class CredentialProvider:
    """Gives obstore credentials that are valid at the moment it asks. Threads: any.

    Raises:
        TransientError: from a call, when those it has are over and no others can be had.
    """

    def __init__(
        self, load: Callable[[], Credentials], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()  # guards all of the state below
        self._current: Credentials | None = None
        self._expires_at = self._asked_at = datetime.min.replace(tzinfo=UTC)
        self._failure = ""

    def __call__(self) -> "S3Credential":
        """Return credentials and their true expiry; those without one are looked at again after some minutes."""
        with self._lock:
            now = self._clock()
            if self._expires_at - now < _RENEW_BEFORE and self._may_ask(now):
                self._renew(now)
            current, expires_at = self._current, self._expires_at
            if current is None or expires_at <= now:
                raise TransientError(self._failure or "AWS credentials are over, and the source gave no newer ones")
        return {
            "access_key_id": current.access_key_id,
            "secret_access_key": current.secret_access_key,
            "token": current.token,
            "expires_at": expires_at,
        }

    def _may_ask(self, now: datetime) -> bool:
        """Tell whether the last question was long enough ago; also when the clock was set back since."""
        pause = _ASK_AGAIN_AFTER if self._expires_at > now else _FAIL_AGAIN_AFTER
        return not timedelta(0) <= now - self._asked_at < pause

    def _renew(self, now: datetime) -> None:
        """Ask for newer credentials; when there are none, those that are still valid go on."""
        self._asked_at = now
        try:
            self._current = self._load()
        except TransientError as error:
            self._failure = str(error)
            _logger.warning("credentials_not_renewed reason=%s", error)
            return
        self._failure = ""
        self._expires_at = self._current.expires_at or now + _LOOK_AGAIN_AFTER
