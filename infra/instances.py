"""Edges on EC2: one instance each, which is replaced when it dies and finds its spool and its address again.

The spool is a volume of its own and the address an interface of its own; an instance takes both when it starts. So a
new image, a dead instance or a changed setting loses no instance that was acknowledged.
"""

from typing import Final

from aws_cdk import Arn, ArnComponents, Aws, RemovalPolicy, Size, Stack, Tags
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.artifacts import EdgeArtifacts
from infra.edges import edge_statements
from infra.functions import log_retention
from infra.landing import LandingBucket
from infra.network import Network
from infra.settings import DeploymentSettings, EdgeDevice
from infra.userdata import Surroundings, log_group_of, user_data_lines

__all__ = ["DIMSE_PORT", "EdgeInstance"]

DIMSE_PORT: Final = 11112
_PLATFORM: Final = "linux-aarch64"
_EDGE_TAG: Final = "dicomflow-edge"
_ROOT_GIB: Final = 16
_SPOOL_MIB_PER_SECOND: Final = 250


class EdgeInstance(Construct):
    """An instance in a group of one, with the edge as a systemd service."""

    def __init__(
        self,
        scope: Construct,
        edge: EdgeDevice,
        *,
        settings: DeploymentSettings,
        network: Network,
        landing: LandingBucket,
        key: kms.IKey,
        artifacts: EdgeArtifacts,
    ) -> None:
        super().__init__(scope, f"Edge-{edge.name}")
        self._device = settings.device_name(edge.name)
        subnet = network.first_subnet
        group = network.group(self, "Group", settings.network.edge_group, f"The edge {self._device}")
        for source in edge.networks or (settings.vpc_cidr,):
            group.add_ingress_rule(ec2.Peer.ipv4(str(source)), ec2.Port.tcp(DIMSE_PORT), "DIMSE")
        self.interface = ec2.CfnNetworkInterface(
            self,
            "Address",
            subnet_id=subnet.subnet_id,
            group_set=[group.security_group_id],
            description=f"Where {self._device} is reached, whichever instance it runs on",
        )
        volume = ec2.Volume(
            self,
            "Spool",
            availability_zone=subnet.availability_zone,
            size=Size.gibibytes(edge.spool_gib),
            volume_type=ec2.EbsDeviceVolumeType.GP3,
            throughput=_SPOOL_MIB_PER_SECOND,
            encrypted=True,
            encryption_key=key,
            removal_policy=RemovalPolicy.SNAPSHOT,
        )
        Tags.of(volume).add(_EDGE_TAG, self._device)
        role = self._role(edge, landing, artifacts.arn_of(_PLATFORM), key)
        if settings.devices.logs_to_cloudwatch:
            self._log(settings, role, key)
        template = self._template(edge, settings, landing, volume, artifacts.url_of(_PLATFORM), role)
        self._group_of_one(template, subnet.availability_zone)

    def _role(self, edge: EdgeDevice, landing: LandingBucket, artifact_arn: str, key: kms.IKey) -> iam.Role:
        """Return what the instance may do: what an edge may, take its volume, and be managed by Session Manager."""
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            managed_policies=[iam.ManagedPolicy.from_aws_managed_policy_name("AmazonSSMManagedInstanceCore")],
        )
        for statement in edge_statements(landing, self._device, edge.settings):
            role.add_to_policy(statement)
        role.add_to_policy(iam.PolicyStatement(sid="Artifact", actions=["s3:GetObject"], resources=[artifact_arn]))
        tagged = {"StringEquals": {f"ec2:ResourceTag/{_EDGE_TAG}": self._device}}
        own = [self._arn(kind) for kind in ("volume", "instance")]
        role.add_to_policy(
            iam.PolicyStatement(sid="Spool", actions=["ec2:AttachVolume"], resources=own, conditions=tagged)
        )
        role.add_to_policy(
            iam.PolicyStatement(
                sid="SpoolKey",
                actions=["kms:CreateGrant"],
                resources=[key.key_arn],
                conditions={
                    "StringEquals": {"kms:ViaService": f"ec2.{Aws.REGION}.amazonaws.com"},
                    "Bool": {"kms:GrantIsForAWSResource": "true"},
                },
            )
        )
        return role

    def _log(self, settings: DeploymentSettings, role: iam.Role, key: kms.IKey) -> None:
        """Make the group that the instance's CloudWatch agent writes the edge's log to."""
        group = logs.LogGroup(
            self,
            "Log",
            log_group_name=log_group_of(self._device),
            retention=log_retention(settings),
            encryption_key=key,
            removal_policy=RemovalPolicy.DESTROY,
        )
        actions = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
        role.add_to_policy(iam.PolicyStatement(sid="Log", actions=actions, resources=[group.log_group_arn]))

    def _template(
        self,
        edge: EdgeDevice,
        settings: DeploymentSettings,
        landing: LandingBucket,
        volume: ec2.IVolume,
        artifact_url: str,
        role: iam.IRole,
    ) -> ec2.LaunchTemplate:
        user_data = ec2.UserData.for_linux()
        user_data.add_commands(
            *user_data_lines(
                device=self._device,
                region=Aws.REGION,
                volume_id=volume.volume_id,
                artifact_url=artifact_url,
                store_url=landing.url,
                kms_key_id=landing.key.key_arn,
                accelerate=settings.storage.transfer_acceleration,
                port=DIMSE_PORT,
                settings=edge.settings,
                surroundings=Surroundings(settings.devices, is_fips=settings.account.fips_endpoints),
            )
        )
        root = ec2.BlockDeviceVolume.ebs(_ROOT_GIB, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3)
        template = ec2.LaunchTemplate(
            self,
            "Template",
            instance_type=ec2.InstanceType(edge.instance_type),
            machine_image=ec2.MachineImage.latest_amazon_linux2023(cpu_type=ec2.AmazonLinuxCpuType.ARM_64),
            role=role,
            user_data=user_data,
            require_imdsv2=True,
            http_put_response_hop_limit=1,
            ebs_optimized=True,
            detailed_monitoring=True,
            block_devices=[ec2.BlockDevice(device_name="/dev/xvda", volume=root)],
        )
        resource = template.node.default_child
        assert isinstance(resource, ec2.CfnLaunchTemplate)  # CDK made it
        # An interface that is there already stands in the place of subnet and security groups.
        resource.add_property_override(
            "LaunchTemplateData.NetworkInterfaces",
            [{"DeviceIndex": 0, "NetworkInterfaceId": self.interface.attr_id}],
        )
        resource.add_property_deletion_override("LaunchTemplateData.SecurityGroupIds")
        return template

    def _group_of_one(self, template: ec2.LaunchTemplate, zone: str) -> autoscaling.CfnAutoScalingGroup:
        """Keep one instance running, in the zone of its volume and interface."""
        return autoscaling.CfnAutoScalingGroup(
            self,
            "Instances",
            min_size="0",  # a replacement can take volume and interface only when the old instance is gone
            max_size="1",
            desired_capacity="1",
            availability_zones=[zone],
            launch_template=autoscaling.CfnAutoScalingGroup.LaunchTemplateSpecificationProperty(
                launch_template_id=template.launch_template_id, version=template.latest_version_number
            ),
            health_check_type="EC2",
            health_check_grace_period=300,
            tags=[
                autoscaling.CfnAutoScalingGroup.TagPropertyProperty(key=key, value=value, propagate_at_launch=True)
                for key, value in ((_EDGE_TAG, self._device), ("Name", self._device))
            ],
        )

    def _arn(self, resource: str) -> str:
        return Arn.format(ArnComponents(service="ec2", resource=resource, resource_name="*"), Stack.of(self))
