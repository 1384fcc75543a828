"""What goes back to sites: its queue, and the function that prepares it for an edge and takes in what became of it."""

from typing import Final

from aws_cdk import Duration
from constructs import Construct

from dicomflow.bucket.keys import OUTBOUND_PREFIX, RETURNS_PREFIX, STATUS_PREFIX
from infra.functions import PipelineFunction, WorkQueue
from infra.relay import Relay
from infra.wiring import Foundation

__all__ = ["Transfers"]

_TIMEOUT: Final = Duration.minutes(5)
_CONCURRENCY: Final = 5


class Transfers(Construct):
    """Copies are made within the bucket, under the one prefix that the edge may read; an edge's returns are events."""

    def __init__(self, scope: Construct, construct_id: str, *, foundation: Foundation, relay: Relay) -> None:
        super().__init__(scope, construct_id)
        landing = foundation.landing
        self.queue = WorkQueue(self, "transfers", settings=foundation.settings, timeout=_TIMEOUT)
        self.function = foundation.pipeline_function(self, "transfers", timeout=_TIMEOUT, memory_mib=512)
        foundation.catalog.grant_use(self.function)
        outbound = f"{OUTBOUND_PREFIX}*"
        landing.grant_read(self.function, *landing.images, f"{RETURNS_PREFIX}*", f"{STATUS_PREFIX}*")
        landing.grant_write(self.function, outbound)
        self.function.grant("Clear", ["s3:DeleteObject"], landing.arn_of(outbound))
        relay.grant_use(self.function)
        self.grant_send(self.function)  # the rest of many copies is a message of its own
        self.function.work_on(self.queue, batch_size=10, max_concurrency=_CONCURRENCY, window=None)

    def grant_send(self, function: PipelineFunction) -> None:
        """Let a function ask for transfers, and tell it where."""
        function.grant("SendBack", ["sqs:SendMessage"], [self.queue.queue.queue_arn])
        if function is not self.function:
            function.function.add_environment("DICOMFLOW_QUEUES__TRANSFERS", self.queue.queue.queue_url)
