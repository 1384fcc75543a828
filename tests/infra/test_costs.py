"""Costs: the page is what its prices say, and everything that the template makes and AWS charges for is in it."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infra import costs

ROOT = Path(__file__).resolve().parents[2]
# Types that AWS charges nothing for by themselves.
FREE = {
    "AWS::CloudFormation::Stack",
    "AWS::EC2::EgressOnlyInternetGateway",
    "AWS::EC2::InternetGateway",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::Route",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::Subnet",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPC",
    "AWS::EC2::VPCCidrBlock",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::Events::Rule",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Policy",
    "AWS::IAM::Role",
    "AWS::IoT::Policy",
    "AWS::IoT::RoleAlias",
    "AWS::IoT::ThingGroup",
    "AWS::KMS::Alias",
    "AWS::Lambda::Permission",
    "AWS::RDS::DBClusterParameterGroup",
    "AWS::RDS::DBSubnetGroup",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SecretsManager::SecretTargetAttachment",
}


def test_page_is_what_the_prices_say():
    """docs/costs.md is made, and made anew when a price changes."""
    assert costs.page(costs.load_prices()) == (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")


def test_every_type_of_the_template_is_priced_or_free(template: Any, small: Any, adopted: Any):
    """A resource of a new type stops here until its price is known; none is priced twice."""
    priced = [name for item in costs.load_prices().items for name in item["types"]]
    assert len(priced) == len(set(priced))
    assert not FREE & set(priced)
    made = {each["Type"] for found in (template, small, adopted) for each in found.all_resources.values()}
    assert set() == made - FREE - set(priced)


def test_what_idles_is_counted_as_the_template_has_it(adopted: Any):
    """Of what is charged by the piece; the deployment of the tests has no edge, and the page's has one."""
    made = Counter(each["Type"] for each in adopted.all_resources.values())
    idle = {name: item["idle"] for item in costs.load_prices().items for name in item["types"]}
    assert idle["AWS::CloudWatch::Alarm"] == made["AWS::CloudWatch::Alarm"] + 1
    for kind in ("AWS::KMS::Key", "AWS::SecretsManager::Secret"):
        assert idle[kind] == made[kind]
    assert 0 == idle["AWS::EC2::NatGateway"] == made["AWS::EC2::NatGateway"]


def test_idle_deployment_is_below_ten_dollars():
    """Fifteen where nothing may leave the VPC; by the page's own prices."""
    prices = costs.load_prices()
    assert costs.idle(prices) < 10
    assert costs.idle(prices, endpoint=1) < 15 + 1e-9


def test_fips_endpoints_have_the_gateway_that_the_page_charges(monkeypatch: pytest.MonkeyPatch):
    """In a VPC of the stack's own; `scripts/deploy` says the same price before anything is made."""
    from infra.app import use_packaged_node

    monkeypatch.setenv("PATH", os.environ["PATH"])  # put back after it was changed
    use_packaged_node()
    from aws_cdk import Stack, assertions
    from aws_cdk import aws_kms as kms

    from infra.network import Network
    from infra.settings import load_deployment

    given = {"CDK_APP_NAME": "iep", "VPC_CIDR": "10.10.0.0/22", "EDGE_CONFIG": []}
    for is_fips in (True, False):
        stack = Stack()
        settings = load_deployment({**given, "ACCOUNT_CONFIG": {"fips_endpoints": is_fips}})
        Network(stack, "Network", settings=settings, key=kms.Key(stack, "Key"))
        assertions.Template.from_stack(stack).resource_count_is("AWS::EC2::NatGateway", int(is_fips))
    prices = costs.load_prices()
    assert 36.5 == round(costs.idle(prices, nat=1) - costs.idle(prices), 2)
    assert "NAT gateway, at 36.50 USD" in (ROOT / "infra" / "deploy.py").read_text(encoding="utf-8")


def test_archive_halves_the_copy_after_a_year():
    """The lifecycle rule pays: at 200 GB a day the copy of month 12 is below half of what it was."""
    prices = costs.load_prices()
    copies = [costs.month(prices, 200, 24, 2, 12, archived=archived)["copy in S3"] for archived in (True, False)]
    assert copies[0] < copies[1] / 2
