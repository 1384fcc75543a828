"""The landing bucket: what edges deliver, what the pipeline and HealthImaging put beside it, and who is told of it."""

from typing import Final

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from dicomflow.bucket.keys import (
    ADOPTED,
    FEEDBACK_PREFIX,
    MANIFEST_PREFIX,
    OUTBOUND_PREFIX,
    RETURNS_PREFIX,
    STAGING_PREFIX,
)
from infra.functions import PipelineFunction
from infra.settings import DeploymentSettings

__all__ = ["LandingBucket"]

_STAGING_DAYS: Final = 7
_FEEDBACK_DAYS: Final = 400
_OUTBOUND_DAYS: Final = 14
"""Twice as long as an edge tries; the copies go earlier, when it has told the end."""
_RETURNS_DAYS: Final = 90
_UPLOAD_DAYS: Final = 7
_NONCURRENT_DAYS: Final = 30
_ACCESS_LOG_DAYS: Final = 365
_ARCHIVE_LEAST_BYTES: Final = 256 * 1024 - 1
"""A smaller object pays its move back after more than four months."""
_TLS: Final = 1.2
_KEPT_OF_NAME: Final = 8


class LandingBucket(Construct):
    """A private, versioned, encrypted bucket, whose new objects are told to three queues."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: DeploymentSettings, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self.key = key
        self._settings = settings
        access_log = s3.Bucket(
            self,
            "iepaccesslog",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,  # log delivery knows no other
            enforce_ssl=True,
            minimum_tls_version=_TLS,
            versioned=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="old",
                    expiration=Duration.days(_ACCESS_LOG_DAYS),
                    noncurrent_version_expiration=Duration.days(_NONCURRENT_DAYS),
                )
            ],
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        self.bucket = s3.Bucket(
            self,
            "iepdicombucket",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            minimum_tls_version=_TLS,
            versioned=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            transfer_acceleration=settings.storage.transfer_acceleration,
            server_access_logs_bucket=access_log,
            lifecycle_rules=self._lifecycle_rules(),
            # A bucket that holds anything cannot be deleted: destroying the stack stops there, and nothing is lost.
            removal_policy=RemovalPolicy.DESTROY,
        )
        resource = self.bucket.node.default_child
        assert isinstance(resource, s3.CfnBucket)  # CDK made it
        for number, rule in enumerate(self._lifecycle_rules()):
            if rule.object_size_greater_than is not None:  # CloudFormation wants it as a text
                path = f"LifecycleConfiguration.Rules.{number}.ObjectSizeGreaterThan"
                resource.add_property_override(path, str(_ARCHIVE_LEAST_BYTES))

    @property
    def image_prefixes(self) -> tuple[str, str]:
        """The prefixes of images: of what edges deliver, and of what was adopted."""
        return f"{self._settings.name}-", f"{ADOPTED}/"

    @property
    def images(self) -> list[str]:
        """The key patterns of images, as policies have them."""
        return [f"{prefix}*" for prefix in self.image_prefixes]

    @property
    def _name_start(self) -> str:
        """How the bucket's name begins, which CloudFormation makes from the stack's and may shorten."""
        return self._settings.name.lower()[:_KEPT_OF_NAME]

    @property
    def url(self) -> str:
        """The bucket as edges and functions are told of it."""
        return f"s3://{self.bucket.bucket_name}"

    def arn_of(self, *patterns: str) -> list[str]:
        """Return the ARNs of objects by key patterns."""
        return [self.bucket.arn_for_objects(pattern) for pattern in patterns]

    def grant_read(self, function: PipelineFunction, *patterns: str) -> None:
        """Let a function get objects; without leave to list, S3 would call an object forbidden that is not there."""
        function.grant("Read", ["s3:GetObject"], self.arn_of(*patterns))
        function.grant("List", ["s3:ListBucket"], [self.bucket.bucket_arn])
        self._grant_key(function, "ReadKey", ["kms:Decrypt"])

    def grant_write(self, function: PipelineFunction, *patterns: str) -> None:
        """Let a function put objects."""
        function.grant("Write", ["s3:PutObject"], self.arn_of(*patterns))
        self._grant_key(function, "WriteKey", ["kms:GenerateDataKey"])

    def _grant_key(self, function: PipelineFunction, sid: str, actions: list[str]) -> None:
        function.grant(
            sid, actions, [self.key.key_arn], StringEquals={"kms:ViaService": f"s3.{Aws.REGION}.amazonaws.com"}
        )

    def tell(self, *, instances: sqs.Queue, manifests: sqs.Queue, returns: sqs.Queue) -> None:
        """Tell a queue of every instance put, one of every manifest, and one of what edges return; of nothing else."""
        bucket = self.bucket.node.default_child
        assert isinstance(bucket, s3.CfnBucket)  # CDK made it
        bucket.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[
                *(_configuration(instances, prefix, ".dcm") for prefix in self.image_prefixes),
                _configuration(manifests, MANIFEST_PREFIX, ".json"),
                _configuration(returns, RETURNS_PREFIX, ".json"),
            ]
        )
        for queue in (instances, manifests, returns):
            # S3 tries the queue before the bucket is there; its policy must not wait for the bucket's name.
            result = queue.add_to_resource_policy(
                iam.PolicyStatement(
                    sid="Bucket",
                    principals=[iam.ServicePrincipal("s3.amazonaws.com")],
                    actions=["sqs:SendMessage"],
                    resources=[queue.queue_arn],
                    conditions={
                        "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                        "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:s3:::{self._name_start}*"},
                    },
                )
            )
            if result.policy_dependable is not None:
                self.bucket.node.add_dependency(result.policy_dependable)

    def _lifecycle_rules(self) -> list[s3.LifecycleRule]:
        rules = [
            s3.LifecycleRule(
                id="uploads-and-versions",
                abort_incomplete_multipart_upload_after=Duration.days(_UPLOAD_DAYS),
                noncurrent_version_expiration=Duration.days(_NONCURRENT_DAYS),
                expired_object_delete_marker=True,
            ),
            s3.LifecycleRule(id="staging", prefix=STAGING_PREFIX, expiration=Duration.days(_STAGING_DAYS)),
            # Results of imports stay: after a lost catalog nothing else says what HealthImaging holds.
            s3.LifecycleRule(id="feedback", prefix=FEEDBACK_PREFIX, expiration=Duration.days(_FEEDBACK_DAYS)),
            s3.LifecycleRule(id="outbound", prefix=OUTBOUND_PREFIX, expiration=Duration.days(_OUTBOUND_DAYS)),
            s3.LifecycleRule(id="returns", prefix=RETURNS_PREFIX, expiration=Duration.days(_RETURNS_DAYS)),
        ]
        # What was received goes by the catalog, when it was imported: a rule here would not know.
        if self._settings.storage.archives:
            archived = s3.Transition(
                storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL,
                transition_after=Duration.days(self._settings.storage.archive_after_days),
            )
            rules += [
                s3.LifecycleRule(
                    id=name, prefix=prefix, object_size_greater_than=_ARCHIVE_LEAST_BYTES, transitions=[archived]
                )
                for name, prefix in zip(("archive", "archive-adopted"), self.image_prefixes, strict=True)
            ]
        return rules


def _configuration(queue: sqs.Queue, prefix: str, suffix: str) -> s3.CfnBucket.QueueConfigurationProperty:
    rules = [
        s3.CfnBucket.FilterRuleProperty(name="prefix", value=prefix),
        s3.CfnBucket.FilterRuleProperty(name="suffix", value=suffix),
    ]
    return s3.CfnBucket.QueueConfigurationProperty(
        event="s3:ObjectCreated:*",
        queue=queue.queue_arn,
        filter=s3.CfnBucket.NotificationFilterProperty(s3_key=s3.CfnBucket.S3KeyFilterProperty(rules=rules)),
    )
