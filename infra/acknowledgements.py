"""Rules of cdk-nag's AwsSolutions and HIPAA packs that are not followed, each for one resource and with its reason.

A path is below the stack; one of a capability that is switched off is passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aws_cdk import Acknowledgment, CfnResource, Names, Stack, Validations
from constructs import IConstruct

from dicomflow.bucket.keys import (
    ADOPTED,
    FEEDBACK_PREFIX,
    IMPORT_OUTPUT_PREFIX,
    MANIFEST_PREFIX,
    OUTBOUND_PREFIX,
    REPAIR_PREFIX,
    RETURNS_PREFIX,
    STAGING_PREFIX,
    STATUS_PREFIX,
    feedback_prefix,
)
from infra.edges import edge_group, read_store
from infra.settings import DeploymentSettings

__all__ = ["Acknowledgement", "acknowledge", "acknowledgements"]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A rule, or one finding of it, that a construct breaks on purpose."""

    path: str
    rule: str
    reason: str


_FUNCTIONS: Final = {
    "index": "Indexing/Index",
    "plan": "Planning/Plan",
    "drive": "Imports/Drive",
    "collect": "Imports/Collect",
    "transfers": "Transfers/Transfers",
    "watch": "Monitoring/Watch",
    "migrate": "IEPAurora/Migrate",
    "relay": "Relay/Relay",
    "operator": "Operator/Operator",
    "console": "Operator/Console",
    "secrets": "IEPAurora/Secrets",
}
_OUTSIDE: Final = {
    "relay": "It calls HealthImaging, which has no IPv6, for functions in the VPC, and holds no data",
    "secrets": "It reads one secret for the migration in the VPC, which has no way to Secrets Manager",
}
_QUEUED: Final = ("index", "plan", "drive", "collect", "transfers")
_FRAMEWORK: Final = "IEPAurora/Provider/framework-onEvent"
_INSTALLER: Final = "IEPDevices/Installer/DefaultPolicy"
_OWN_KEYS: Final = "An object's key is not known before it comes; this prefix holds nothing that is not the role's work"
_IMAGES: Final = ("{stack}-", f"{ADOPTED}/")
_STORES: Final = "arn:<AWS::Partition>:medical-imaging:<AWS::Region>:<AWS::AccountId>:datastore/*"
_INLINE: Final = "The policy is this one role's, made and deleted with it; a managed policy could be attached elsewhere"
_INTERFACES: Final = "What Lambda needs to put a function into a VPC; EC2 knows no resource for it before it is made"
_RUNTIME: Final = (
    "Python 3.13: every wheel of the bundle is published for it; the next runtime comes with the next release"
)
_INSTALLS: Final = "Installs any edge of this stack, and its names begin with the stack's; nothing of others"
_PROVIDER: Final = "CDK's own function, which calls the migration and nothing else, and holds no data"

_FIXED: Final = (
    ("Network/FlowLogRole/DefaultPolicy", "HIPAA.Security-IAMNoInlinePolicy", _INLINE),
    (
        "Network/Vpc",
        "HIPAA.Security-VPCDefaultSecurityGroupClosed",
        "CloudFormation cannot close it; every interface of ours names a group of its own, so that nothing is in it",
    ),
    *(
        (
            f"Network/Vpc/gatewaySubnet{number}/{route}",
            "HIPAA.Security-VPCNoUnrestrictedRouteToIGW",
            "Only the NAT gateway is in this subnet; private_endpoints in NETWORK_CONFIG does without both",
        )
        for number in (1, 2)
        for route in ("DefaultRoute", "DefaultRoute6")
    ),
    *(
        (
            f"Network/Vpc/functionsSubnet{number}/Subnet",
            "HIPAA.Security-VPCSubnetAutoAssignPublicIpDisabled",
            "The address is one of IPv6, behind an egress-only gateway: nothing reaches it from outside",
        )
        for number in (1, 2)
    ),
    (
        "iepbuckets/iepdicombucket",
        "HIPAA.Security-S3BucketReplicationEnabled",
        "Versioned, and S3 keeps each object in three zones; a copy in another region is the customer's decision",
    ),
    ("iepbuckets/iepaccesslog", "HIPAA.Security-S3BucketReplicationEnabled", "It holds the log of who read what, only"),
    (
        "iepbuckets/iepaccesslog",
        "HIPAA.Security-S3DefaultEncryptionKMS",
        "S3 delivers access logs to buckets with its own encryption only",
    ),
    (
        "IEPAurora/iepauroradb/Secret",
        "AwsSolutions-SMG4",
        "The migration and the Query Editor use it, functions prove themselves by IAM; a rotation wakes the engine",
    ),
    ("IEPAurora/iepauroradb/Secret", "HIPAA.Security-SecretsManagerRotationEnabled", "As AwsSolutions-SMG4"),
    (
        "IEPAurora/iepauroradb/Writer",
        "HIPAA.Security-RDSEnhancedMonitoringEnabled",
        "Serverless: the figures of its operating system are AWS's business; its capacity has an alarm",
    ),
    (
        "IEPAurora/iepauroradb/Writer",
        "HIPAA.Security-RDSInBackupPlan",
        "Aurora backs up continuously, for 35 days; and the catalog can be built again from the bucket",
    ),
    (f"{_FRAMEWORK}", "HIPAA.Security-LambdaConcurrency", "It runs once a deploy"),
    (f"{_FRAMEWORK}", "HIPAA.Security-LambdaDLQ", "CloudFormation waits for its answer, and takes silence for failure"),
    (f"{_FRAMEWORK}", "HIPAA.Security-LambdaInsideVPC", _PROVIDER),
    (
        f"{_FRAMEWORK}/ServiceRole",
        "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole]",
        _PROVIDER,
    ),
    (f"{_FRAMEWORK}/ServiceRole/DefaultPolicy", "AwsSolutions-IAM5[Resource::{migrate}:*]", _PROVIDER),
    (f"{_FRAMEWORK}/ServiceRole/DefaultPolicy", "HIPAA.Security-IAMNoInlinePolicy", _INLINE),
    *(
        ("HealthImaging/DataAccess/DefaultPolicy", f"AwsSolutions-IAM5[Resource::{{bucket}}/{prefix}*]", _OWN_KEYS)
        for prefix in (*_IMAGES, IMPORT_OUTPUT_PREFIX, STAGING_PREFIX)
    ),
    ("HealthImaging/DataAccess/DefaultPolicy", "HIPAA.Security-IAMNoInlinePolicy", _INLINE),
    *(
        (_INSTALLER, f"AwsSolutions-IAM5[Resource::{pattern}]", _INSTALLS)
        for pattern in (
            "*",
            "arn:<AWS::Partition>:iam::<AWS::AccountId>:role/{stack}-*-GG-Role",
            "arn:<AWS::Partition>:iam::<AWS::AccountId>:policy/{stack}-*-GG-RoleAccess",
            "arn:<AWS::Partition>:iam::aws:policy/*",
            "arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:policy/GreengrassTESCertificatePolicy{stack}-*",
            "arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:policy/{stack}-*-GG-Thing",
            "arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:rolealias/{stack}-*-GG-Role-Alias",
            "arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:thing/{stack}-*",
        )
    ),
    (_INSTALLER, "HIPAA.Security-IAMNoInlinePolicy", _INLINE),
)
_PREFIXES: Final = {
    "index": _IMAGES,
    "plan": (MANIFEST_PREFIX,),
    "drive": (*_IMAGES, FEEDBACK_PREFIX, IMPORT_OUTPUT_PREFIX, STAGING_PREFIX),
    "collect": (FEEDBACK_PREFIX, IMPORT_OUTPUT_PREFIX, STAGING_PREFIX),
    "transfers": (*_IMAGES, OUTBOUND_PREFIX, RETURNS_PREFIX, STATUS_PREFIX),
    "watch": (STATUS_PREFIX,),
    "migrate": (),
    "relay": (),
    "operator": (*_IMAGES, IMPORT_OUTPUT_PREFIX, MANIFEST_PREFIX, REPAIR_PREFIX, STATUS_PREFIX),
    "console": (*_IMAGES, STATUS_PREFIX),
    "secrets": (),
}


def acknowledge(stack: Stack, settings: DeploymentSettings, *, bucket: IConstruct, migrate: IConstruct) -> None:
    """Acknowledge everything in `acknowledgements` that the stack has."""
    names = {
        "bucket": _arn(stack, bucket),
        # Nested stacks are told of it by a parameter.
        "bucket_parameter": f"<referenceto{Names.node_unique_id(_resource(bucket).node)}Arn>",
        "migrate": _arn(stack, migrate),
        "stack": settings.name,
    }
    for entry in acknowledgements(settings):
        construct: IConstruct | None = stack
        for part in entry.path.split("/"):
            construct = construct.node.try_find_child(part) if construct is not None else None
        if construct is not None:
            Validations.of(construct).acknowledge(Acknowledgment(id=entry.rule.format(**names), reason=entry.reason))


def acknowledgements(settings: DeploymentSettings) -> Iterator[Acknowledgement]:
    """Yield every rule that is not followed; names in braces are those of this stack's resources."""
    for path, rule, reason in _FIXED:
        yield Acknowledgement(path, rule, reason)
    if not settings.database.deletion_protection:
        for rule in ("AwsSolutions-RDS10", "HIPAA.Security-RDSInstanceDeletionProtectionEnabled"):
            yield Acknowledgement("IEPAurora/iepauroradb", rule, "deletion_protection is off, to destroy the stack")
    for name, path in _FUNCTIONS.items():
        yield from _of_function(name, path)
    for edge in settings.edges:
        device = settings.device_name(edge.name)
        own = f"What the edge {device} delivers and is told; no other edge's"
        is_local = edge.device_type == "LOCAL"
        bucket = "bucket_parameter" if is_local else "bucket"
        policy = (
            f"{edge_group(edge.name)}/Edges/{edge.name}-access" if is_local else f"Edge-{edge.name}/Role/DefaultPolicy"
        )
        prefixes = (f"{MANIFEST_PREFIX}{device}/", f"{OUTBOUND_PREFIX}{device}/", f"{RETURNS_PREFIX}{device}/")
        for prefix in (f"{device}/", feedback_prefix(device), *prefixes):
            yield Acknowledgement(policy, f"AwsSolutions-IAM5[Resource::{{{bucket}}}/{prefix}*]", own)
        if (store := read_store(edge.settings)) is not None:
            images = f"arn:<AWS::Partition>:medical-imaging:{store[0]}:<AWS::AccountId>:datastore/{store[1]}/imageset/*"
            reason = "It reads one data store for its site; an image set has no name before it is imported"
            yield Acknowledgement(policy, f"AwsSolutions-IAM5[Resource::{images}]", reason)
        if not is_local:
            yield from _of_instance(f"Edge-{edge.name}", policy)
        elif settings.devices.logs_to_cloudwatch:
            yield from _of_device(policy)


def _of_function(name: str, path: str) -> Iterator[Acknowledgement]:
    function, policy = f"{path}/Function", f"{path}/Role/DefaultPolicy"
    bounded = "max_concurrency of its queue bounds it" if name in _QUEUED else "It runs one at a time"
    bounded = "It runs as often at once as its callers do, which are bounded" if name in _OUTSIDE else bounded
    repeated = (
        "Its queue has dead letters; the function itself is never called asynchronously"
        if name in _QUEUED
        else "The next run does the same work, and an alarm tells of a failed one"
    )
    repeated = "It is never called asynchronously: its caller waits, and repeats" if name in _OUTSIDE else repeated
    yield Acknowledgement(function, "AwsSolutions-L1", _RUNTIME)
    yield Acknowledgement(function, "HIPAA.Security-LambdaConcurrency", bounded)
    yield Acknowledgement(function, "HIPAA.Security-LambdaDLQ", repeated)
    yield Acknowledgement(policy, "HIPAA.Security-IAMNoInlinePolicy", _INLINE)
    if name in _OUTSIDE:
        yield Acknowledgement(function, "HIPAA.Security-LambdaInsideVPC", _OUTSIDE[name])
    else:
        yield Acknowledgement(policy, "AwsSolutions-IAM5[Resource::*]", _INTERFACES)
    for prefix in _PREFIXES[name]:
        yield Acknowledgement(policy, f"AwsSolutions-IAM5[Resource::{{bucket}}/{prefix}*]", _OWN_KEYS)
    if name == "relay":
        reason = "Jobs under way in an older data store are followed too, and an image set has no name before its job"
        for pattern in (_STORES, f"{_STORES}/imageset/*"):
            yield Acknowledgement(policy, f"AwsSolutions-IAM5[Resource::{pattern}]", reason)


def _of_device(policy: str) -> Iterator[Acknowledgement]:
    arn = "arn:<AWS::Partition>:logs:<AWS::Region>:<AWS::AccountId>:log-group:/aws/greengrass/*"
    reason = "Greengrass names a log group by component and region; an edge may only add to them"
    yield Acknowledgement(policy, f"AwsSolutions-IAM5[Resource::{arn}]", reason)


def _of_instance(path: str, policy: str) -> Iterator[Acknowledgement]:
    tagged = "Only what is tagged as this edge's: the id of an instance is not known before it starts"
    for kind in ("instance", "volume"):
        arn = f"arn:<AWS::Partition>:ec2:<AWS::Region>:<AWS::AccountId>:{kind}/*"
        yield Acknowledgement(policy, f"AwsSolutions-IAM5[Resource::{arn}]", tagged)
    yield Acknowledgement(policy, "HIPAA.Security-IAMNoInlinePolicy", _INLINE)
    yield Acknowledgement(
        f"{path}/Role",
        "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonSSMManagedInstanceCore]",
        "AWS keeps it up to date with what Session Manager needs, in the place of SSH and its keys",
    )
    yield Acknowledgement(
        f"{path}/Spool",
        "HIPAA.Security-EC2EBSInBackupPlan",
        "Holds what is on its way to the bucket; a backup of it would be old when it is made",
    )
    yield Acknowledgement(
        f"{path}/Instances",
        "AwsSolutions-AS3",
        "An edge that is gone is told of by its missing heartbeat, whatever has happened to its instance",
    )


def _arn(stack: Stack, construct: IConstruct) -> str:
    """Return how cdk-nag writes the ARN of a resource in the names of its findings."""
    return f"<{stack.get_logical_id(_resource(construct))}.Arn>"


def _resource(construct: IConstruct) -> CfnResource:
    resource = construct if isinstance(construct, CfnResource) else construct.node.default_child
    assert isinstance(resource, CfnResource)  # every construct here is of one resource
    return resource
