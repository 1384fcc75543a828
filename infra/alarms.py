"""How alarms are raised: one topic, one rule for missing values, and the pipeline's metrics by name."""

from typing import Final

from aws_cdk import Aws, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.settings import DeploymentSettings

__all__ = ["FIVE_MINUTES", "MAXIMUM", "NAMESPACE", "SILENCE", "SUM", "Alarms"]

NAMESPACE: Final = "dicomflow"
SILENCE: Final = "EdgeSilentSeconds"
FIVE_MINUTES: Final = Duration.minutes(5)
SUM: Final = "Sum"
MAXIMUM: Final = "Maximum"
_SILENT_SECONDS: Final = 900


class Alarms(Construct):
    """The topic of all alarms; `add` raises one in whichever stack its construct is."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: DeploymentSettings, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self._settings = settings
        self.topic = sns.Topic(self, "Topic", display_name=f"{settings.name} alarms", master_key=key, enforce_ssl=True)
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Services",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        if settings.monitoring.email:
            self.topic.add_subscription(subscriptions.EmailSubscription(settings.monitoring.email))

    def metric(self, name: str, statistic: str = SUM, **dimensions: str) -> cloudwatch.Metric:
        """Return a metric of the pipeline's; docs/operations.md says what each means."""
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=name,
            dimensions_map={"service": self._settings.name, **dimensions},
            statistic=statistic,
            period=FIVE_MINUTES,
        )

    def add(
        self,
        scope: Construct,
        name: str,
        metric: cloudwatch.IMetric,
        threshold: float,
        description: str,
        periods: int = 1,
        missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> None:
        """Raise an alarm above a threshold; docs/operations.md says what to do about each."""
        alarm = cloudwatch.Alarm(
            scope,
            name,
            alarm_name=f"{self._settings.name}-{name}",
            alarm_description=f"{description}. See docs/operations.md, Alarms.",
            metric=metric,
            threshold=threshold,
            evaluation_periods=periods,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=missing,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))

    def add_silence(self, scope: Construct, edge: str) -> None:
        """Raise the alarm of an edge of EDGE_CONFIG whose heartbeats do not arrive, or never did."""
        metric = self.metric(SILENCE, MAXIMUM, edge=self._settings.device_name(edge))
        # An edge that never reported has no value at all. Of two periods one may have missed its run of the watch.
        self.add(
            scope,
            f"{edge}-silent",
            metric,
            _SILENT_SECONDS,
            "No heartbeat of the edge arrives",
            periods=2,
            missing=cloudwatch.TreatMissingData.BREACHING,
        )
