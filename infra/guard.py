"""What a deployment may never replace or remove: what holds images, and what its place depends on.

CloudFormation replaces a resource when a create-only property of its type changes; the types' published schemas, which
come with cfn-lint, say which those are. Three guards use what stands here: a comparison of templates before a
deployment, a stack policy in AWS, and a test that every protected resource keeps its name. Calls nobody.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

__all__ = ["PROTECTED", "protected_ids", "refused_changes", "stack_policy"]

PROTECTED: Final = {
    "AWS::EC2::NetworkInterface": "the address of an EC2 edge",
    "AWS::EC2::Subnet": "the subnets of functions and database",
    "AWS::EC2::VPC": "the network",
    "AWS::EC2::Volume": "the spool of an EC2 edge",
    "AWS::HealthImaging::Datastore": "the data store with its images",
    "AWS::KMS::Key": "the key without which nothing can be read",
    "AWS::RDS::DBCluster": "the catalog",
    "AWS::RDS::DBInstance": "the catalog's engine",
    "AWS::S3::Bucket": "the bucket with its images",
}
"""Types whose replacement or removal is refused, and what they are to a reader."""

_SUBNET_GROUP: Final = "AWS::RDS::DBSubnetGroup"
_FREE_SUBNETS: Final = "gatewaySubnet"
"""The public pair, in which nothing of ours lives but a NAT gateway."""
_UNLISTED: Final = {
    # The schema lists none, and EC2 changes none of these on a volume that is there.
    "AWS::EC2::Volume": ("/properties/AvailabilityZone", "/properties/Encrypted", "/properties/KmsKeyId"),
}
_ADDED_IN_PLACE: Final = frozenset({("AWS::EC2::Subnet", "/properties/Ipv6CidrBlock")})
"""Create-only on a condition, and added to a resource without it in place."""
_PARAMETERS: Final = {
    "CidrBlock": "VPC_CIDR",
    "AvailabilityZone": "zones or function_subnets in NETWORK_CONFIG",
    "DBClusterIdentifier": "CDK_APP_NAME",
    "DatabaseName": "db_name in DB_CONFIG",
    "DatastoreName": "CDK_APP_NAME",
    "KmsKeyArn": "kms_key_arn in STORAGE_CONFIG",
    "KmsKeyId": "kms_key_arn in STORAGE_CONFIG",
    "SubnetId": "function_subnets in NETWORK_CONFIG",
    "Tags": "the tags the data store was made with",
}
"""Where a value comes from, for the reader of a refusal."""
_REMOVED_BY: Final = {
    "AWS::EC2::NetworkInterface": "an EC2 edge of EDGE_CONFIG",
    "AWS::EC2::Subnet": "vpc_id in NETWORK_CONFIG",
    "AWS::EC2::VPC": "vpc_id in NETWORK_CONFIG",
    "AWS::EC2::Volume": "an EC2 edge of EDGE_CONFIG",
    "AWS::HealthImaging::Datastore": "datastore_id in AHLI_CONFIG",
    "AWS::KMS::Key": "kms_key_arn in STORAGE_CONFIG",
}
"""What takes a resource out of the template, for the same reader."""
_RETAINED: Final = frozenset({"Retain", "RetainExceptOnCreate"})

Template = Mapping[str, Any]


def protected_ids(template: Template) -> dict[str, str]:
    """Return the type of each protected resource of a template, by logical id."""
    return {
        name: each["Type"]
        for name, each in sorted(template["Resources"].items())
        if each["Type"] in PROTECTED and _FREE_SUBNETS not in name
    }


def refused_changes(old: Template, new: Template, allowed: Collection[str] = ()) -> list[str]:
    """Return a line for each protected resource that a deployment would replace or remove.

    Args:
        old: the template that is deployed.
        new: the one that would be.
        allowed: logical ids that may go.
    """
    replaced = _replaced(old["Resources"], new["Resources"])
    lines = []
    for name, kind in protected_ids(old).items():
        if name in allowed:
            continue
        what = f"{PROTECTED[kind]} ({name})"
        if name not in new["Resources"]:
            lines.append(f"{what} would be removed from the stack{_why_removed(old['Resources'][name])}")
        elif name in replaced:
            lines.append(f"{what} would be replaced, for {replaced[name]}")
    return [*lines, *_moved(old["Resources"], new["Resources"], allowed)]


def stack_policy(template: Template, allowed: Collection[str] = ()) -> str:
    """Return the policy that lets CloudFormation update everything, and replace or delete nothing that is protected."""
    ids = [name for name in protected_ids(template) if name not in allowed]
    statements: list[dict[str, object]] = [{"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"}]
    if ids:
        statements.append(
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["Update:Replace", "Update:Delete"],
                "Resource": [f"LogicalResourceId/{name}" for name in ids],
            }
        )
    return json.dumps({"Statement": statements})


def _why_removed(resource: Mapping[str, Any]) -> str:
    """Return which parameter takes a resource out, and whether it stays in the account."""
    source = _REMOVED_BY.get(resource["Type"])
    stays = "; it stays in the account as it is" if resource.get("DeletionPolicy") in _RETAINED else ""
    return (f": {source}" if source else "") + stays


def _moved(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Collection[str]) -> list[str]:
    """Return a line where the catalog would leave a subnet: its group changes in place, and RDS refuses it half-way."""
    lines = []
    for name, group in old.items():
        if group["Type"] == _SUBNET_GROUP and name in new and name not in allowed:
            before, after = (each["Properties"]["SubnetIds"] for each in (group, new[name]))
            if any(subnet not in after for subnet in before):
                lines.append(
                    f"the catalog ({name}) would leave its subnets: vpc_id or database_subnets in NETWORK_CONFIG"
                )
    return lines


def _replaced(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return why each resource would be replaced, by logical id: through what it refers to as well."""
    replaced: dict[str, str] = {}
    while True:
        found = {
            name: reason
            for name in old.keys() & new.keys() - replaced.keys()
            if (reason := _reason(old[name], new[name], replaced)) is not None
        }
        if not found:
            return replaced
        replaced |= found


def _reason(old: Mapping[str, Any], new: Mapping[str, Any], replaced: Collection[str]) -> str | None:
    """Return for what a resource would be replaced: a property of its own, or something that it is made of."""
    if old["Type"] != new["Type"]:
        return "its Type changes"
    for path in _create_only(old["Type"]):
        before, after = _value(old, path), _value(new, path)
        if before is None and (old["Type"], path) in _ADDED_IN_PLACE:
            continue
        target = _referred(after, replaced)
        if target is not None:
            return f"{target} would be"
        if before != after:
            name = path.removeprefix("/properties/")
            source = _PARAMETERS.get(name.rpartition("/")[2])
            return f"its {name} changes" + (f": {source}" if source else "")
    return None


def _create_only(kind: str) -> tuple[str, ...]:
    """Return the paths of a type's properties that cannot change in place; none of a custom resource's."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER, ResourceNotFoundError  # noqa: PLC0415  # two seconds

    try:
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    except ResourceNotFoundError:
        return ()
    names = ("createOnlyProperties", "conditionalCreateOnlyProperties")
    return (*(path for name in names for path in schema.get(name) or ()), *_UNLISTED.get(kind, ()))


def _value(resource: Mapping[str, Any], path: str) -> Any:
    value: Any = resource.get("Properties", {})
    for part in path.removeprefix("/properties/").split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _referred(value: Any, names: Collection[str]) -> str | None:
    """Return which of these resources a value is made of, if of one."""
    if isinstance(value, Mapping):
        target = value.get("Ref") or value.get("Fn::GetAtt")
        name = target[0] if isinstance(target, list) else target
        if name in names:
            return str(name)
        return _referred(list(value.values()), names)
    if isinstance(value, list):
        return next((found for each in value if (found := _referred(each, names)) is not None), None)
    return None
