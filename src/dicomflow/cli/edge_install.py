"""`dicomflow edge-install`: the commands that make a device an edge of a deployed stack."""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from dicomflow.bucket.keys import check_edge_name
from dicomflow.cli import edge_scripts as scripts
from dicomflow.cli.stacks import EdgeName, Region, StackName, stack_of_config
from dicomflow.errors import PermanentError, TransientError

__all__ = ["edge_install"]

INSTALLER_SECONDS: Final = 3600
_PRIVATE: Final = 0o600


class _Credentials(NamedTuple):
    access_key: str
    secret_key: str
    token: str
    expires: datetime


def edge_install(
    name: EdgeName,
    stack: StackName = None,
    region: Region = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write, readable by you alone; edge-install-NAME.txt by default.")
    ] = None,
    store_url: Annotated[
        str | None, typer.Option(help="The stack's bucket, s3://NAME; for an installation without Greengrass.")
    ] = None,
    nucleus: Annotated[str, typer.Option(help="The nucleus's version.")] = scripts.NUCLEUS,
    nucleus_sha256: Annotated[
        str | None, typer.Option(help="The digest of the zip of another version; its download must have it.")
    ] = None,
    *,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Install a service of systemd, without Greengrass.")
    ] = False,
    windows_service: Annotated[
        bool, typer.Option("--windows-service", help="Install a service of Windows, without Greengrass.")
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Write the commands that take the edge off its device again.")
    ] = False,
) -> None:
    """Write the commands that make a device an edge.

    With Greengrass they hold credentials for an hour, of the stack's installer role; run this where the AWS CLI works.
    With --systemd or --windows-service they hold no secret.

    For example: dicomflow edge-install edge-1
    """
    if systemd and windows_service:
        raise typer.BadParameter("choose one of --systemd and --windows-service")
    if not uninstall:
        try:
            check_edge_name(name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="NAME") from error
    stack = stack or stack_of_config(name)
    thing = f"{stack}-{name}"
    target = output or Path(f"edge-install-{name}.txt")
    if uninstall:
        text = scripts.WINDOWS_UNINSTALL if windows_service else scripts.UNINSTALL
        _write_private(target, text.format(thing=thing, file=target.name))
        typer.echo(f"the commands are in {target}; then: dicomflow edge-remove {name}")
        return
    digest = _digest_of(nucleus, nucleus_sha256)
    region = region or _region_of_profile()
    values = {"stack": stack, "thing": thing, "region": region, "file": target.name}
    if systemd or windows_service:
        if not (store_url or "").startswith("s3://"):
            raise typer.BadParameter("give the stack's bucket, s3://NAME", param_hint="--store-url")
        spool = r"C:\ProgramData\dicomflow\spool" if windows_service else "/var/lib/dicomflow/spool"
        settings = scripts.SETTINGS.format(thing=thing, spool=spool, store_url=store_url)
        text = (scripts.WINDOWS if windows_service else scripts.SYSTEMD).format(**values, settings=settings)
    else:
        credentials = _assume_installer(stack, region)
        values |= credentials._asdict() | {"expires": credentials.expires.isoformat()}
        text = scripts.GREENGRASS.format(**values, nucleus=nucleus, digest=digest)
    _write_private(target, text)
    typer.echo(f"the commands for {thing} are in {target}, which only you can read")
    if not (systemd or windows_service):
        typer.echo(f"its credentials end at {credentials.expires.isoformat()}; delete it when the device is installed")


def _digest_of(nucleus: str, digest: str | None) -> str:
    """Return the digest that the nucleus's zip must have.

    Raises:
        typer.BadParameter: it is not known, or none.
    """
    if nucleus == scripts.NUCLEUS and digest is None:
        return scripts.NUCLEUS_SHA256
    if digest is None or re.fullmatch(r"[0-9a-f]{64}", digest.lower()) is None:
        raise typer.BadParameter(f"give the SHA-256 of the zip of {nucleus}, in hex", param_hint="--nucleus-sha256")
    if re.fullmatch(r"\d+\.\d+\.\d+", nucleus) is None:
        raise typer.BadParameter("give a version such as 2.18.2", param_hint="--nucleus")
    return digest.lower()


def _region_of_profile() -> str:
    """Return the region of the machine's AWS profile.

    Raises:
        typer.BadParameter: it has none: a guess would install a device that finds nothing.
    """
    import botocore.session  # noqa: PLC0415  # a third of a second

    region: str | None = botocore.session.Session().get_config_variable("region")
    if region is None:
        raise typer.BadParameter("give the region the stack is deployed to", param_hint="--region")
    return region


def _assume_installer(stack: str, region: str) -> _Credentials:
    """Return credentials of the stack's installer role.

    Raises:
        PermanentError: AWS refuses: no such role, or no right to take it.
        TransientError: AWS cannot be reached, or there are no credentials to ask with.
    """
    import botocore.exceptions  # noqa: PLC0415  # not for the installations without AWS
    import botocore.session  # noqa: PLC0415

    role = f"{stack}-GGInstallerRole"
    try:
        client: Any = botocore.session.Session().create_client("sts", region_name=region)
        caller = client.get_caller_identity()
        partition = caller["Arn"].split(":")[1]
        answer = client.assume_role(
            RoleArn=f"arn:{partition}:iam::{caller['Account']}:role/{role}",
            RoleSessionName="GGInstaller",
            DurationSeconds=INSTALLER_SECONDS,
        )["Credentials"]
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"].get("Code", "Unknown")
        raise PermanentError(f"AWS does not let you take the role {role}: {code}; is the stack deployed?") from error
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS cannot be asked for credentials: {error}") from error
    return _Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"], answer["Expiration"])


def _write_private(path: Path, text: str) -> None:
    """Write a file that was readable by nobody else at any moment; one of that name is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
