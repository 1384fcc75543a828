"""The edge as a Greengrass component: its recipe, and the deployment that keeps devices up to date."""

from typing import Any, Final

from aws_cdk import Aws, Stack
from aws_cdk import aws_greengrassv2 as greengrass
from constructs import Construct

from infra.artifacts import EdgeArtifacts
from infra.devices import public_components
from infra.edges import ThingGroup
from infra.edgesettings import own_settings
from infra.greengrass import COMPONENT
from infra.landing import LandingBucket
from infra.settings import DeploymentSettings

__all__ = ["EdgeComponent"]

_STOP_SECONDS: Final = 60


class EdgeComponent(Construct):
    """A version of the component, deployed to the group: a device gets it when it joins, and each newer one."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: DeploymentSettings,
        landing: LandingBucket,
        artifacts: EdgeArtifacts,
        things: ThingGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        component = greengrass.CfnComponentVersion(self, "Version", inline_recipe=artifacts.recipe)
        configuration: dict[str, Any] = {
            "edge": {"delivery": _delivery(settings, landing)},
            "edges": own_settings(settings.edges, settings.device_name("")),
        }
        public = public_components(settings.devices, Aws.REGION, is_fips=settings.account.fips_endpoints)
        deployment = greengrass.CfnDeployment(
            self,
            "Deployment",
            deployment_name=f"{settings.name}-edges",
            target_arn=things.arn,
            components={
                COMPONENT: self._specify(artifacts.version, configuration),
                **{name: self._specify(version, told) for name, (version, told) in public.items()},
            },
            deployment_policies=greengrass.CfnDeployment.DeploymentPoliciesProperty(
                # A new version that does not start is taken back on that device, by itself.
                failure_handling_policy="ROLLBACK",
                component_update_policy=greengrass.CfnDeployment.DeploymentComponentUpdatePolicyProperty(
                    action="NOTIFY_COMPONENTS", timeout_in_seconds=_STOP_SECONDS
                ),
            ),
        )
        deployment.add_resource_dependency(component)

    def _specify(
        self, version: str, configuration: dict[str, Any]
    ) -> greengrass.CfnDeployment.ComponentDeploymentSpecificationProperty:
        return greengrass.CfnDeployment.ComponentDeploymentSpecificationProperty(
            component_version=version,
            configuration_update=greengrass.CfnDeployment.ComponentConfigurationUpdateProperty(
                merge=Stack.of(self).to_json_string(configuration)
            ),
        )


def _delivery(settings: DeploymentSettings, landing: LandingBucket) -> dict[str, object]:
    """Return the `delivery` table of every edge's settings; numbers and truth values are told as text."""
    # obstore hears no variable, and the nucleus sets one with its `fipsMode` only.
    endpoint = f"https://s3-fips.{Aws.REGION}.{Aws.URL_SUFFIX}" if settings.account.fips_endpoints else None
    return {
        **({"endpoint": endpoint} if endpoint else {}),
        "store_url": landing.url,
        "kms_key_id": landing.key.key_arn,
        "accelerate": str(settings.storage.transfer_acceleration).lower(),
    }
