"""The edges: what each may do, and how those on devices of the customer's are installed and kept up to date.

An edge writes under its own prefixes and reads the pipeline's answers to its own deliveries, and the copies of what it
is to send to its site; it cannot read any other image, not even one that it wrote itself. One whose settings name
HealthImaging's DICOMweb may search that one data store and get instances of it, and change nothing there.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aws_cdk import Arn, ArnComponents, Aws, NestedStack, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from constructs import Construct

from dicomflow.bucket.keys import FEEDBACK_PREFIX, MANIFEST_PREFIX, OUTBOUND_PREFIX, RETURNS_PREFIX, STATUS_PREFIX
from infra.alarms import Alarms
from infra.artifacts import EdgeArtifacts
from infra.landing import LandingBucket
from infra.settings import DeploymentSettings, EdgeDevice

_DICOMWEB: Final = re.compile(
    r"https://dicom-medical-imaging(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com/datastore/([0-9a-z]{32})/?"
)
_READING: Final = ("GetDICOMInstance", "SearchDICOMInstances", "SearchDICOMSeries", "SearchDICOMStudies")

__all__ = ["EdgeDevices", "ThingGroup", "add_devices", "edge_group", "edge_statements", "read_store"]


def edge_statements(landing: LandingBucket, device: str, settings: Mapping[str, Any]) -> list[iam.PolicyStatement]:
    """Return all that an edge may do with the bucket, and with the data store that its settings name."""
    own = landing.arn_of(
        f"{device}/*",
        f"{MANIFEST_PREFIX}{device}/*",
        f"{STATUS_PREFIX}{device}.json",
        f"{RETURNS_PREFIX}{device}/*",
    )
    heard = landing.arn_of(
        f"{FEEDBACK_PREFIX}{device}/*",
        f"{OUTBOUND_PREFIX}{device}/*",
        f"{STATUS_PREFIX}{device}.json",  # another edge of this name would have put its own
    )
    return [
        iam.PolicyStatement(sid="Deliver", actions=["s3:AbortMultipartUpload", "s3:PutObject"], resources=own),
        iam.PolicyStatement(sid="Hear", actions=["s3:GetObject"], resources=heard),
        iam.PolicyStatement(
            sid="Key",
            actions=["kms:Decrypt", "kms:GenerateDataKey"],  # S3 asks for both when a large object comes in parts
            resources=[landing.key.key_arn],
            conditions={"StringEquals": {"kms:ViaService": f"s3.{Aws.REGION}.amazonaws.com"}},
        ),
        *_reading(settings),
    ]


def _reading(settings: Mapping[str, Any]) -> list[iam.PolicyStatement]:
    """Return what an edge needs that answers its site from a data store of HealthImaging; nothing for any other."""
    found = read_store(settings)
    if found is None:
        return []
    region, datastore_id = found
    store = f"arn:{Aws.PARTITION}:medical-imaging:{region}:{Aws.ACCOUNT_ID}:datastore/{datastore_id}"
    actions = [f"medical-imaging:{name}" for name in _READING]
    return [iam.PolicyStatement(sid="Read", actions=actions, resources=[store, f"{store}/imageset/*"])]


def read_store(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return region and ID of the data store whose DICOMweb an edge signs requests to; None where there is none."""
    archive = settings.get("archive", {})
    if archive.get("dicomweb_authorization_file"):
        return None
    found = _DICOMWEB.fullmatch(archive.get("dicomweb_url") or "")
    return (found[1], found[2]) if found else None


class ThingGroup(Construct):
    """The group that Greengrass deploys the edge to, and the role with which a device is installed."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: DeploymentSettings) -> None:
        super().__init__(scope, construct_id)
        self.group = iot.CfnThingGroup(
            self,
            "Devices",
            thing_group_name=f"{settings.name}-IEP-devices",
            thing_group_properties=iot.CfnThingGroup.ThingGroupPropertiesProperty(
                thing_group_description=f"Edges of {settings.name}"
            ),
        )
        self.installer = _installer_role(self, settings)

    @property
    def arn(self) -> str:
        """The group's ARN."""
        return self.group.attr_arn


def edge_group(name: str) -> str:
    """Return the nested stack that an edge is in: by its name alone, so that it never moves to another."""
    return f"Edges-{hashlib.sha256(name.encode()).hexdigest()[0]}"


class EdgeDevices(Construct):
    """A role, its alias and its policy for each LOCAL edge: its device gets credentials with its certificate."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: DeploymentSettings,
        edges: Sequence[EdgeDevice],
        landing: LandingBucket,
        artifacts: EdgeArtifacts,
        alarms: Alarms,
    ) -> None:
        super().__init__(scope, construct_id)
        for edge in edges:
            self._add(edge, settings, landing, artifacts)
            alarms.add_silence(self, edge.name)

    def _add(
        self, edge: EdgeDevice, settings: DeploymentSettings, landing: LandingBucket, artifacts: EdgeArtifacts
    ) -> None:
        device = settings.device_name(edge.name)
        name = f"{device}-GG-Role"
        policy = iam.ManagedPolicy(
            self,
            f"{edge.name}-access",
            # Greengrass's installer looks for a policy of this name, and makes a wide one where there is none.
            managed_policy_name=f"{name}Access",
            statements=[
                *edge_statements(landing, device, edge.settings),
                *artifacts.read_statements(),
                *([_log_statement()] if settings.devices.logs_to_cloudwatch else []),
            ],
        )
        role = iam.Role(
            self,
            f"{edge.name}-role",
            role_name=name,
            description=f"What the edge {device} may do",
            assumed_by=iam.ServicePrincipal("credentials.iot.amazonaws.com"),
            managed_policies=[policy],
        )
        iot.CfnRoleAlias(self, f"{edge.name}-alias", role_arn=role.role_arn, role_alias=f"{name}-Alias")
        _thing_policy(self, edge, device)


def add_devices(
    scope: Construct,
    *,
    settings: DeploymentSettings,
    landing: LandingBucket,
    artifacts: EdgeArtifacts,
    alarms: Alarms,
) -> None:
    """Add the LOCAL edges in up to sixteen nested stacks: a stack has 500 resources at most, and an edge five."""
    groups: dict[str, list[EdgeDevice]] = {}
    for edge in settings.edges:
        if edge.device_type == "LOCAL":
            groups.setdefault(edge_group(edge.name), []).append(edge)
    for name, edges in sorted(groups.items()):
        EdgeDevices(
            NestedStack(scope, name),
            "Edges",
            settings=settings,
            edges=edges,
            landing=landing,
            artifacts=artifacts,
            alarms=alarms,
        )


def _log_statement() -> iam.PolicyStatement:
    """Return what the log manager needs; its groups are the account's, and have a stream for each thing and day."""
    return iam.PolicyStatement(
        sid="Logs",
        actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
        resources=[f"arn:{Aws.PARTITION}:logs:{Aws.REGION}:{Aws.ACCOUNT_ID}:log-group:/aws/greengrass/*"],
    )


def _thing_policy(scope: Construct, edge: EdgeDevice, device: str) -> iot.CfnPolicy:
    """Make what a device's certificate may do: speak for its own thing, in Greengrass's topics only.

    Policy variables for the thing do not hold for core devices, so that each has a policy of its own.
    """
    topics = [f"$aws/things/{device}/{kind}/*" for kind in ("greengrass", "greengrassv2", "jobs", "shadow")]

    def arns(kind: str, names: list[str]) -> list[str]:
        return [_arn(scope, "iot", kind, name) for name in names]

    return iot.CfnPolicy(
        scope,
        f"{edge.name}-thing-policy",
        policy_name=f"{device}-GG-Thing",
        policy_document={
            "Version": "2012-10-17",
            "Statement": [
                # A nucleus with several connections numbers them behind a hash.
                {"Effect": "Allow", "Action": "iot:Connect", "Resource": arns("client", [device, f"{device}#*"])},
                {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": arns("topic", topics)},
                {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": arns("topicfilter", topics)},
                {
                    "Effect": "Allow",
                    "Action": [
                        "greengrass:GetComponentVersionArtifact",
                        "greengrass:GetDeploymentConfiguration",
                        "greengrass:ListThingGroupsForCoreDevice",
                        "greengrass:ResolveComponentCandidates",
                    ],
                    "Resource": "*",
                },
                # For an edge without Greengrass; with it the nucleus has a policy of its own for this.
                {
                    "Effect": "Allow",
                    "Action": "iot:AssumeRoleWithCertificate",
                    "Resource": arns("rolealias", [f"{device}-GG-Role-Alias"]),
                },
            ],
        },
    )


def _installer_role(scope: Construct, settings: DeploymentSettings) -> iam.Role:
    """Return the role that `dicomflow edge-install` makes things and certificates with, on the operator's computer.

    Whoever has its rights may become any edge of the stack (IAM knows no condition on the policy that AttachPolicy
    attaches), so that no device has them, but where Greengrass's own installer is called there by hand.

    AWS IoT Greengrass Developer Guide, "Minimal IAM policy for installer to provision resources", less what would make
    or change a role or its permissions.
    """
    prefix = f"{settings.name}-"
    role = iam.Role(
        scope,
        "Installer",
        role_name=f"{settings.name}-GGInstallerRole",
        description="Makes an edge's thing and certificate: assumed by dicomflow edge-install, and not on a device",
        assumed_by=iam.AccountRootPrincipal(),
    )
    for sid, (actions, resources) in _installer_rights(scope, prefix).items():
        role.add_to_policy(iam.PolicyStatement(sid=sid, actions=actions, resources=resources))
    role.add_to_policy(
        iam.PolicyStatement(
            sid="Attach",
            actions=["iam:AttachRolePolicy"],
            resources=[_arn(scope, "iam", "role", f"{prefix}*-GG-Role")],
            conditions={"ArnLike": {"iam:PolicyARN": _arn(scope, "iam", "policy", f"{prefix}*-GG-RoleAccess")}},
        )
    )
    return role


def _installer_rights(scope: Construct, prefix: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return by Sid the actions of an installation and what they are for: names that begin with the stack's."""
    roles = _arn(scope, "iam", "role", f"{prefix}*-GG-Role")
    policies = _arn(scope, "iam", "policy", f"{prefix}*-GG-RoleAccess")
    things = [
        _arn(scope, "iot", "thing", f"{prefix}*"),
        _arn(scope, "iot", "thinggroup", f"{prefix}IEP-devices"),
    ]
    thing_policies = [
        _arn(scope, "iot", "policy", name)
        for name in (
            f"{prefix}*-GG-Thing",
            f"GreengrassTESCertificatePolicy{prefix}*",
            "GreengrassV2IoTThingPolicy",  # the installer's own, where it is called without --thing-policy-name
        )
    ]
    return {
        "Read": (["iam:GetPolicy", "iam:GetRole"], [roles, policies, _arn(scope, "iam", "policy", "*", account="aws")]),
        "Things": (
            [
                "iot:AddThingToThingGroup",
                "iot:CreateThing",
                "iot:DescribeThing",
                "iot:DescribeThingGroup",
                "iot:ListThingPrincipals",
            ],
            things,
        ),
        "Aliases": (["iot:DescribeRoleAlias"], [_arn(scope, "iot", "rolealias", f"{prefix}*-GG-Role-Alias")]),
        "Policies": (["iot:CreatePolicy", "iot:GetPolicy"], thing_policies),
        "Certificates": (
            [
                "iot:AttachPolicy",
                "iot:AttachThingPrincipal",
                "iot:CreateKeysAndCertificate",
                "iot:DescribeEndpoint",
                "sts:GetCallerIdentity",
            ],
            ["*"],
        ),
    }


def _arn(scope: Construct, service: str, resource: str, name: str, account: str | None = None) -> str:
    """Return an ARN in the stack's region, of IAM's in none."""
    region = "" if service == "iam" else None
    components = ArnComponents(service=service, resource=resource, resource_name=name, region=region, account=account)
    return Arn.format(components, Stack.of(scope))
