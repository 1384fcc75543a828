"""The key that everything at rest is encrypted with."""

from aws_cdk import Aws, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.settings import DeploymentSettings

__all__ = ["data_key"]

_HEALTHIMAGING = "medical-imaging.amazonaws.com"


def data_key(scope: Construct, settings: DeploymentSettings) -> kms.IKey:
    """Return the key of config.py, or make one, which stays when the stack goes: without it no backup can be read."""
    if settings.storage.kms_key_arn:
        return kms.Key.from_key_arn(scope, "DataKey", settings.storage.kms_key_arn)
    key = kms.Key(
        scope,
        "DataKey",
        alias=f"alias/{settings.name}-data",
        description=f"Encrypts what {settings.name} keeps: images, catalog, logs",
        enable_key_rotation=True,
        removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    )
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Logs",
            principals=[iam.ServicePrincipal(f"logs.{Aws.REGION}.amazonaws.com")],
            actions=["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
            resources=["*"],
            conditions={
                "ArnLike": {
                    "kms:EncryptionContext:aws:logs:arn": (
                        f"arn:{Aws.PARTITION}:logs:{Aws.REGION}:{Aws.ACCOUNT_ID}:log-group:*"
                    )
                }
            },
        )
    )
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Alarms",
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["kms:Decrypt", "kms:GenerateDataKey*"],
            resources=["*"],
            conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
        )
    )
    # HealthImaging Developer Guide, "Data encryption": without the grant a data store cannot be read any more, and it
    # stays where imports are switched off.
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="HealthImaging",
            principals=[iam.ServicePrincipal(_HEALTHIMAGING)],
            actions=["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
            resources=["*"],
            conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
        )
    )
    return key
