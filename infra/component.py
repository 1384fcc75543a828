"""The edge as a Greengrass component: its artifacts, its recipe, and the deployment that keeps devices up to date."""

from pathlib import Path
from typing import Any, Final

from aws_cdk import Stack
from aws_cdk import aws_greengrassv2 as greengrass
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from infra.edges import ThingGroup
from infra.functions import skips_bundles
from infra.greengrass import COMPONENT, PLATFORMS, Artifact, build_artifact, component_version, render_recipe
from infra.landing import LandingBucket
from infra.settings import DeploymentSettings

__all__ = ["EdgeArtifacts", "EdgeComponent"]

_OUTPUT: Final = Path(__file__).resolve().parent.parent / "build" / "edge"
_NOTHING: Final = Path(__file__).resolve()
_STOP_SECONDS: Final = 60


class EdgeArtifacts(Construct):
    """The edge's zips, one a platform, in CDK's own bucket; with `--context bundles=skip` nothing of worth."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        is_skipped = skips_bundles(self)
        paths = {platform: _NOTHING if is_skipped else build_artifact(platform, _OUTPUT) for platform in PLATFORMS}
        self._assets = {platform: assets.Asset(self, platform, path=str(path)) for platform, path in paths.items()}
        self.version = component_version(paths.values())

    def url_of(self, platform: str) -> str:
        """Return where a platform's zip lies: `s3://…`."""
        return self._assets[platform].s3_object_url

    def arn_of(self, platform: str) -> str:
        """Return the ARN of a platform's zip."""
        asset = self._assets[platform]
        return asset.bucket.arn_for_objects(asset.s3_object_key)

    @property
    def arns(self) -> list[str]:
        """The ARNs of all."""
        return [self.arn_of(platform) for platform in PLATFORMS]

    @property
    def recipe(self) -> str:
        """The component's recipe. An asset is stored under its hash, and unpacked to a folder of that name."""
        found = {
            platform: Artifact(uri=asset.s3_object_url, folder=asset.asset_hash)
            for platform, asset in self._assets.items()
        }
        return render_recipe(self.version, found, component=COMPONENT)


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
        configuration: dict[str, Any] = {"edge": {"delivery": _delivery(settings, landing)}}
        deployment = greengrass.CfnDeployment(
            self,
            "Deployment",
            deployment_name=f"{settings.name}-edges",
            target_arn=things.arn,
            components={
                COMPONENT: greengrass.CfnDeployment.ComponentDeploymentSpecificationProperty(
                    component_version=artifacts.version,
                    configuration_update=greengrass.CfnDeployment.ComponentConfigurationUpdateProperty(
                        merge=Stack.of(self).to_json_string(configuration)
                    ),
                ),
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


def _delivery(settings: DeploymentSettings, landing: LandingBucket) -> dict[str, object]:
    """Return the `delivery` table of every edge's settings; numbers and truth values are told as text."""
    return {
        "store_url": landing.url,
        "kms_key_id": landing.key.key_arn,
        "accelerate": str(settings.storage.transfer_acceleration).lower(),
    }
