"""Bearer tokens of an OpenID Connect provider (RFC 6750, RFC 7519), checked by its public keys (JWKS, RFC 7517)."""

import threading
import time
from typing import Any, Final

import jwt
from jwt.exceptions import InvalidTokenError, PyJWKClientConnectionError, PyJWKClientError

from dicomflow.archive.access import Principal, Right
from dicomflow.errors import PeerError, TransientError

__all__ = ["TokenError", "Tokens"]

# No symmetric one: whoever knows the public key would sign with it.
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_SKEW_SECONDS: Final = 60
_KEYS_SECONDS: Final = 600
_COOLDOWN_SECONDS: Final = 30
"""So that tokens with invented key IDs do not have the provider asked for each."""
_TIMEOUT_SECONDS: Final = 10
_AWAY: Final = "the keys of the tokens' provider cannot be had"
_AWAY_SECONDS: Final = 5.0
"""How long a provider that did not answer is not asked again."""
_ASKING_AT_ONCE: Final = 8
_TURN_SECONDS: Final = 1.0
"""So that a provider that hangs holds up a few threads, and not those of all other answers."""


class TokenError(PeerError):
    """A token that is not to be believed; the reason is not told."""


class Tokens:
    """Believes the tokens of one provider for one audience. Threads: any.

    Args:
        issuer: the provider, as tokens name it (`iss`).
        audience: whom tokens must be for (`aud`).
        jwks_url: where its keys are.
        rights_claim: the claim, of words or one text of them, that names the rights; `dicomflow.query` and
            `dicomflow:query` are `query`.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        jwks_url: str,
        rights_claim: str = "scope",
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._claim = rights_claim
        self._asking = threading.BoundedSemaphore(_ASKING_AT_ONCE)
        self._away_until = float("-inf")
        self._keys = jwt.PyJWKClient(
            jwks_url, lifespan=_KEYS_SECONDS, timeout=_TIMEOUT_SECONDS, cooldown_duration=_COOLDOWN_SECONDS
        )

    def principal_of(self, token: str) -> Principal:
        """Return whose token it is, with the rights that it names.

        Raises:
            TokenError: it is not of this provider, not for us, not valid now, or says not whose it is.
            TransientError: the provider's keys cannot be had.
        """
        try:
            key = self._key_of(token)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=list(_ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=_SKEW_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (InvalidTokenError, PyJWKClientError, ValueError, TypeError) as error:
            raise TokenError(type(error).__name__) from error
        return Principal(f"token:{claims['sub']}", _rights(claims.get(self._claim)))

    def _key_of(self, token: str) -> jwt.PyJWK:
        """Return the key that a token names; it is looked up at the provider's where it is not known."""
        if time.monotonic() < self._away_until or not self._asking.acquire(timeout=_TURN_SECONDS):
            raise TransientError(_AWAY)
        try:
            return self._keys.get_signing_key_from_jwt(token)
        except PyJWKClientConnectionError as error:
            self._away_until = time.monotonic() + _AWAY_SECONDS
            raise TransientError(_AWAY) from error
        finally:
            self._asking.release()


def _rights(told: Any) -> frozenset[Right]:
    words = told.split() if isinstance(told, str) else told if isinstance(told, list) else []
    names = {str(word).removeprefix("dicomflow").lstrip(".:/") for word in words}
    return frozenset(right for right in Right if right.value in names)
