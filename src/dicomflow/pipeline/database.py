"""Connections to a catalog on Aurora: a token of AWS IAM in the place of a password, and patience while it resumes."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Dialect, Engine, event

from dicomflow.catalog.engine import create_engine_for
from dicomflow.errors import PermanentError

__all__ = ["connect_with_patience", "create_iam_engine", "prove_by_iam"]

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""Aurora takes 15 to 30 s to resume, and AWS asks for three attempts; each waits for as long as the URL lets it."""
PAUSE_SECONDS: Final = 2.0
_PORT: Final = 5432
_SIGNING_NAME: Final = "rds-db"
_TOKEN_SECONDS: Final = 900

# From host, port and user.
Token = Callable[[str, int, str], str]


def create_iam_engine(url: str, token: Token | None = None) -> Engine:
    """Return an engine each of whose connections gets a fresh token, which is good for 15 minutes.

    Args:
        url: the catalog, without a password.
        token: makes a token; AWS's own by default, which calls nobody: it is a signature.
    """
    engine = create_engine_for(url)
    connect_with_patience(engine, token or _aws_token())
    return engine


def prove_by_iam(engine: Engine) -> None:
    """Let an engine's connections bring AWS's own tokens."""
    connect_with_patience(engine, _aws_token())


def connect_with_patience(
    engine: Engine,
    token: Token | None = None,
    *,
    attempts: int = ATTEMPTS,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Let the engine try each connection several times, each time with a new token if there is one.

    Args:
        engine: of PostgreSQL.
        token: makes the password; None leaves the URL's.
        attempts: how often a connection is tried.
        pause: waits for so many seconds between two attempts.
    """

    def connect(dialect: Dialect, _record: object, arguments: Sequence[Any], parameters: dict[str, Any]) -> Any:
        assert dialect.dbapi is not None  # an engine that connects has its driver
        for attempt in range(1, attempts + 1):
            if token is not None:
                host, port = str(parameters["host"]), int(parameters.get("port", _PORT))
                parameters["password"] = token(host, port, str(parameters["user"]))
            try:
                return dialect.connect(*arguments, **parameters)
            except dialect.dbapi.OperationalError as error:
                if attempt == attempts:
                    raise
                logger.warning("catalog_not_connected", extra={"attempt": attempt, "error": type(error).__name__})
                pause(PAUSE_SECONDS * attempt)
        raise AssertionError("the last attempt returns or raises")

    event.listen(engine, "do_connect", connect)


def _aws_token() -> Token:
    """Return what signs tokens: as boto3's `generate_db_auth_token`, a third of its time at a cold start."""
    from botocore.model import ServiceId  # noqa: PLC0415  # a catalog with a password needs no AWS
    from botocore.session import Session  # noqa: PLC0415
    from botocore.signers import RequestSigner  # noqa: PLC0415

    session = Session()
    region = session.get_config_variable("region")
    events = session.get_component("event_emitter")

    def token(host: str, port: int, user: str) -> str:
        # Credentials are renewed; the signer keeps those it was made with.
        credentials = session.get_credentials()
        if credentials is None:
            raise PermanentError("no AWS credentials are found, and the catalog asks for a token of AWS IAM")
        signer = RequestSigner(ServiceId("RDS"), region, _SIGNING_NAME, "v4", credentials, events)
        request = {
            "method": "GET",
            "url": f"https://{host}:{port}/",
            "body": {"Action": "connect", "DBUser": user},
            "headers": {},
            "context": {},
        }
        url: str = signer.generate_presigned_url(
            request, "connect", expires_in=_TOKEN_SECONDS, region_name=region, signing_name=_SIGNING_NAME
        )
        return url.removeprefix("https://")

    return token
