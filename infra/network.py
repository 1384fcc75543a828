"""The VPC: the catalog in subnets without a way out, functions and edges in private ones.

Functions reach S3 through a gateway endpoint, and Lambda and SQS by IPv6 through an egress-only gateway, which costs
nothing; what has no IPv6 they reach through a function outside. With `private_endpoints` nothing leaves the VPC but by
endpoints. Only an edge on EC2 and FIPS endpoints need a NAT gateway. A VPC that is there is taken as it is.
"""

from collections.abc import Mapping
from typing import Final

from aws_cdk import Aws, RemovalPolicy
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
_SUBNET_BITS: Final = 3  # of the VPC's addresses each subnet has an eighth, whichever there are


class Network(Construct):
    """VPC, endpoints and flow log; `functions` is where functions and edges run, `database` where the catalog does.

    `environment` is what a function needs to find AWS's services from there.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: DeploymentSettings, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self._is_private = settings.network.private_endpoints
        self._config = settings.network
        self._is_fips = settings.account.fips_endpoints
        if self._config.vpc_id:
            self.vpc = self._take_vpc(settings)
            self.functions = self._take_subnets("Functions", self._config.function_subnets)
            self.database = self._take_subnets("Database", self._config.database_subnets)
        else:
            has_instances = any(edge.device_type == "EC2" for edge in settings.edges)
            # FIPS endpoints are called by IPv4.
            has_nat = (has_instances or self._is_fips) and not self._is_private
            self.vpc = self._make_vpc(settings, has_nat=has_nat)
            self.functions = ec2.SubnetSelection(subnet_group_name="functions")
            self.database = ec2.SubnetSelection(subnet_group_name="database")
        self.function_group = self.group(
            self, "FunctionGroup", self._config.function_group, "Functions of the pipeline", by_ipv6=True
        )
        if not self._config.vpc_id:
            self._log_flows(settings, key)
            if self._is_private:
                self._add_endpoints(settings, with_instances=has_instances)

    @property
    def is_own(self) -> bool:
        """Whether the VPC is the stack's: it has IPv6 then."""
        return not self._config.vpc_id

    @property
    def first_subnet(self) -> ec2.ISubnet:
        """Where an edge on EC2 lives."""
        return self.vpc.select_subnets(
            subnet_group_name=self.functions.subnet_group_name, subnets=self.functions.subnets
        ).subnets[0]

    def group(
        self,
        scope: Construct,
        name: str,
        given: str,
        description: str,
        *,
        calls_out: bool = True,
        by_ipv6: bool = False,
    ) -> ec2.ISecurityGroup:
        """Return a security group that is there, whose rules are its owner's, or make one."""
        if given:
            return ec2.SecurityGroup.from_security_group_id(scope, name, given, mutable=False)
        return ec2.SecurityGroup(
            scope,
            name,
            vpc=self.vpc,
            description=description,
            allow_all_outbound=calls_out,
            allow_all_ipv6_outbound=(by_ipv6 and self.is_own) or None,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Where Lambda and SQS are by IPv6; elsewhere than in a VPC of the stack's own they have their usual names."""
        if self._is_private or self._is_fips or not self.is_own:
            return {}
        hosts = ("lambda", "sqs")
        return {f"AWS_ENDPOINT_URL_{host.upper()}": f"https://{host}.{Aws.REGION}.api.aws" for host in hosts}

    def _take_vpc(self, settings: DeploymentSettings) -> ec2.IVpc:
        """Take the VPC that is there, without a look at it: synthesis needs no credentials."""
        return ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=self._config.vpc_id,
            vpc_cidr_block=str(settings.vpc_cidr),
            availability_zones=sorted({*self._config.function_subnets, *self._config.database_subnets}),
        )

    def _take_subnets(self, name: str, given: Mapping[str, str]) -> ec2.SubnetSelection:
        subnets: list[ec2.ISubnet] = [
            ec2.Subnet.from_subnet_attributes(self, f"{name}-{zone}", subnet_id=subnet, availability_zone=zone)
            for zone, subnet in sorted(given.items())
        ]
        return ec2.SubnetSelection(subnets=subnets)

    def _make_vpc(self, settings: DeploymentSettings, *, has_nat: bool) -> ec2.Vpc:
        """Make the VPC; each subnet has its addresses whichever others there are, so that all can be switched later."""
        mask = settings.vpc_cidr.prefixlen + _SUBNET_BITS
        inside = ec2.SubnetType.PRIVATE_ISOLATED if self._is_private else ec2.SubnetType.PRIVATE_WITH_EGRESS
        isolated = ec2.SubnetType.PRIVATE_ISOLATED
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_protocol=ec2.IpProtocol.DUAL_STACK,
            ip_addresses=ec2.IpAddresses.cidr(str(settings.vpc_cidr)),
            availability_zones=list(settings.network.zones) or None,
            max_azs=None if settings.network.zones else _AZS,
            nat_gateways=1 if has_nat else 0,
            restrict_default_security_group=False,  # by a function of CDK's; nothing of ours is in that group
            subnet_configuration=[
                ec2.SubnetConfiguration(name="functions", subnet_type=inside, cidr_mask=mask),
                ec2.SubnetConfiguration(
                    name="database", subnet_type=isolated, cidr_mask=mask, ipv6_assign_address_on_creation=False
                ),
                ec2.SubnetConfiguration(
                    name="gateway",
                    subnet_type=ec2.SubnetType.PUBLIC,
                    cidr_mask=mask,
                    reserved=not has_nat,
                    map_public_ip_on_launch=False if has_nat else None,
                    ipv6_assign_address_on_creation=False,
                ),
            ],
            gateway_endpoints={"S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)},
        )
        if not has_nat:
            # The CDK makes gateways for IPv6, though nothing is routed there.
            for name in ("IGW", "VPCGW", *(("EIGW6",) if self._is_private else ())):
                vpc.node.try_remove_child(name)
        return vpc

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

    def _add_endpoints(self, settings: DeploymentSettings, *, with_instances: bool) -> None:
        """Let functions reach Lambda, in one zone, which they ask for all else; and edges on EC2 what starts them."""
        service = ec2.InterfaceVpcEndpointAwsService
        group = ec2.SecurityGroup(
            self, "EndpointGroup", vpc=self.vpc, description="Endpoints of AWS services", allow_all_outbound=False
        )
        group.add_ingress_rule(ec2.Peer.ipv4(str(settings.vpc_cidr)), ec2.Port.tcp(_HTTPS), "From the VPC")
        first = ec2.SubnetSelection(subnets=[self.vpc.select_subnets(subnet_group_name="functions").subnets[0]])
        services = {"Lambda": service.LAMBDA_}
        if with_instances:
            services |= {"Ec2": service.EC2, "Ssm": service.SSM, "SsmMessages": service.SSM_MESSAGES}
            if settings.devices.logs_to_cloudwatch:
                services["Logs"] = service.CLOUDWATCH_LOGS
        for name, endpoint in services.items():
            self.vpc.add_interface_endpoint(name, service=endpoint, subnets=first, security_groups=[group], open=False)
