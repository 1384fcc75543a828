"""The operator: functions in the VPC that run commands and make the console's pages for whoever IAM lets call them."""

from typing import Final

from aws_cdk import Duration
from constructs import Construct

from dicomflow.bucket.keys import IMPORT_OUTPUT_PREFIX, MANIFEST_PREFIX, REPAIR_PREFIX, STATUS_PREFIX
from infra.functions import WorkQueue
from infra.importing import grant_wake_ups
from infra.relay import Relay
from infra.transfers import Transfers
from infra.wiring import Foundation

__all__ = ["Operator"]

_TIMEOUT: Final = Duration.minutes(15)
_PAGE_TIMEOUT: Final = Duration.minutes(2)
"""A catalog that sleeps takes half a minute to answer, and a picture as long to draw."""


class Operator(Construct):
    """Nothing listens and nothing idles; `dicomflow --stack NAME` and `dicomflow console --stack NAME` call them."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        foundation: Foundation,
        relay: Relay,
        wake_ups: WorkQueue | None,
        transfers: Transfers,
    ) -> None:
        super().__init__(scope, construct_id)
        landing = foundation.landing
        self.function = foundation.pipeline_function(self, "operator", timeout=_TIMEOUT, memory_mib=1024)
        foundation.catalog.grant_use(self.function)
        landing.grant_read(
            self.function, *landing.images, f"{MANIFEST_PREFIX}*", f"{IMPORT_OUTPUT_PREFIX}*", f"{STATUS_PREFIX}*"
        )
        landing.grant_write(self.function, f"{REPAIR_PREFIX}*")
        self.function.grant("Delete", ["s3:DeleteObject"], landing.arn_of(*landing.images))
        # A picture is drawn by a process that may take a gibibyte.
        self.console = foundation.pipeline_function(self, "console", timeout=_PAGE_TIMEOUT, memory_mib=2048)
        foundation.catalog.grant_use(self.console)
        landing.grant_read(self.console, *landing.images, f"{STATUS_PREFIX}*")
        relay.grant_use(self.function, *(["medical-imaging"] if foundation.settings.imports.ahli_enabled else []))
        relay.grant_use(self.console)
        for function in (self.function, self.console):
            transfers.grant_send(function)
            if wake_ups is not None:
                grant_wake_ups(function, wake_ups)
