"""A deployment into an account with rules of its own: what the stack makes there, and what it leaves to others."""

import json
from typing import Any


def told(template: Any, component: str) -> tuple[str, dict[str, Any]]:
    """Give the version of one of AWS's own components in the deployment, and what is merged into its configuration."""
    found = template.one("AWS::GreengrassV2::Deployment")["Components"][component]
    merge = found["ConfigurationUpdate"]["Merge"]
    parts = merge["Fn::Join"][1] if isinstance(merge, dict) else [merge]
    return found["ComponentVersion"], json.loads("".join(part if isinstance(part, str) else "REGION" for part in parts))


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
    assert 9 == len(inside)
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
    assert ["arn:aws:iam::123456789012:policy/Limit"] * 16 == found
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
    assert "\\nAWS_USE_FIPS_ENDPOINT=true\\n" in user_data
    assert "https://s3-fips." in json.dumps(zoned.one("AWS::GreengrassV2::Deployment"))
    (rule,) = zoned.document["Rules"]["HealthImagingRegion"]["Assertions"]
    assert [["us-east-1", "us-west-2"], {"Ref": "AWS::Region"}] == rule["Assert"]["Fn::Contains"]
    assert "FIPS" not in json.dumps([template.document, *template.nested])


def test_nucleus_is_told_of_proxy_port_and_fips_endpoints(zoned: Any, template: Any):
    """By each deployment, in the keys that AWS documents; without any of these the nucleus is left as it is."""
    version, configuration = told(zoned, "aws.greengrass.Nucleus")
    assert "2.18.2" == version
    assert {
        "networkProxy": {
            "noProxyAddresses": "localhost,127.0.0.1,s3-fips.us-east-1.amazonaws.com,10.0.0.0/8",
            "proxy": {"url": "http://proxy.example.org:3128"},
        },
        "mqtt": {"port": 443},
        "greengrassDataPlanePort": 443,
        "fipsMode": "true",
        "iotDataEndpoint": "data.iot-fips.REGION.amazonaws.com",
        "iotCredEndpoint": "data.credentials.iot-fips.REGION.amazonaws.com",
        "greengrassDataPlaneEndpoint": "iotdata",
    } == configuration
    assert {"DIMSEtoS3"} == template.one("AWS::GreengrassV2::Deployment")["Components"].keys()


def test_edge_logs_go_to_cloudwatch_where_config_says_so(zoned: Any, template: Any):
    """The log manager has the edge's log and the nucleus's, its role may write Greengrass's groups; else neither."""
    version, configuration = told(zoned, "aws.greengrass.LogManager")
    assert "2.3.11" == version
    uploader = configuration["logsUploaderConfiguration"]
    assert ["DIMSEtoS3"] == list(uploader["componentLogsConfigurationMap"])
    assert "true" == uploader["systemLogsConfiguration"]["uploadToCloudWatch"]
    statement = zoned.statements("Edgesedge1access")["Logs"]
    assert statement["Resource"]["Fn::Join"][1][-1].endswith(":log-group:/aws/greengrass/*")
    assert "Logs" not in template.statements("Edgesedge1access")


def test_log_of_an_instance_goes_to_a_group_of_the_stacks_own(zoned: Any, template: Any):
    """Encrypted and kept as all logs are; the instance writes there and nowhere else, and only where config says so."""
    group = zoned.one("AWS::Logs::LogGroup", LogGroupName="/dicomflow/iep-edge-2")
    assert 365 == group["RetentionInDays"]
    assert "KmsKeyId" in group
    statement = zoned.statements("Edgeedge2Role")["Log"]
    assert {"logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"} == set(statement["Action"])
    (arn,) = [statement["Resource"]] if isinstance(statement["Resource"], dict) else statement["Resource"]
    assert "Edgeedge2Log" in json.dumps(arn)
    assert "Log" not in template.statements("Edgeedge2Role")
    assert "amazon-cloudwatch-agent" not in json.dumps(template.one("AWS::EC2::LaunchTemplate"))
