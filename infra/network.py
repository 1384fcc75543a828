"""The VPC: the catalog in subnets without a way out, functions and edges in private ones.

AWS's services are reached through a gateway endpoint (S3) and a NAT gateway, or through interface endpoints alone.
"""

from typing import Final

from aws_cdk import RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.functions import log_retention
from infra.settings import DeploymentSettings

__all__ = ["Network"]

_HTTPS: Final = 443
_AZS: Final = 2  # Aurora wants subnets in two


class Network(Construct):
    """VPC, endpoints and flow log; `functions` is where functions and edges run, `database` where the catalog does."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: DeploymentSettings, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        is_private = settings.network.private_endpoints
        inside = ec2.SubnetType.PRIVATE_ISOLATED if is_private else ec2.SubnetType.PRIVATE_WITH_EGRESS
        subnets = [
            ec2.SubnetConfiguration(name="functions", subnet_type=inside),
            ec2.SubnetConfiguration(name="database", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
        ]
        if not is_private:
            public = ec2.SubnetConfiguration(
                name="gateway", subnet_type=ec2.SubnetType.PUBLIC, map_public_ip_on_launch=False
            )
            subnets.append(public)
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(str(settings.vpc_cidr)),
            max_azs=_AZS,
            nat_gateways=0 if is_private else 1,
            restrict_default_security_group=False,  # by a function of CDK's; nothing of ours is in that group
            subnet_configuration=subnets,
            gateway_endpoints={"S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)},
        )
        self.functions = ec2.SubnetSelection(subnet_group_name="functions")
        self.database = ec2.SubnetSelection(subnet_group_name="database")
        self.function_group = ec2.SecurityGroup(
            self, "FunctionGroup", vpc=self.vpc, description="Functions of the pipeline", allow_all_outbound=True
        )
        self._log_flows(settings, key)
        if is_private:
            self._add_endpoints(settings)

    def _log_flows(self, settings: DeploymentSettings, key: kms.IKey) -> None:
        group = logs.LogGroup(
            self,
            "FlowLog",
            retention=log_retention(settings),
            encryption_key=key,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        role = iam.Role(self, "FlowLogRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"))
        ec2.FlowLog(
            self,
            "Flows",
            resource_type=ec2.FlowLogResourceType.from_vpc(self.vpc),
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group, role),
            traffic_type=ec2.FlowLogTrafficType.ALL,
        )

    def _add_endpoints(self, settings: DeploymentSettings) -> None:
        """Let the VPC reach exactly the services that are called from it."""
        service = ec2.InterfaceVpcEndpointAwsService
        services = {"Sqs": service.SQS, "SecretsManager": service.SECRETS_MANAGER}
        if settings.imports.ahli_enabled:
            services |= {
                "HealthImaging": service.HEALTH_IMAGING,
                "HealthImagingRuntime": service.HEALTH_IMAGING_RUNTIME,
            }
        if any(edge.device_type == "EC2" for edge in settings.edges):
            services |= {"Ec2": service.EC2, "Ssm": service.SSM, "SsmMessages": service.SSM_MESSAGES}
        group = ec2.SecurityGroup(
            self, "EndpointGroup", vpc=self.vpc, description="Endpoints of AWS services", allow_all_outbound=False
        )
        group.add_ingress_rule(ec2.Peer.ipv4(str(settings.vpc_cidr)), ec2.Port.tcp(_HTTPS), "From the VPC")
        for name, endpoint in services.items():
            self.vpc.add_interface_endpoint(
                name, service=endpoint, subnets=self.functions, security_groups=[group], open=False
            )
