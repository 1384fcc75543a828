"""The edge's artifacts, built when the deployment is synthesised and uploaded with it."""

from pathlib import Path
from typing import Final

from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from infra.functions import skips_bundles
from infra.greengrass import COMPONENT, PLATFORMS, Artifact, build_artifact, component_version, render_recipe
from infra.settings import DeploymentSettings

__all__ = ["ARTIFACTS", "EdgeArtifacts"]

ARTIFACTS: Final = Path(__file__).resolve().parent.parent / "build" / "edge"
_NOTHING: Final = Path(__file__).resolve()


class EdgeArtifacts(Construct):
    """The edge's zips, one a platform, in CDK's own bucket; with `--context bundles=skip` nothing of worth."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: DeploymentSettings) -> None:
        super().__init__(scope, construct_id)
        is_skipped = skips_bundles(self)
        paths = {platform: _NOTHING if is_skipped else build_artifact(platform, ARTIFACTS) for platform in PLATFORMS}
        self._assets = {platform: assets.Asset(self, platform, path=str(path)) for platform, path in paths.items()}
        self.version = component_version(paths.values(), settings.name)

    def url_of(self, platform: str) -> str:
        """Return where a platform's zip lies: `s3://…`."""
        return self._assets[platform].s3_object_url

    def arn_of(self, platform: str) -> str:
        """Return the ARN of a platform's zip."""
        asset = self._assets[platform]
        return asset.bucket.arn_for_objects(asset.s3_object_key)

    def read_statements(self) -> list[iam.PolicyStatement]:
        """Return what a device needs to get them all; the nucleus asks first in which region the bucket is."""
        buckets = sorted({asset.bucket.bucket_arn for asset in self._assets.values()})
        arns = [self.arn_of(platform) for platform in PLATFORMS]
        return [
            iam.PolicyStatement(sid="Artifacts", actions=["s3:GetObject"], resources=arns),
            iam.PolicyStatement(sid="ArtifactBucket", actions=["s3:GetBucketLocation"], resources=buckets),
        ]

    @property
    def recipe(self) -> str:
        """The component's recipe. An asset is stored under its hash, and unpacked to a folder of that name."""
        found = {
            platform: Artifact(uri=asset.s3_object_url, folder=asset.asset_hash)
            for platform, asset in self._assets.items()
        }
        return render_recipe(self.version, found, component=COMPONENT)
