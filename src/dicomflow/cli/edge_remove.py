"""`dicomflow edge-remove`: takes a device that was an edge of a deployed stack out of AWS IoT."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.cli.stacks import EdgeName, Region, StackName, stack_of_config
from dicomflow.errors import PermanentError, TransientError

__all__ = ["edge_remove", "remove_device"]

STOPPED_AFTER: Final = timedelta(minutes=3)
"""An edge that runs writes its heartbeat every minute."""
DETACHED_SECONDS: Final = 300
"""AWS IoT API Reference, DetachPolicy: so long it may take until a policy counts as detached."""
_PAUSE_SECONDS: Final = 10
_GONE: Final = frozenset({"ResourceNotFoundException", "NoSuchKey", "404"})

Say = Callable[[str], None]


def edge_remove(
    name: EdgeName,
    stack: StackName = None,
    region: Region = None,
    store_url: Annotated[
        str | None, typer.Option(help="The stack's bucket, s3://NAME; by default the stack's own output.")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if it still runs, or images wait in its spool.")] = False,
) -> None:
    """Take an edge's device out of a deployed stack.

    To be done before the edge leaves config.py or the stack is destroyed.

    Its certificate can do nothing any more, and the stack's policies are free. It may be called again: what is done
    is passed over. The device itself keeps its spool and its program.

    For example: dicomflow edge-remove edge-1
    """
    import botocore.exceptions  # noqa: PLC0415  # a third of a second
    import botocore.session  # noqa: PLC0415

    thing = f"{stack or stack_of_config(name)}-{name}"
    session: Any = botocore.session.Session()

    def client(service: str) -> Any:
        return session.create_client(service, region_name=region)

    try:
        if not force:
            url = store_url or _bucket_of_stack(client("cloudformation"), thing.removesuffix(f"-{name}"))
            _refuse_running(client("s3"), url.removeprefix("s3://").rstrip("/"), thing)
        remove_device(client("greengrassv2"), client("iot"), thing, typer.echo)
    except botocore.exceptions.ClientError as error:
        raise PermanentError(f"AWS refuses {error.operation_name}: {_code(error)}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS cannot be asked: {error}") from error
    typer.echo(
        f"{thing} is no device any more: take {name} out of EDGE_CONFIG and run scripts/deploy, or scripts/destroy"
    )


def remove_device(greengrass: Any, iot: Any, thing: str, say: Say, pause: Callable[[float], None] = time.sleep) -> None:
    """Remove core device, certificates and thing, in the order that AWS takes; each step may find its work done.

    A certificate that another thing has as well stays, without this edge's policies.
    """
    if _done(lambda: greengrass.delete_core_device(coreDeviceThingName=thing)):
        say("removed the core device; the thing stays so far")
    certificates = _list(iot, "list_thing_principals", "principals", thingName=thing)
    for certificate in certificates:
        others = [
            each for each in _list(iot, "list_principal_things", "things", principal=certificate) if each != thing
        ]
        for policy in _list(iot, "list_attached_policies", "policies", target=certificate):
            policy_name = policy["policyName"]
            if others and thing not in policy_name:
                continue
            iot.detach_policy(policyName=policy_name, target=certificate)
            say(f"detached the policy {policy_name}")
        iot.detach_thing_principal(thingName=thing, principal=certificate)
        if others:
            say("a certificate is another thing's too, and stays")
            continue
        number = certificate.rpartition("/")[2]
        iot.update_certificate(certificateId=number, newStatus="INACTIVE")
        iot.delete_certificate(certificateId=number)
        say("removed its certificate")
    if _done(lambda: iot.delete_thing(thingName=thing)):
        say("removed the thing")
    _delete_policy(iot, f"GreengrassTESCertificatePolicy{thing}-GG-Role-Alias", say, pause)


def _delete_policy(iot: Any, name: str, say: Say, pause: Callable[[float], None]) -> None:
    """Delete the policy that Greengrass's installer made; wait until its detachment counts."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    for waited in range(0, DETACHED_SECONDS + 1, _PAUSE_SECONDS):
        try:
            if _done(lambda: iot.delete_policy(policyName=name)):
                say(f"removed the policy {name}")
        except ClientError as error:
            if _code(error) != "DeleteConflictException" or waited >= DETACHED_SECONDS:
                raise
            pause(_PAUSE_SECONDS)
        else:
            return


def _refuse_running(s3: Any, bucket: str, thing: str) -> None:
    """Refuse an edge that was heard of just now, or whose spool held images when it was heard of last."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        told = Heartbeat.from_json(s3.get_object(Bucket=bucket, Key=heartbeat_key(thing))["Body"].read())
    except ClientError as error:
        if _code(error) in _GONE:  # it never ran
            return
        raise
    if datetime.now(UTC) - told.at < STOPPED_AFTER:
        raise PermanentError(f"{thing} still runs: stop it on its device first, or give --force")
    waiting = told.received + told.delivering
    if waiting:
        raise PermanentError(
            f"{waiting} images wait in the spool of {thing}: let it deliver them, or give --force; the spool stays"
        )


def _bucket_of_stack(stacks: Any, stack: str) -> str:
    (found,) = stacks.describe_stacks(StackName=stack)["Stacks"]
    for output in found.get("Outputs", []):
        if output["OutputKey"] == "Bucket":
            return str(output["OutputValue"])
    raise PermanentError(f"the stack {stack} has no output Bucket: give --store-url")


def _list(iot: Any, operation: str, member: str, **arguments: str) -> list[Any]:
    """Return all pages of a list; nothing of what is not there."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        return [item for page in iot.get_paginator(operation).paginate(**arguments) for item in page[member]]
    except ClientError as error:
        if _code(error) in _GONE:
            return []
        raise


def _done(call: Callable[[], object]) -> bool:
    """Make a call; False where there was nothing left to do."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        call()
    except ClientError as error:
        if _code(error) in _GONE:
            return False
        raise
    return True


def _code(error: Any) -> str:
    return str(error.response["Error"].get("Code", "Unknown"))
