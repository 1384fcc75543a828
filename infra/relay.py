"""The function outside the VPC that calls services for those inside: HealthImaging, EventBridge, and SQS if need be."""

from typing import Final

from aws_cdk import Arn, ArnComponents, Duration, Stack
from constructs import Construct

from infra.functions import PipelineFunction, WorkQueue
from infra.wiring import Foundation

__all__ = ["Relay"]

_TIMEOUT: Final = Duration.seconds(60)
_BUS: Final = "default"
_SOURCE: Final = "dicomflow"


class Relay(Construct):
    """Makes a few calls for others; its role has the rights that they need, and they the right to ask it."""

    def __init__(self, scope: Construct, construct_id: str, *, foundation: Foundation) -> None:
        super().__init__(scope, construct_id)
        settings = foundation.settings
        self._is_private = settings.network.private_endpoints
        endpoint = settings.imports.ahli_endpoint
        self.function = PipelineFunction(
            self,
            "relay",
            settings=settings,
            key=foundation.key,
            environment={"AWS_ENDPOINT_URL_MEDICAL_IMAGING": endpoint} if endpoint else {},
            timeout=_TIMEOUT,
            memory_mib=256,
        )

    def grant_use(self, function: PipelineFunction, *services: str) -> None:
        """Let a function call some services through this one."""
        told = sorted({*services, *(("sqs",) if self._is_private else ())})
        if not told:
            return
        function.grant("Relay", ["lambda:InvokeFunction"], [self.function.function.function_arn])
        function.function.add_environment("DICOMFLOW_RELAY__FUNCTION", self.function.function.function_name)
        services_told = ", ".join(f'"{name}"' for name in told)
        function.function.add_environment("DICOMFLOW_RELAY__SERVICES", f"[{services_told}]")

    def pass_events(self, *functions: PipelineFunction) -> None:
        """Let what functions tell reach the account's own bus, under our name alone; they ask by `grant_use`."""
        bus = Arn.format(ArnComponents(service="events", resource="event-bus", resource_name=_BUS), Stack.of(self))
        self.function.grant("Tell", ["events:PutEvents"], [bus], StringEquals={"events:source": _SOURCE})
        for function in functions:
            function.function.add_environment("DICOMFLOW_EVENTS__BUS", _BUS)

    def serve(self, queues: list[WorkQueue], sent_to: list[WorkQueue]) -> None:
        """Let what calls through this one put off messages and send to some queues, where it cannot do so itself."""
        if not self._is_private:
            return
        self.function.grant("PutOff", ["sqs:ChangeMessageVisibility"], [each.queue.queue_arn for each in queues])
        self.function.grant("Wake", ["sqs:SendMessage"], [each.queue.queue_arn for each in sent_to])
