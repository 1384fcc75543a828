"""The console as a Lambda function: a request as an event, a part of its answer as the result.

Nothing listens: whoever may call the function sees the pages, through `dicomflow.console.forward` on a machine of
theirs. A function's answer has 6 MB at most, so that a longer one is asked for in parts.
"""

import base64
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from ipaddress import ip_network
from typing import Any, cast

from mangum import Mangum

from dicomflow import logs
from dicomflow.console.access import Access
from dicomflow.console.app import build_context, create_console
from dicomflow.console.forwarded import CALLER, HOSTS, PART_CHARACTERS, USER_HEADER
from dicomflow.console.history import EVERY_SECONDS
from dicomflow.console.page import Context
from dicomflow.pipeline.connect import build_dependencies
from dicomflow.pipeline.settings import load_settings
from dicomflow.pipeline.wakeups import DRIVE_QUEUE
from dicomflow.visitors import Proxy

__all__ = ["console"]

_logger = logging.getLogger(__name__)


def console(event: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
    """Answer one request; the handler of the console's function.

    Args:
        event: a request as API Gateway's HTTP APIs put it (payload format 2.0), and beside it `secret`, which signs the
            cookies of the console that asks, and `start`, the first character of the body that is wanted.
        context: Lambda's.

    Returns:
        An answer in the same format, its body in base64 and cut to a part; `characters` is the length of the whole and
        `digest` its SHA-256, so that parts of two answers are not put together.
    """
    kept = _context()
    if event["rawPath"].startswith("/overview"):
        _sample(kept)
    answer: dict[str, Any] = _application(event["secret"])(cast("Any", event), context)
    body = answer.get("body", "")
    if not answer["isBase64Encoded"]:
        body = base64.b64encode(body.encode()).decode()
    start = event["start"]
    return answer | {
        "body": body[start : start + PART_CHARACTERS],
        "isBase64Encoded": True,
        "characters": len(body),
        "digest": hashlib.sha256(body.encode()).hexdigest(),
    }


@lru_cache(maxsize=16)
def _application(secret: str) -> Callable[..., Any]:
    """Return the pages for one console; another's cookies are signed otherwise."""
    access = Access(proxy=Proxy((ip_network(CALLER),), USER_HEADER), hosts=HOSTS)
    return Mangum(create_console(_context(), access, secret), lifespan="off")


@cache
def _context() -> Context:
    """Build what the pages are made from, once for the life of the process."""
    logs.configure(os.environ.get("DICOMFLOW_LOG_LEVEL", "INFO"), as_json=True)
    logging.getLogger("mangum").setLevel(logging.WARNING)  # a line a request, with what was looked at
    settings = load_settings()
    dependencies = build_dependencies(settings)

    def enqueue(queue: str, body: str) -> None:
        if queue != DRIVE_QUEUE or settings.queues.drive is not None:  # without imports nothing drives them
            dependencies.enqueue(queue, body)

    return build_context(dependencies.engine, dependencies.store, enqueue, {})


def _sample(context: Context) -> None:
    """Take a sample for the overview's charts, as the console's own loop does where it runs all the time."""
    try:
        samples = context.history.document()
        if not samples or (context.clock() - samples[-1]["at"]).total_seconds() >= EVERY_SECONDS:
            context.history.sample()
    except Exception as error:  # noqa: BLE001  # news only: the page is made all the same
        _logger.warning("console_sample_failed error=%s", type(error).__name__)
