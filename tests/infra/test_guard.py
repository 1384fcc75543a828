"""The guard: a deployment that would replace or remove what holds images is refused, and any other is not."""

import copy
import json
from typing import Any

import pytest

from infra import guard

# The names that deployed stacks know these resources by: a change of name is a removal and a new, empty resource.
KEPT = {
    "DataKey17AFBB84": "AWS::KMS::Key",
    "HealthImagingDatastore016135FD": "AWS::HealthImaging::Datastore",
    "IEPAuroraiepauroradb9D6DE912": "AWS::RDS::DBCluster",
    "IEPAuroraiepauroradbWriter5BDC44D4": "AWS::RDS::DBInstance",
    "NetworkVpc7FB7348F": "AWS::EC2::VPC",
    "NetworkVpcdatabaseSubnet1Subnet20641EE5": "AWS::EC2::Subnet",
    "NetworkVpcdatabaseSubnet2Subnet8C27A689": "AWS::EC2::Subnet",
    "NetworkVpcfunctionsSubnet1Subnet69B26775": "AWS::EC2::Subnet",
    "NetworkVpcfunctionsSubnet2Subnet18ED697E": "AWS::EC2::Subnet",
    "iepbucketsiepaccesslogAD935802": "AWS::S3::Bucket",
    "iepbucketsiepdicombucket099ABA18": "AWS::S3::Bucket",
}


def resource(template: dict[str, Any], kind: str, name: str = "") -> dict[str, Any]:
    """Give the first resource of a type whose name holds some text."""
    found: dict[str, Any] = next(
        each for key, each in template["Resources"].items() if each["Type"] == kind and name in key
    )
    return found


@pytest.fixture
def old(template: Any) -> dict[str, Any]:
    """Give a deployed template that may be changed."""
    return copy.deepcopy(template.document)


def test_protected_resources_keep_their_names(template: Any):
    """Each is in the template under the name that deployed stacks know it by."""
    assert KEPT == {name: kind for name, kind in guard.protected_ids(template.document).items() if "Edge" not in name}


@pytest.mark.parametrize(
    ("kind", "name", "change", "words"),
    [
        ("AWS::HealthImaging::Datastore", "", {"Tags": {"a": "b"}}, "the tags the data store was made with"),
        ("AWS::HealthImaging::Datastore", "", {"KmsKeyArn": "x"}, "kms_key_arn in STORAGE_CONFIG"),
        ("AWS::RDS::DBCluster", "", {"DatabaseName": "x"}, "db_name in DB_CONFIG"),
        ("AWS::RDS::DBCluster", "", {"KmsKeyId": "x"}, "kms_key_arn in STORAGE_CONFIG"),
        ("AWS::EC2::VPC", "", {"CidrBlock": "10.9.0.0/22"}, "VPC_CIDR"),
        ("AWS::EC2::Subnet", "database", {"CidrBlock": "10.9.0.0/25"}, "VPC_CIDR"),
        ("AWS::EC2::Subnet", "functions", {"AvailabilityZone": "x"}, "AvailabilityZone"),
        ("AWS::S3::Bucket", "dicom", {"BucketName": "x"}, "BucketName"),
        ("AWS::EC2::NetworkInterface", "", {"SubnetId": "x"}, "SubnetId"),
        ("AWS::EC2::Volume", "", {"AvailabilityZone": "x"}, "AvailabilityZone"),
    ],
    ids=["tags", "store-key", "database", "cluster-key", "network", "subnet", "zone", "bucket", "address", "volume"],
)
def test_replacement_of_what_holds_images_is_refused(
    old: dict[str, Any], template: Any, kind: str, name: str, change: dict[str, Any], words: str
):
    """By each property with which CloudFormation replaces it, with the parameter of config.py where there is one."""
    resource(old, kind, name)["Properties"].update(change)
    lines = guard.refused_changes(old, template.document)
    assert any(guard.PROTECTED[kind] in line and words in line for line in lines), lines


def test_replacement_is_followed_to_what_refers_to_it(old: dict[str, Any], template: Any):
    """A replaced network takes its subnets along, and those the address of an EC2 edge."""
    resource(old, "AWS::EC2::VPC")["Properties"]["CidrBlock"] = "10.9.0.0/22"
    text = "\n".join(guard.refused_changes(old, template.document))
    for kind in ("AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::NetworkInterface"):
        assert guard.PROTECTED[kind] in text


def test_what_a_replaced_resource_takes_along_blames_that_resource(old: dict[str, Any], template: Any):
    """Another key replaces catalog and engine: of the engine no parameter of its own is named."""
    resource(old, "AWS::RDS::DBCluster")["Properties"]["KmsKeyId"] = "x"
    (engine,) = [line for line in guard.refused_changes(old, template.document) if "the catalog's engine" in line]
    assert engine.endswith("would be replaced, for IEPAuroraiepauroradb9D6DE912 would be")


def test_every_removal_by_a_parameter_names_it(template: Any, zoned: Any):
    """Of what a change of config.py can take out, whichever it is."""
    kept = {"AWS::S3::Bucket", "AWS::RDS::DBCluster", "AWS::RDS::DBInstance"}  # in every template
    assert guard.PROTECTED.keys() - kept == guard._REMOVED_BY.keys()
    lines = guard.refused_changes(template.document, zoned.document)
    assert any("the network (NetworkVpc7FB7348F) would be removed from the stack: vpc_id" in line for line in lines)


def test_removal_is_refused_unless_it_is_allowed(template: Any):
    """A resource that is not in the new template any more goes only by name."""
    new = copy.deepcopy(template.document)
    del new["Resources"]["HealthImagingDatastore016135FD"]
    expected = (
        "the data store with its images (HealthImagingDatastore016135FD) would be removed from the stack:"
        " datastore_id in AHLI_CONFIG; it stays in the account as it is"
    )
    assert [expected] == guard.refused_changes(template.document, new)
    assert [] == guard.refused_changes(template.document, new, ["HealthImagingDatastore016135FD"])


def test_catalog_never_leaves_its_subnets(old: dict[str, Any], template: Any, zoned: Any):
    """Its group of subnets changes in place, so that RDS would refuse it half-way; more subnets are no move."""
    lines = "\n".join(guard.refused_changes(template.document, zoned.document))
    for words in (
        "the network (NetworkVpc7FB7348F) would be removed",
        "would leave its subnets: vpc_id or database_sub",
    ):
        assert words in lines
    assert "would leave its subnets" in "\n".join(guard.refused_changes(zoned.document, template.document))
    resource(old, "AWS::RDS::DBSubnetGroup")["Properties"]["SubnetIds"].pop()
    assert [] == guard.refused_changes(old, template.document)


def test_change_in_place_is_not_refused(old: dict[str, Any], template: Any):
    """Capacity, rules, an added IPv6 block and the replacement of what holds nothing pass."""
    resource(old, "AWS::RDS::DBCluster")["Properties"]["DeletionProtection"] = False
    resource(old, "AWS::S3::Bucket", "dicom")["Properties"].pop("LifecycleConfiguration")
    resource(old, "AWS::EC2::Subnet", "functions")["Properties"].pop("Ipv6CidrBlock", None)
    resource(old, "AWS::Budgets::Budget")["Properties"]["Budget"]["BudgetName"] = "x"
    assert [] == guard.refused_changes(old, template.document)


def test_stack_policy_denies_replacement_and_deletion_of_what_is_protected(template: Any):
    """CloudFormation itself refuses them, whoever asks; what a deployment may let go is left out by name."""
    allow, deny = json.loads(guard.stack_policy(template.document))["Statement"]
    assert ("Allow", "Update:*", "*") == (allow["Effect"], allow["Action"], allow["Resource"])
    assert ["Update:Replace", "Update:Delete"] == deny["Action"]
    assert {f"LogicalResourceId/{name}" for name in guard.protected_ids(template.document)} == set(deny["Resource"])
    left = json.loads(guard.stack_policy(template.document, ["NetworkVpc7FB7348F"]))["Statement"][1]["Resource"]
    assert "LogicalResourceId/NetworkVpc7FB7348F" not in left
