"""What is deployed already, asked of AWS: the stack's state and template, its policy, and what hinders its removal."""

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from infra.errors import ConfigError

__all__ = ["DeployedStack"]

# A first deployment that failed leaves a stack that can only be deleted, which the CDK's command line does.
_NEVER_MADE: Final = frozenset({"REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_COMPLETE"})


class DeployedStack:
    """The stack of a name, in the account and region of the machine's credentials."""

    def __init__(self, name: str, stacks: Any = None) -> None:
        import boto3  # noqa: PLC0415  # a synthesis asks nobody

        self._name = name
        region = os.environ.get("AWS_REGION")  # which boto3 does not read, and all else does
        self._session = boto3.session.Session(region_name=region)
        if self._session.region_name is None:
            raise ConfigError("no region is set: export AWS_REGION, or give your profile one")
        self._stacks: Any = stacks or self._session.client("cloudformation")

    def state(self) -> dict[str, Any] | None:
        """Return what CloudFormation says of the stack; None if it was never made.

        Raises:
            ConfigError: AWS cannot be asked.
        """
        found = self._found()
        return None if found is None or found["StackStatus"] in _NEVER_MADE else found

    def _found(self) -> dict[str, Any] | None:
        """Return what CloudFormation says of the stack, also of one that a failed first deployment left."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            (found,) = self._stacks.describe_stacks(StackName=self._name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise ConfigError(f"AWS does not tell of the stack {self._name}: {error}") from error
        except BotoCoreError as error:
            raise ConfigError(f"AWS cannot be asked for the stack {self._name}: {error}") from error
        return dict(found)

    def template(self) -> Mapping[str, Any]:
        """Return the template that is deployed."""
        body = self._stacks.get_template(StackName=self._name, TemplateStage="Original")["TemplateBody"]
        if isinstance(body, str):  # YAML, of a stack that the CDK did not make
            raise ConfigError(f"the stack {self._name} was not made by dicomflow")
        return dict(body)

    def set_policy(self, policy: str) -> None:
        """Set the stack's policy."""
        self._stacks.set_stack_policy(StackName=self._name, StackPolicyBody=policy)

    def hindrances(self, edges: Collection[str]) -> list[str]:
        """Return what would make the stack's removal fail, in the order in which it is put right.

        Args:
            edges: names of the edges of config.py.
        """
        state = self._found()
        if state is None or state["StackStatus"] == "DELETE_COMPLETE":
            return [f"there is no stack {self._name} in {self._session.region_name}"]
        found = [
            f"the edge {name} is still a device: dicomflow edge-remove {name}" for name in edges if self._is_thing(name)
        ]
        bucket = next((each["OutputValue"] for each in state.get("Outputs", []) if each["OutputKey"] == "Bucket"), None)
        if bucket is not None and self._holds_objects(bucket):
            found.append(f"the bucket {bucket} holds objects: empty it, with all versions, or copy it first")
        if state.get("EnableTerminationProtection"):
            found.append("deletion_protection is on: set it to False in DB_CONFIG, then run scripts/deploy")
        return found

    def _is_thing(self, edge: str) -> bool:
        things: Any = self._session.client("iot")
        try:
            things.describe_thing(thingName=f"{self._name}-{edge}")
        except things.exceptions.ResourceNotFoundException:
            return False
        return True

    def _holds_objects(self, bucket: str) -> bool:
        objects: Any = self._session.client("s3")
        page = objects.list_object_versions(Bucket=bucket, MaxKeys=1)
        return bool(page.get("Versions") or page.get("DeleteMarkers"))
