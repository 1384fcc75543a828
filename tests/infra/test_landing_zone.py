"""A deployment into an account with rules of its own: what the stack makes there, and what it leaves to others."""

import json
from typing import Any


def test_device_may_take_the_role_of_its_own_edge_only(template: Any):
    """Its certificate is enough for credentials, without Greengrass too, and for no other edge's."""
    policy = template.one("AWS::IoT::Policy", PolicyName="iep-edge-1-GG-Thing")["PolicyDocument"]
    (statement,) = [each for each in policy["Statement"] if each["Action"] == "iot:AssumeRoleWithCertificate"]
    (alias,) = statement["Resource"]
    assert ":rolealias/iep-edge-1-GG-Role-Alias" == alias["Fn::Join"][1][-1]
    assert template.one("AWS::IoT::RoleAlias", RoleAlias="iep-edge-1-GG-Role-Alias")


def test_network_that_is_there_is_taken_as_it_is(zoned: Any):
    """Nothing of the network is made, and each thing is where config.py says; IPv6 is not counted on."""
    made = {each["Type"] for each in zoned.all_resources.values() if each["Type"].startswith("AWS::EC2::")}
    assert {"AWS::EC2::LaunchTemplate", "AWS::EC2::NetworkInterface", "AWS::EC2::Volume"} == made
    subnets = [f"subnet-0123456789abcdef{number}" for number in range(4)]
    inside = [each for each in zoned.resources("AWS::Lambda::Function").values() if "VpcConfig" in each]
    assert 8 == len(inside)
    for function in inside:
        assert {"SecurityGroupIds": ["sg-0123456789abcdef0"], "SubnetIds": subnets[:2]} == function["VpcConfig"]
        assert "AWS_ENDPOINT_URL_SQS" not in function["Environment"]["Variables"]
    assert subnets[2:] == zoned.one("AWS::RDS::DBSubnetGroup")["SubnetIds"]
    assert ["sg-0123456789abcdef1"] == zoned.one("AWS::RDS::DBCluster")["VpcSecurityGroupIds"]
    address = zoned.one("AWS::EC2::NetworkInterface")
    assert (subnets[0], ["sg-0123456789abcdef2"]) == (address["SubnetId"], address["GroupSet"])
    assert "us-east-1a" == zoned.one("AWS::EC2::Volume")["AvailabilityZone"]


def test_network_that_is_there_is_not_looked_up(zoned: Any):
    """The assembly asks for nothing, so that its synthesis needs no credentials."""
    manifest = json.loads((zoned.paths[0].parent / "manifest.json").read_text(encoding="utf-8"))
    assert [] == manifest.get("missing", [])


def test_every_role_has_the_boundary(zoned: Any, template: Any):
    """Those of the CDK's own functions and of nested stacks too; without a boundary none."""
    found = [each.get("PermissionsBoundary") for each in zoned.resources("AWS::IAM::Role").values()]
    assert ["arn:aws:iam::123456789012:policy/Limit"] * 15 == found
    assert not any("PermissionsBoundary" in each for each in template.resources("AWS::IAM::Role").values())


def test_qualifier_names_the_bootstrap(zoned: Any):
    """Its version is asked of the account's own bootstrap, and edges may read its bucket alone."""
    assert "/cdk-bootstrap/hosp1/version" == zoned.document["Parameters"]["BootstrapVersion"]["Default"]
    text = json.dumps([zoned.document, *zoned.nested])
    assert "cdk-hosp1-assets-" in text
    assert "cdk-hnb659fds" not in text


def test_fips_endpoints_are_called_by_functions_and_edges(zoned: Any, template: Any):
    """By the variable that boto3 and our stores hear; a component's S3 endpoint is named."""
    for function in zoned.resources("AWS::Lambda::Function").values():
        if "provider" not in function.get("Description", "").lower() and "FunctionName" in function:
            assert "true" == function["Environment"]["Variables"]["AWS_USE_FIPS_ENDPOINT"]
    user_data = json.dumps(zoned.one("AWS::EC2::LaunchTemplate"))
    assert "echo AWS_USE_FIPS_ENDPOINT=true >>/etc/dicomflow/environment" in user_data
    assert "https://s3-fips." in json.dumps(zoned.one("AWS::GreengrassV2::Deployment"))
    (rule,) = zoned.document["Rules"]["HealthImagingRegion"]["Assertions"]
    assert [["us-east-1", "us-west-2"], {"Ref": "AWS::Region"}] == rule["Assert"]["Fn::Contains"]
    assert "FIPS" not in json.dumps([template.document, *template.nested])
