"""A deployment into an account with rules of its own: what the stack makes there, and what it leaves to others."""

from typing import Any


def test_device_may_take_the_role_of_its_own_edge_only(template: Any):
    """Its certificate is enough for credentials, without Greengrass too, and for no other edge's."""
    policy = template.one("AWS::IoT::Policy", PolicyName="iep-edge-1-GG-Thing")["PolicyDocument"]
    (statement,) = [each for each in policy["Statement"] if each["Action"] == "iot:AssumeRoleWithCertificate"]
    (alias,) = statement["Resource"]
    assert ":rolealias/iep-edge-1-GG-Role-Alias" == alias["Fn::Join"][1][-1]
    assert template.one("AWS::IoT::RoleAlias", RoleAlias="iep-edge-1-GG-Role-Alias")
