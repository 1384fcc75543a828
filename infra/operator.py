"""The operator: a function in the VPC that runs commands on the catalog for whoever IAM lets call it."""

from typing import Final

from aws_cdk import Duration
from constructs import Construct

from infra.functions import WorkQueue
from infra.importing import grant_wake_ups
from infra.landing import IMPORTS, MANIFESTS, STATUS
from infra.relay import Relay
from infra.wiring import Foundation

__all__ = ["Operator"]

_TIMEOUT: Final = Duration.minutes(15)


class Operator(Construct):
    """Nothing listens and nothing idles; `dicomflow --stack NAME` calls it."""

    def __init__(
        self, scope: Construct, construct_id: str, *, foundation: Foundation, relay: Relay, wake_ups: WorkQueue | None
    ) -> None:
        super().__init__(scope, construct_id)
        landing = foundation.landing
        self.function = foundation.pipeline_function(self, "operator", timeout=_TIMEOUT, memory_mib=1024)
        foundation.catalog.grant_use(self.function)
        received = f"{landing.received_prefix}*"
        landing.grant_read(self.function, received, f"{MANIFESTS}*", f"{IMPORTS}*", f"{STATUS}*")
        self.function.grant("Delete", ["s3:DeleteObject"], landing.arn_of(received))
        relay.grant_use(self.function)
        if wake_ups is not None:
            grant_wake_ups(self.function, wake_ups)
