"""What an operator is told: alarms by e-mail, one dashboard, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aws_cdk import CfnOutput, Duration
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_rds as rds
from constructs import Construct

from dicomflow.bucket.keys import STATUS_PREFIX
from infra.alarms import FIVE_MINUTES, MAXIMUM, NAMESPACE, SILENCE, Alarms
from infra.functions import PipelineFunction, WorkQueue
from infra.wiring import Foundation

__all__ = ["Monitoring", "Watched"]

_WAIT_SECONDS: Final = 14_400  # a PACS that is serviced is back by then
_OLDEST_SECONDS: Final = 3600
_BACKLOG: Final = 3600
"""An hour's work at one start a second, each series in a job of its own."""
_ACU_PERCENT: Final = 90
_BUDGET_PERCENT: Final = 80
_ERRORS_PERIOD: Final = Duration.minutes(15)
_ERRORS_MOST: Final = 2
_WATCH_TIMEOUT: Final = Duration.minutes(3)


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched: queues and functions by name, and the cluster."""

    queues: Mapping[str, WorkQueue]
    functions: Mapping[str, PipelineFunction]
    cluster: rds.DatabaseCluster


class Monitoring(Construct):
    """Alarms, dashboard, budget, and the function that looks for edges that have gone silent."""

    def __init__(
        self, scope: Construct, construct_id: str, *, foundation: Foundation, alarms: Alarms, watched: Watched
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings = foundation.settings
        self._alarms = alarms
        self._watched = watched
        self.watch = self._watch(foundation)
        self._add_alarms()
        self._dashboard()
        self._budget()

    def _watch(self, foundation: Foundation) -> PipelineFunction:
        """Read the edges' heartbeats every five minutes; it needs no catalog, and so wakes none."""
        landing = foundation.landing
        function = PipelineFunction(
            self,
            "watch",
            settings=self._settings,
            key=foundation.key,
            network=foundation.network,
            environment={"DICOMFLOW_STORE_URL": landing.url},
            timeout=_WATCH_TIMEOUT,
            memory_mib=256,
        )
        landing.grant_read(function, f"{STATUS_PREFIX}*")
        events.Rule(
            self,
            "EveryFiveMinutes",
            description="Looks for edges that have gone silent",
            schedule=events.Schedule.rate(FIVE_MINUTES),
            targets=[targets.LambdaFunction(function.function)],
        )
        return function

    def _backlog(self) -> cloudwatch.Metric:
        return self._alarms.metric("ImportBacklog", MAXIMUM)

    def _acus(self) -> cloudwatch.Metric:
        return self._watched.cluster.metric("ACUUtilization", statistic=MAXIMUM, period=FIVE_MINUTES)

    def _add_alarms(self) -> None:
        self._watch_queues_and_functions()
        not_sent = self._alarms.metric("EventsNotSent")
        self._alarms.add(self, "events-not-sent", not_sent, 0, "The event bus does not take what is told", periods=3)
        self._add_alarms_of_images()

    def _add_alarms_of_images(self) -> None:
        if self._settings.imports.ahli_enabled:
            self._alarms.add(
                self, "imports-failed", self._alarms.metric("ImportsFailed"), 0, "Series wait for an operator"
            )
            hidden = self._alarms.metric("ImportsHidden")
            self._alarms.add(self, "imports-hidden", hidden, 0, "Series are imported that no viewer shows")
            self._alarms.add(
                self, "import-backlog", self._backlog(), _BACKLOG, "More series wait than an hour can start"
            )
        self._alarms.add(
            self,
            "transfers-failed",
            self._alarms.metric("TransfersFailed"),
            0,
            "Images that were sent back to a site did not all arrive",
        )
        waits = self._alarms.metric("DestinationWaitSeconds", MAXIMUM)
        self._alarms.add(
            self,
            "destination-waits",
            waits,
            _WAIT_SECONDS,
            "A destination of an edge's routes does not take its images",
        )
        missing, not_compared = (self._alarms.metric(name, MAXIMUM) for name in ("ImagesMissing", "SourcesNotCompared"))
        self._alarms.add(self, "images-missing", missing, 0, "A PACS has images that did not arrive at its edge")
        self._alarms.add(
            self,
            "sources-not-compared",
            not_compared,
            0,
            "A nightly comparison with a PACS is late, or did not see all",
        )
        self._alarms.add(
            self,
            "objects-unreadable",
            self._alarms.metric("ObjectsUnreadable"),
            0,
            "Objects that are no readable DICOM",
        )
        self._alarms.add(
            self, "catalog-capacity", self._acus(), _ACU_PERCENT, "The catalog needs a higher max_acu_capacity", 3
        )

    def _watch_queues_and_functions(self) -> None:
        for name, queue in self._watched.queues.items():
            dead = queue.dead_letters.metric_approximate_number_of_messages_visible(
                period=FIVE_MINUTES, statistic=MAXIMUM
            )
            self._alarms.add(
                self,
                f"{name}-dead-letters",
                dead,
                0,
                "Messages that failed a hundred times: a bug. Redrive when mended",
            )
            oldest = queue.queue.metric_approximate_age_of_oldest_message(period=FIVE_MINUTES, statistic=MAXIMUM)
            if name != "drive":  # its wake-ups may wait for as long as they were sent for
                self._alarms.add(self, f"{name}-oldest-message", oldest, _OLDEST_SECONDS, "The queue is not worked off")
        for name, function in {**self._watched.functions, "watch": self.watch}.items():
            errors = function.function.metric_errors(period=_ERRORS_PERIOD)
            # One failed call is made again and is no news, but for that of a deployment.
            most = 0 if name == "migrate" else _ERRORS_MOST
            self._alarms.add(self, f"{name}-errors", errors, most, "Calls of the function failed")
            throttles = function.function.metric_throttles(period=FIVE_MINUTES)
            self._alarms.add(self, f"{name}-throttles", throttles, 0, "The account's concurrency is used up", periods=3)

    def _dashboard(self) -> None:
        queues = self._watched.queues
        graph, single = cloudwatch.GraphWidget, cloudwatch.SingleValueWidget
        received = queues["index"].queue.metric_number_of_messages_sent(period=FIVE_MINUTES, label="received")
        indexed = self._alarms.metric("InstancesIndexed").with_(label="indexed")
        started, completed, failed = (
            self._alarms.metric(name).with_(label=name.removeprefix("Imports").lower())
            for name in ("ImportsStarted", "ImportsCompleted", "ImportsFailed")
        )
        # One line an edge, however many there are and will be.
        silences = cloudwatch.MathExpression(
            expression=(
                f'SEARCH(\'{{{NAMESPACE},edge,service}} MetricName="{SILENCE}" service="{self._settings.name}"\','
                f" '{MAXIMUM}', {int(FIVE_MINUTES.to_seconds())})"
            ),
            using_metrics={},
            label="",
            period=FIVE_MINUTES,
        )
        dead = [
            queue.dead_letters.metric_approximate_number_of_messages_visible(label=name, statistic=MAXIMUM)
            for name, queue in queues.items()
        ]
        waiting = [
            queue.queue.metric_approximate_number_of_messages_visible(label=name, statistic=MAXIMUM)
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
                    single(title="Objects unreadable", metrics=[self._alarms.metric("ObjectsUnreadable")], width=6),
                    graph(title="Edges: seconds since the last heartbeat", left=[silences], width=12),
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
            # Without a name of ours: another address replaces the budget, and two of one name cannot be.
            budget=budgets.CfnBudget.BudgetDataProperty(
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
