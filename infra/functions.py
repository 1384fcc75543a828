"""What all functions of the pipeline have in common: their bundle, their log, and a role of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.bundles import build_bundle, handler_of
from infra.settings import DeploymentSettings

if TYPE_CHECKING:
    from infra.network import Network

__all__ = ["BUNDLES", "PipelineFunction", "WorkQueue", "function_code", "log_retention", "skips_bundles"]

BUNDLES: Final = Path(__file__).resolve().parent.parent / "build" / "bundles"
_RETENTION: Final = {
    days: logs.RetentionDays[name]
    for days, name in {
        1: "ONE_DAY",
        3: "THREE_DAYS",
        5: "FIVE_DAYS",
        7: "ONE_WEEK",
        14: "TWO_WEEKS",
        30: "ONE_MONTH",
        60: "TWO_MONTHS",
        90: "THREE_MONTHS",
        120: "FOUR_MONTHS",
        150: "FIVE_MONTHS",
        180: "SIX_MONTHS",
        365: "ONE_YEAR",
        400: "THIRTEEN_MONTHS",
        545: "EIGHTEEN_MONTHS",
        731: "TWO_YEARS",
        1096: "THREE_YEARS",
        1827: "FIVE_YEARS",
        2192: "SIX_YEARS",
        2557: "SEVEN_YEARS",
        2922: "EIGHT_YEARS",
        3653: "TEN_YEARS",
    }.items()
}
_INTERFACE_ACTIONS: Final = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)
_MAX_RECEIVES: Final = 100
"""A bad file is recorded and done at once; what comes back so often outlives an outage of six hours."""
_VISIBILITY: Final = 6
"""A message is hidden for so many times the function's timeout, as Lambda's guide asks: throttled batches come back."""


def log_retention(settings: DeploymentSettings) -> logs.RetentionDays:
    """Return how long logs are kept."""
    return _RETENTION[settings.monitoring.log_days]


def skips_bundles(scope: Construct) -> bool:
    """Tell whether this synthesis is for a look at the template only."""
    return bool(scope.node.try_get_context("bundles") == "skip")


def function_code(scope: Construct, name: str) -> tuple[lambda_.Code, str]:
    """Return a function's bundle and what changes when it does; nothing of worth with `--context bundles=skip`."""
    if skips_bundles(scope):
        return lambda_.Code.from_inline("raise SystemExit('synthesised without bundles')"), "skipped"
    bundle = build_bundle(name, BUNDLES)
    return lambda_.Code.from_asset(str(bundle)), bundle.name


class PipelineFunction(Construct):
    """A function, in the VPC if one is given; its role may do nothing but run, log, and what is granted beside."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        settings: DeploymentSettings,
        key: kms.IKey,
        environment: dict[str, str],
        timeout: Duration,
        memory_mib: int,
        network: "Network | None" = None,
        program: str = "",
        layers: list[lambda_.ILayerVersion] | None = None,
    ) -> None:
        super().__init__(scope, name.capitalize())
        code, self.version = function_code(self, program or name)
        self.timeout = timeout
        log = logs.LogGroup(
            self,
            "Log",
            log_group_name=f"/aws/lambda/{settings.name}-{name}",
            retention=log_retention(settings),
            encryption_key=key,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        self.grant("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], [log.log_group_arn])
        if network is not None:
            self.grant("Interfaces", list(_INTERFACE_ACTIONS), ["*"])
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=f"{settings.name}-{name}",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            code=code,
            handler=handler_of(program or name),
            role=self.role.without_policy_updates(),
            log_group=log,
            vpc=network.vpc if network else None,
            vpc_subnets=network.functions if network else None,
            security_groups=[network.function_group] if network else None,
            ipv6_allowed_for_dual_stack=(network is not None and network.is_own) or None,
            environment={
                "POWERTOOLS_SERVICE_NAME": settings.name,
                **(network.environment if network else {}),
                **({"AWS_USE_FIPS_ENDPOINT": "true"} if settings.account.fips_endpoints else {}),
                **environment,
            },
            timeout=timeout,
            memory_size=memory_mib,
            layers=layers or [],
        )
        # Lambda makes the interface when it makes the function, and must be allowed to by then.
        self.function.node.add_dependency(self.role)

    def grant(self, sid: str, actions: list[str], resources: list[str], **conditions: dict[str, str]) -> None:
        """Allow the function some actions on some resources."""
        self.role.add_to_policy(
            iam.PolicyStatement(sid=sid, actions=actions, resources=resources, conditions=conditions or None)
        )

    def work_on(self, queue: "WorkQueue", *, batch_size: int, max_concurrency: int, window: Duration | None) -> None:
        """Call the function with batches of a queue's messages; those that fail come back alone, sooner at first."""
        self.function.add_environment(f"DICOMFLOW_QUEUES__{queue.name.upper()}", queue.queue.queue_url)
        self.grant(
            "Receive",
            ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"],
            [queue.queue.queue_arn],
        )
        self.function.add_event_source(
            sources.SqsEventSource(
                queue.queue,
                batch_size=batch_size,
                max_batching_window=window,
                max_concurrency=max_concurrency,
                report_batch_item_failures=True,
            )
        )


class WorkQueue(Construct):
    """A queue and its dead letters, to which a message goes that failed a hundred times: that means a bug."""

    def __init__(self, scope: Construct, name: str, *, settings: DeploymentSettings, timeout: Duration) -> None:
        super().__init__(scope, f"{name.capitalize()}Queue")
        self.name = name
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            queue_name=f"{settings.name}-{name}-dead",
            retention_period=Duration.days(14),
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            queue_name=f"{settings.name}-{name}",
            retention_period=Duration.days(14),
            visibility_timeout=Duration.seconds(_VISIBILITY * int(timeout.to_seconds())),
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=_MAX_RECEIVES),
        )
