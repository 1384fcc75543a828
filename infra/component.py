"""The edge as a Greengrass component: its artifacts, its recipe, and the deployment that keeps devices up to date."""

from pathlib import Path
from typing import Final

from aws_cdk import aws_greengrassv2 as greengrass
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from infra.edges import ThingGroup
from infra.landing import LandingBucket
from infra.settings import DeploymentSettings

__all__ = ["PLATFORMS", "EdgeArtifacts", "EdgeComponent"]

PLATFORMS: Final = ("linux-x86_64", "linux-aarch64", "windows-x86_64")
_OUTPUT: Final = Path(__file__).resolve().parent.parent / "build" / "edge"
_PLACEHOLDER: Final = Path(__file__).resolve().parent / "certificates"


class EdgeArtifacts(Construct):
    """The edge's artifacts, one a platform, in CDK's own bucket; with `--context bundles=skip` nothing of worth."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        is_skipped = self.node.try_get_context("bundles") == "skip"
        self._assets = {
            platform: assets.Asset(self, platform, path=str(_PLACEHOLDER if is_skipped else _PLACEHOLDER))
            for platform in PLATFORMS
        }

    def of(self, platform: str) -> assets.Asset:
        """Return a platform's artifact."""
        return self._assets[platform]

    def arn_of(self, platform: str) -> str:
        """Return the ARN of a platform's artifact."""
        asset = self._assets[platform]
        return asset.bucket.arn_for_objects(asset.s3_object_key)

    @property
    def arns(self) -> list[str]:
        """The ARNs of all."""
        return [self.arn_of(platform) for platform in PLATFORMS]


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
