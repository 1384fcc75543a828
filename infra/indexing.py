"""Indexing: the queue of instances' events, and the function that writes what their headers say into the catalog."""

from typing import Final

from aws_cdk import Duration
from constructs import Construct

from infra.functions import WorkQueue
from infra.wiring import Foundation

__all__ = ["Indexing"]

_TIMEOUT: Final = Duration.seconds(60)
_BATCH: Final = 100
_WINDOW: Final = Duration.seconds(2)
_CONCURRENCY: Final = 20
"""Each holds a connection; 20 times 100 objects a second or two is more than any line brings."""


class Indexing(Construct):
    """Every event leads to an upsert, in any order and however often it comes; one bad object fails alone."""

    def __init__(self, scope: Construct, construct_id: str, *, foundation: Foundation) -> None:
        super().__init__(scope, construct_id)
        landing = foundation.landing
        self.queue = WorkQueue(self, "index", settings=foundation.settings, timeout=_TIMEOUT)
        self.function = foundation.pipeline_function(self, "index", timeout=_TIMEOUT, memory_mib=1024)
        foundation.catalog.grant_use(self.function)
        landing.grant_read(self.function, *landing.images)
        self.function.work_on(self.queue, batch_size=_BATCH, max_concurrency=_CONCURRENCY, window=_WINDOW)
