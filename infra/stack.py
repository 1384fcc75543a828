"""The stack: which capabilities there are and what each is given. What one does is in its own module."""

from typing import Final

from aws_cdk import (
    CfnOutput,
    CfnRule,
    CfnRuleAssertion,
    DefaultStackSynthesizer,
    Fn,
    PermissionsBoundary,
    Stack,
    Tags,
)
from constructs import Construct

from infra.alarms import Alarms
from infra.artifacts import EdgeArtifacts
from infra.catalog import Catalog
from infra.component import EdgeComponent
from infra.edges import ThingGroup, add_devices
from infra.importing import HealthImagingStore, Imports, Planning, grant_wake_ups
from infra.indexing import Indexing
from infra.instances import EdgeInstance
from infra.keys import data_key
from infra.landing import LandingBucket
from infra.monitoring import Monitoring, Watched
from infra.network import Network
from infra.operator import Operator
from infra.regions import deployable_regions
from infra.relay import Relay
from infra.settings import DeploymentSettings
from infra.transfers import Transfers
from infra.wiring import Foundation

__all__ = ["DicomflowStack"]

_IMPORTS_OFF: Final = {"DICOMFLOW_IMPORTS__ENABLED": "false"}


class DicomflowStack(Stack):
    """Everything that a deployment is, in whichever account and region it is deployed to."""

    def __init__(self, scope: Construct, settings: DeploymentSettings) -> None:
        super().__init__(
            scope,
            settings.name,
            description="DICOM from a hospital's devices into S3 and HealthImaging",
            termination_protection=settings.database.deletion_protection,
            permissions_boundary=_boundary(settings.account.permissions_boundary),
            synthesizer=DefaultStackSynthesizer(qualifier=settings.account.bootstrap_qualifier or None),
        )
        self._settings = settings
        key = data_key(self, settings)
        network = Network(self, "Network", settings=settings, key=key)
        landing = LandingBucket(self, "iepbuckets", settings=settings, key=key)
        catalog = Catalog(self, "IEPAurora", settings=settings, network=network, key=key)
        foundation = Foundation(settings, key, network, landing, catalog)
        store = HealthImagingStore(self, "HealthImaging", foundation=foundation)
        foundation = foundation.with_environment(store.environment if self._imports else _IMPORTS_OFF)
        relay = Relay(self, "Relay", foundation=foundation)
        indexing = Indexing(self, "Indexing", foundation=foundation)
        planning = Planning(self, "Planning", foundation=foundation)
        transfers = Transfers(self, "Transfers", foundation=foundation, relay=relay)
        landing.tell(instances=indexing.queue.queue, manifests=planning.queue.queue, returns=transfers.queue.queue)
        queues = {"index": indexing.queue, "plan": planning.queue, "transfers": transfers.queue}
        functions = {"index": indexing.function, "plan": planning.function, "transfers": transfers.function}
        functions["migrate"] = catalog.migrate_function
        if self._imports:
            wake_ups = Imports.wake_up_queue(self, foundation)
            imports = Imports(self, "Imports", foundation=foundation, store=store, wake_ups=wake_ups, relay=relay)
            grant_wake_ups(planning.function, wake_ups)
            queues |= {"drive": wake_ups, "collect": imports.events}
            grant_wake_ups(indexing.function, wake_ups)
            functions |= {"drive": imports.drive, "collect": imports.collect}
            relay.pass_events(indexing.function, planning.function, imports.drive, imports.collect)
            CfnOutput(self, "DatastoreId", value=store.datastore_id)
        else:
            relay.pass_events(indexing.function, planning.function)
        for function in (indexing.function, planning.function):
            relay.grant_use(function, "events")
        wake_up_queue = queues.get("drive")
        relay.serve(list(queues.values()), [transfers.queue, *([wake_up_queue] if wake_up_queue else [])])
        Operator(self, "Operator", foundation=foundation, relay=relay, wake_ups=wake_up_queue, transfers=transfers)
        functions |= {"relay": relay.function, "secrets": catalog.secrets_function}
        self.bucket, self.migrate = landing.bucket, catalog.migrate_function.function
        alarms = Alarms(self, "Alarms", settings=settings, key=key)
        self._add_edges(foundation, alarms)
        watched = Watched(queues, functions, catalog.cluster)
        Monitoring(self, "Monitoring", foundation=foundation, alarms=alarms, watched=watched)
        CfnOutput(self, "Bucket", value=landing.bucket.bucket_name)
        CfnOutput(self, "DatabaseSecret", value=catalog.secret_arn)
        self._check_region()
        self._tag()

    @property
    def _imports(self) -> bool:
        return self._settings.imports.ahli_enabled

    def _add_edges(self, foundation: Foundation, alarms: Alarms) -> None:
        settings, landing = self._settings, foundation.landing
        artifacts = EdgeArtifacts(self, "EdgeArtifacts", settings=settings)
        things = ThingGroup(self, "IEPDevices", settings=settings)
        add_devices(self, settings=settings, landing=landing, artifacts=artifacts, alarms=alarms)
        EdgeComponent(self, "EdgeComponent", settings=settings, landing=landing, artifacts=artifacts, things=things)
        for edge in settings.edges:
            if edge.device_type == "EC2":
                instance = EdgeInstance(
                    self,
                    edge,
                    settings=settings,
                    network=foundation.network,
                    landing=landing,
                    key=foundation.key,
                    artifacts=artifacts,
                )
                alarms.add_silence(instance, edge.name)
                CfnOutput(self, f"{edge.name}Address", value=instance.interface.attr_primary_private_ip_address)

    def _tag(self) -> None:
        for name, value in {**self._settings.tags.tag_list, "application": self._settings.name}.items():
            # A data store is replaced when a tag of it changes.
            Tags.of(self).add(name, value, exclude_resource_types=["AWS::HealthImaging::Datastore"])

    def _check_region(self) -> None:
        """Refuse a region without what is called, before anything is made; the synthesis may not know the region."""
        is_fips = self._settings.account.fips_endpoints
        if self._imports or is_fips:
            regions, reason = deployable_regions(with_imports=self._imports, with_fips=is_fips)
            assertion = CfnRuleAssertion(
                assert_=Fn.condition_contains(list(regions), self.region), assert_description=reason
            )
            CfnRule(self, "HealthImagingRegion", assertions=[assertion])


def _boundary(policy: str) -> PermissionsBoundary | None:
    """Return what limits every role of the stack, those of the CDK's own functions included."""
    if policy.startswith("arn:"):
        return PermissionsBoundary.from_arn(policy)
    return PermissionsBoundary.from_name(policy) if policy else None
