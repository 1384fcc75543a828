"""What an operator is told: alarms by e-mail, one dashboard, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aws_cdk import CfnOutput, Duration
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.functions import PipelineFunction, WorkQueue
from infra.landing import STATUS
from infra.wiring import Foundation

__all__ = ["Monitoring", "Watched"]

_NAMESPACE: Final = "dicomflow"
_FIVE_MINUTES: Final = Duration.minutes(5)
_SILENT_SECONDS: Final = 900
_OLDEST_SECONDS: Final = 3600
_BACKLOG: Final = 3600
"""An hour's work at one start a second, each series in a job of its own."""
_ACU_PERCENT: Final = 90
_BUDGET_PERCENT: Final = 80
_WATCH_TIMEOUT: Final = Duration.minutes(1)
_SUM: Final = "Sum"
_MAXIMUM: Final = "Maximum"


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched: queues and functions by name, the cluster, and the names of the edges."""

    queues: Mapping[str, WorkQueue]
    functions: Mapping[str, PipelineFunction]
    cluster: rds.DatabaseCluster
    edges: Sequence[str]


class Monitoring(Construct):
    """Alarms, dashboard, budget, and the function that looks for edges that have gone silent."""

    def __init__(self, scope: Construct, construct_id: str, *, foundation: Foundation, watched: Watched) -> None:
        super().__init__(scope, construct_id)
        self._settings = foundation.settings
        self._watched = watched
        self.topic = self._topic(foundation.key)
        self.watch = self._watch(foundation)
        self._alarms()
        self._dashboard()
        self._budget()

    def _topic(self, key: kms.IKey) -> sns.Topic:
        topic = sns.Topic(
            self, "Alarms", display_name=f"{self._settings.name} alarms", master_key=key, enforce_ssl=True
        )
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Services",
                principals=[
                    iam.ServicePrincipal("budgets.amazonaws.com"),
                    iam.ServicePrincipal("cloudwatch.amazonaws.com"),
                ],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": topic.env.account}},
            )
        )
        if self._settings.monitoring.email:
            topic.add_subscription(subscriptions.EmailSubscription(self._settings.monitoring.email))
        return topic

    def _watch(self, foundation: Foundation) -> PipelineFunction:
        """Read the edges' heartbeats every five minutes; it needs no catalog, and so wakes none."""
        network, landing = foundation.network, foundation.landing
        function = PipelineFunction(
            self,
            "watch",
            settings=self._settings,
            key=foundation.key,
            vpc=network.vpc,
            subnets=network.functions,
            security_group=network.function_group,
            environment={"DICOMFLOW_STORE_URL": landing.url},
            timeout=_WATCH_TIMEOUT,
            memory_mib=256,
        )
        landing.grant_read(function, f"{STATUS}*")
        events.Rule(
            self,
            "EveryFiveMinutes",
            description="Looks for edges that have gone silent",
            schedule=events.Schedule.rate(_FIVE_MINUTES),
            targets=[targets.LambdaFunction(function.function)],
        )
        return function

    def _metric(self, name: str, statistic: str = _SUM, **dimensions: str) -> cloudwatch.Metric:
        """Return a metric of the pipeline's; docs/operations.md says what each means."""
        return cloudwatch.Metric(
            namespace=_NAMESPACE,
            metric_name=name,
            dimensions_map={"service": self._settings.name, **dimensions},
            statistic=statistic,
            period=_FIVE_MINUTES,
        )

    def _silence(self, edge: str) -> cloudwatch.Metric:
        return self._metric("EdgeSilentSeconds", _MAXIMUM, edge=edge)

    def _backlog(self) -> cloudwatch.Metric:
        return self._metric("ImportBacklog", _MAXIMUM)

    def _acus(self) -> cloudwatch.Metric:
        return self._watched.cluster.metric("ACUUtilization", statistic=_MAXIMUM, period=_FIVE_MINUTES)

    def _alarms(self) -> None:
        for name, queue in self._watched.queues.items():
            dead = queue.dead_letters.metric_approximate_number_of_messages_visible(
                period=_FIVE_MINUTES, statistic=_MAXIMUM
            )
            self._alarm(f"{name}-dead-letters", dead, 0, "Messages that failed five times: a bug. Redrive when mended")
            oldest = queue.queue.metric_approximate_age_of_oldest_message(period=_FIVE_MINUTES, statistic=_MAXIMUM)
            if name != "drive":  # its wake-ups may wait for as long as they were sent for
                self._alarm(f"{name}-oldest-message", oldest, _OLDEST_SECONDS, "The queue is not worked off")
        for name, function in {**self._watched.functions, "watch": self.watch}.items():
            errors = function.function.metric_errors(period=_FIVE_MINUTES)
            self._alarm(f"{name}-errors", errors, 0, "Calls of the function failed", periods=3)
            throttles = function.function.metric_throttles(period=_FIVE_MINUTES)
            self._alarm(f"{name}-throttles", throttles, 0, "The account's concurrency is used up", periods=3)
        if self._settings.imports.ahli_enabled:
            self._alarm("imports-failed", self._metric("ImportsFailed"), 0, "Series wait for an operator")
            self._alarm("import-backlog", self._backlog(), _BACKLOG, "More series wait than an hour can start")
        self._alarm("objects-unreadable", self._metric("ObjectsUnreadable"), 0, "Objects that are no readable DICOM")
        self._alarm("catalog-capacity", self._acus(), _ACU_PERCENT, "The catalog needs a higher max_acu_capacity", 3)
        for edge in self._watched.edges:
            self._alarm(f"{edge}-silent", self._silence(edge), _SILENT_SECONDS, "No heartbeat of the edge arrives")

    def _alarm(
        self, name: str, metric: cloudwatch.IMetric, threshold: float, description: str, periods: int = 1
    ) -> None:
        """Raise an alarm above a threshold; docs/operations.md says what to do about each."""
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_name=f"{self._settings.name}-{name}",
            alarm_description=f"{description}. See docs/operations.md, Alarms.",
            metric=metric,
            threshold=threshold,
            evaluation_periods=periods,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))

    def _dashboard(self) -> None:
        queues = self._watched.queues
        graph, single = cloudwatch.GraphWidget, cloudwatch.SingleValueWidget
        received = queues["index"].queue.metric_number_of_messages_sent(period=_FIVE_MINUTES, label="received")
        indexed = self._metric("InstancesIndexed").with_(label="indexed")
        started, completed, failed = (
            self._metric(name).with_(label=name.removeprefix("Imports").lower())
            for name in ("ImportsStarted", "ImportsCompleted", "ImportsFailed")
        )
        silences = [self._silence(edge).with_(label=edge) for edge in self._watched.edges]
        dead = [
            queue.dead_letters.metric_approximate_number_of_messages_visible(label=name, statistic=_MAXIMUM)
            for name, queue in queues.items()
        ]
        waiting = [
            queue.queue.metric_approximate_number_of_messages_visible(label=name, statistic=_MAXIMUM)
            for name, queue in queues.items()
        ]
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=self._settings.name,
            widgets=[
                [
                    graph(title="Instances received and indexed", left=[received, indexed], width=12),
                    graph(title="Series imported", left=[started, completed, failed], width=12),
                ],
                [
                    single(title="Series waiting for import", metrics=[self._backlog()], width=6),
                    single(title="Objects unreadable", metrics=[self._metric("ObjectsUnreadable")], width=6),
                    graph(title="Edges: seconds since the last heartbeat", left=silences, width=12),
                ],
                [
                    graph(title="Messages waiting", left=waiting, width=8),
                    graph(title="Dead letters", left=dead, width=8),
                    graph(title="Catalog: share of its capacity, percent", left=[self._acus()], width=8),
                ],
            ],
        )

    def _budget(self) -> None:
        limit, email = self._settings.monitoring.monthly_budget_usd, self._settings.monitoring.email
        if not limit:
            CfnOutput(self, "Budget", value="none: set monthly_budget_usd in MONITORING_CONFIG to be told of costs")
            return
        budgets.CfnBudget(
            self,
            "MonthlyBudget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=f"{self._settings.name}-monthly",
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=limit, unit="USD"),
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        comparison_operator="GREATER_THAN",
                        notification_type=kind,
                        threshold=_BUDGET_PERCENT,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[budgets.CfnBudget.SubscriberProperty(subscription_type="EMAIL", address=email)],
                )
                for kind in ("ACTUAL", "FORECASTED")
            ],
        )
