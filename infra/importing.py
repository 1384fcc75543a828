"""Imports: the data store, the role with which HealthImaging reads and writes the bucket, and the driver's functions.

A manifest's event makes the plan; wake-ups, delayed messages that the functions send themselves, run the driver while
there is something to do; the service's events end jobs. Nothing polls, so that an idle catalog can pause.
"""

from typing import Final

from aws_cdk import Arn, ArnComponents, Aws, CfnCondition, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_healthimaging as healthimaging
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from dicomflow.bucket.keys import FEEDBACK_PREFIX, IMPORT_OUTPUT_PREFIX, MANIFEST_PREFIX, STAGING_PREFIX
from infra.functions import PipelineFunction, WorkQueue
from infra.regions import HEALTHIMAGING_REGIONS
from infra.relay import Relay
from infra.settings import DeploymentSettings
from infra.wiring import Foundation

__all__ = ["HealthImagingStore", "Imports", "Planning", "grant_wake_ups"]

_PLAN_TIMEOUT: Final = Duration.seconds(60)
_DRIVE_TIMEOUT: Final = Duration.minutes(10)
_COLLECT_TIMEOUT: Final = Duration.minutes(5)
_PLAN_CONCURRENCY: Final = 10
_DRIVE_CONCURRENCY: Final = 2  # the least that there is; drivers exclude each other in the catalog
_COLLECT_CONCURRENCY: Final = 5
_JOB_EVENTS: Final = ("Import Job In Progress", "Import Job Completed", "Import Job Failed")
_SERVICE_NAME: Final = "medical-imaging"
_SERVICE: Final = f"{_SERVICE_NAME}.amazonaws.com"


class HealthImagingStore(Construct):
    """The data store, which stays when the stack goes, and its data access role."""

    def __init__(self, scope: Construct, construct_id: str, *, foundation: Foundation) -> None:
        super().__init__(scope, construct_id)
        landing, key = foundation.landing, foundation.key
        self._settings = foundation.settings.imports
        self.datastore_id = self._adopt_or_make(foundation.settings, key)
        if not self._settings.ahli_enabled:
            return
        self.role = iam.Role(
            self,
            "DataAccess",
            description="HealthImaging reads received objects and writes the results of its jobs",
            assumed_by=iam.ServicePrincipal(
                _SERVICE,
                conditions={
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                    "ArnLike": {
                        "aws:SourceArn": (
                            f"arn:{Aws.PARTITION}:medical-imaging:{Aws.REGION}:{Aws.ACCOUNT_ID}:datastore/*"
                        )
                    },
                },
            ),
        )
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="List",
                actions=["s3:GetEncryptionConfiguration", "s3:ListBucket"],
                resources=[landing.bucket.bucket_arn],
            )
        )
        inputs = landing.arn_of(*landing.images, f"{STAGING_PREFIX}*")
        self.role.add_to_policy(iam.PolicyStatement(sid="Read", actions=["s3:GetObject"], resources=inputs))
        outputs = landing.arn_of(f"{IMPORT_OUTPUT_PREFIX}*")
        self.role.add_to_policy(iam.PolicyStatement(sid="Write", actions=["s3:PutObject"], resources=outputs))
        self.role.add_to_policy(
            iam.PolicyStatement(sid="Key", actions=["kms:Decrypt", "kms:GenerateDataKey"], resources=[key.key_arn])
        )

    def _adopt_or_make(self, settings: DeploymentSettings, key: kms.IKey) -> str:
        """Return the id of the data store that config.py names, or of one that is made and stays when the stack goes.

        Each property replaces the store when it changes, and with it every image: so it has no tags, and only its name
        and key come from config.py. With imports off it stays as well.
        """
        if settings.imports.datastore_id:
            return settings.imports.datastore_id
        store = healthimaging.CfnDatastore(
            self, "Datastore", datastore_name=f"{settings.name}-datastore", kms_key_arn=key.key_arn
        )
        store.apply_removal_policy(RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE)
        if not settings.imports.ahli_enabled:
            # Where it is, it stays; and a region without HealthImaging gets none.
            there = [Fn.condition_equals(Aws.REGION, name) for name in HEALTHIMAGING_REGIONS]
            store.cfn_options.condition = CfnCondition(self, "Available", expression=Fn.condition_or(*there))
        return str(store.attr_datastore_id)

    @property
    def any_arn(self) -> str:
        """The pattern of every data store in the account and region."""
        components = ArnComponents(service=_SERVICE_NAME, resource="datastore", resource_name="*")
        return Arn.format(components, Stack.of(self))

    @property
    def environment(self) -> dict[str, str]:
        """What the pipeline's functions are told of imports."""
        return {
            "DICOMFLOW_IMPORTS__ENABLED": "true",
            "DICOMFLOW_IMPORTS__DATASTORE_ID": self.datastore_id,
            "DICOMFLOW_IMPORTS__DATA_ACCESS_ROLE_ARN": self.role.role_arn,
            "DICOMFLOW_IMPORTS__CONCURRENT": str(self._settings.ahli_concurrent_imports),
        }


class Planning(Construct):
    """The queue of manifests' events, and the function that queues a delivery's series for import."""

    def __init__(self, scope: Construct, construct_id: str, *, foundation: Foundation) -> None:
        super().__init__(scope, construct_id)
        settings, landing = foundation.settings, foundation.landing
        self.queue = WorkQueue(self, "plan", settings=settings, timeout=_PLAN_TIMEOUT)
        self.function = foundation.pipeline_function(self, "plan", timeout=_PLAN_TIMEOUT, memory_mib=512)
        foundation.catalog.grant_use(self.function)
        landing.grant_read(self.function, f"{MANIFEST_PREFIX}*")
        self.function.work_on(self.queue, batch_size=10, max_concurrency=_PLAN_CONCURRENCY, window=None)


class Imports(Construct):
    """The driver's two queues and functions, and the rule that brings the service's events."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        foundation: Foundation,
        store: HealthImagingStore,
        wake_ups: WorkQueue,
        relay: Relay,
    ) -> None:
        super().__init__(scope, construct_id)
        self._foundation = foundation
        self._relay = relay
        self._store = store
        self.events = WorkQueue(self, "collect", settings=foundation.settings, timeout=_COLLECT_TIMEOUT)
        self.drive = self._function("drive", _DRIVE_TIMEOUT)
        self.collect = self._function("collect", _COLLECT_TIMEOUT)
        for function in (self.drive, self.collect):
            grant_wake_ups(function, wake_ups)
        self._let_drive_start()
        self._let_relay_call()
        self.drive.work_on(wake_ups, batch_size=1, max_concurrency=_DRIVE_CONCURRENCY, window=None)
        self.collect.work_on(self.events, batch_size=10, max_concurrency=_COLLECT_CONCURRENCY, window=None)
        events.Rule(
            self,
            "JobEvents",
            description="What HealthImaging says of import jobs",
            event_pattern=events.EventPattern(
                source=["aws.medical-imaging"],
                detail_type=list(_JOB_EVENTS),
                # Jobs under way in a store that was here before are followed by the driver's own wake-ups.
                detail={"datastoreId": [store.datastore_id]},
            ),
            targets=[targets.SqsQueue(self.events.queue)],
        )

    @staticmethod
    def wake_up_queue(scope: Construct, foundation: Foundation) -> WorkQueue:
        """Make the driver's queue, which the other functions send to as well."""
        return WorkQueue(scope, "drive", settings=foundation.settings, timeout=_DRIVE_TIMEOUT)

    def _function(self, name: str, timeout: Duration) -> PipelineFunction:
        """Make a function that ends jobs: it reads their results, removes their copies and tells edges."""
        landing = self._foundation.landing
        function = self._foundation.pipeline_function(self, name, timeout=timeout, memory_mib=1024)
        self._foundation.catalog.grant_use(function)
        landing.grant_read(function, f"{IMPORT_OUTPUT_PREFIX}*")
        landing.grant_write(function, f"{FEEDBACK_PREFIX}*")
        function.grant("Unstage", ["s3:DeleteObject"], landing.arn_of(f"{STAGING_PREFIX}*"))
        self._relay.grant_use(function, _SERVICE_NAME, "events")
        return function

    def _let_relay_call(self) -> None:
        """Let the relay call HealthImaging: of every data store here, to end what is under way in the one before."""
        store, relay = self._store.any_arn, self._relay.function
        relay.grant("Follow", ["medical-imaging:GetDICOMImportJob", "medical-imaging:SearchImageSets"], [store])
        relay.grant("ImageSets", ["medical-imaging:GetImageSet"], [f"{store}/imageset/*"])
        changes = ["medical-imaging:CopyImageSet", "medical-imaging:UpdateImageSetMetadata"]
        relay.grant("Repair", changes, [store, f"{store}/imageset/*"])
        relay.grant("Start", ["medical-imaging:StartDICOMImportJob"], [store])
        relay.grant(
            "PassRole",
            ["iam:PassRole"],
            [self._store.role.role_arn],
            StringEquals={"iam:PassedToService": _SERVICE},
        )

    def _let_drive_start(self) -> None:
        """Let the driver copy to the staging prefix, and delete what was kept for long enough."""
        landing, drive = self._foundation.landing, self.drive
        drive.grant("CopyFrom", ["s3:GetObject"], landing.arn_of(*landing.images))
        drive.grant("Stage", ["s3:GetObject", "s3:PutObject"], landing.arn_of(f"{STAGING_PREFIX}*"))
        days = self._foundation.settings.storage.retention_days
        if days:
            drive.function.add_environment("DICOMFLOW_RETENTION_DAYS", str(days))
            drive.grant("Expire", ["s3:DeleteObject"], landing.arn_of(*landing.images))


def grant_wake_ups(function: PipelineFunction, wake_ups: WorkQueue) -> None:
    """Let a function wake the driver, and tell it where."""
    function.grant("Wake", ["sqs:SendMessage"], [wake_ups.queue.queue_arn])
    function.function.add_environment("DICOMFLOW_QUEUES__DRIVE", wake_ups.queue.queue_url)
