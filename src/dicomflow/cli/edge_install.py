"""`dicomflow edge-install`: the commands that make a device an edge of a deployed stack."""

import json
import os
import re
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from dicomflow.bucket.keys import check_edge_name
from dicomflow.cli import edge_powershell as powershell
from dicomflow.cli import edge_scripts as scripts
from dicomflow.cli.edge_certificate import CERTIFICATE, KEY
from dicomflow.cli.edge_config import EdgeConfig, Network, edge_toml
from dicomflow.cli.nucleus import CREDENTIALS_HOST, NUCLEUS, NUCLEUS_COMPONENT, NUCLEUS_SHA256, nucleus_settings
from dicomflow.cli.stacks import EdgeName, Region, StackName, stack_of_config
from dicomflow.errors import PermanentError, TransientError

__all__ = ["edge_install"]

INSTALLER_SECONDS: Final = 3600
_PRIVATE: Final = 0o600
_BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/?")


class _Kind(StrEnum):
    """What runs the edge on its device."""

    GREENGRASS = "--greengrass"
    SYSTEMD = "--systemd"
    WINDOWS = "--windows"
    WINDOWS_SERVICE = "--windows-service"

    @property
    def is_windows(self) -> bool:
        return self in {_Kind.WINDOWS, _Kind.WINDOWS_SERVICE}

    @property
    def has_nucleus(self) -> bool:
        return self in {_Kind.GREENGRASS, _Kind.WINDOWS}


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
    nucleus: Annotated[str, typer.Option(help="The nucleus's version.")] = NUCLEUS,
    nucleus_sha256: Annotated[
        str | None, typer.Option(help="The digest of the zip of another version; its download must have it.")
    ] = None,
    *,
    proxy_url: Annotated[
        str | None, typer.Option(help="The device's HTTP proxy; by default that of DEVICE_CONFIG in config.py.")
    ] = None,
    proxy_excludes: Annotated[
        str | None, typer.Option(help="Hosts that are reached without it, parted by commas; by default as above.")
    ] = None,
    only_port_443: Annotated[
        bool | None, typer.Option(help="Keep the nucleus to port 443; by default as above.")
    ] = None,
    fips: Annotated[
        bool | None,
        typer.Option(help="Call AWS by its FIPS endpoints; by default as ACCOUNT_CONFIG in config.py says."),
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Install a service of systemd, without Greengrass.")
    ] = False,
    windows: Annotated[bool, typer.Option("--windows", help="Install Greengrass on Windows.")] = False,
    windows_service: Annotated[
        bool, typer.Option("--windows-service", help="Install a service of Windows, without Greengrass.")
    ] = False,
    own_credentials: Annotated[
        bool,
        typer.Option(
            "--own-credentials", help="The machine has credentials, a role's or a profile's: give it no certificate."
        ),
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Write the commands that take the edge off its device again.")
    ] = False,
) -> None:
    """Write the commands that make a device an edge.

    They hold credentials for an hour, of the stack's installer role; run this where the AWS CLI works.
    With --own-credentials, and with --uninstall, they hold no secret and AWS is not asked.

    For example: dicomflow edge-install edge-1
    """
    kind = _kind_of({_Kind.SYSTEMD: systemd, _Kind.WINDOWS: windows, _Kind.WINDOWS_SERVICE: windows_service})
    if own_credentials and kind.has_nucleus:
        raise typer.BadParameter("Greengrass needs a certificate", param_hint="--own-credentials")
    if not uninstall:
        try:
            check_edge_name(name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="NAME") from error
    given_stack, stack = stack, stack or stack_of_config(name)
    config = EdgeConfig.of(stack, name, has_nucleus=kind.has_nucleus)
    thing = f"{stack}-{name}"
    target = output or Path(f"edge-install-{name}.txt")
    if uninstall:
        text = powershell.UNINSTALL if kind.is_windows else scripts.UNINSTALL
        _write_private(target, text.format(thing=thing, file=target.name))
        option = "" if given_stack is None else f" --stack {stack}"
        typer.echo(f"the commands are in {target}; then: dicomflow edge-remove {name}{option}")
        return
    digest = _digest_of(nucleus, nucleus_sha256)
    if not kind.has_nucleus and _BUCKET.fullmatch(store_url or "") is None:
        raise typer.BadParameter("give the stack's bucket, s3://NAME", param_hint="--store-url")
    network = config.network(proxy_url, proxy_excludes, only_443=only_port_443, is_fips=fips)
    region = region or _region_of_profile()
    values: dict[str, Any] = {
        "stack": stack,
        "thing": thing,
        "region": region,
        "file": target.name,
        "ports": config.ports,
    }
    credentials = None if own_credentials else _assume_installer(stack, region)
    if credentials is not None:
        values |= credentials._asdict() | {"expires": credentials.expires.isoformat()}
    if kind.has_nucleus:
        text = _with_nucleus(kind, values | {"nucleus": nucleus, "digest": digest}, network)
    else:
        values |= {"store_url": str(store_url).rstrip("/")}
        text = _without_nucleus(kind, values, config, network, credentials)
    _write_private(target, text)
    readers = "which only you can read" if os.name == "posix" else "which is a secret"  # Windows knows no mode
    typer.echo(f"the commands for {thing} are in {target}, {readers if credentials else 'which hold no secret'}")
    if credentials is not None:
        typer.echo(f"its credentials end at {credentials.expires.isoformat()}; delete it when the device is installed")


def _kind_of(chosen: dict[_Kind, bool]) -> _Kind:
    found = [kind for kind, is_chosen in chosen.items() if is_chosen]
    if len(found) > 1:
        raise typer.BadParameter(f"choose one of {' and '.join(found)}")
    return found[0] if found else _Kind.GREENGRASS


def _with_nucleus(kind: _Kind, values: dict[str, Any], network: Network) -> str:
    """Return the commands that install Greengrass; the nucleus gets a file of settings where it needs some."""
    told = nucleus_settings(
        values["region"],
        proxy_url=network.proxy_url,
        proxy_excludes=network.proxy_excludes,
        only_443=network.only_443,
        is_fips=network.is_fips,
    )
    # JSON is YAML, which the installer reads.
    nucleus = {"version": values["nucleus"], "configuration": told}
    text = json.dumps({"services": {NUCLEUS_COMPONENT: nucleus}}, indent=2)
    proxy = network.proxy_url
    if kind.is_windows:
        parts = {
            "config": f"    $settings = @'\n{text}\n'@\n"
            '    [IO.File]::WriteAllText("$folder\\nucleus.yaml", $settings)\n',
            "init": ' --init-config "$folder\\nucleus.yaml"',
        }
        values |= {"proxy": f" -Proxy '{proxy}'" if proxy else ""}
    else:
        parts = {
            "config": f"    cat >\"$folder/nucleus.yaml\" <<'NUCLEUS'\n{text}\nNUCLEUS\n",
            "init": ' \\\n        --init-config "$folder/nucleus.yaml"',
        }
        values |= {"proxy": f"    export HTTPS_PROXY='{proxy}'\n" if proxy else ""}
    values |= parts if told else dict.fromkeys(parts, "")
    return (powershell.GREENGRASS if kind.is_windows else scripts.GREENGRASS).format(**values)


def _without_nucleus(
    kind: _Kind, values: dict[str, Any], config: EdgeConfig, network: Network, credentials: _Credentials | None
) -> str:
    """Return the commands that install a service of the machine's own, with a certificate unless it has credentials."""
    data, slash = (r"C:\ProgramData\dicomflow", "\\") if kind.is_windows else ("/var/lib/dicomflow", "/")
    told = None
    certificate = ""
    if credentials is not None:
        told = {
            "endpoint": _credentials_endpoint(credentials, values["region"], network),
            "role_alias": f"{values['thing']}-GG-Role-Alias",
            "thing": values["thing"],
            "certificate": f"{data}{slash}{CERTIFICATE}",
            "key": f"{data}{slash}{KEY}",
        }
        proxy = network.proxy_url
        if kind.is_windows:
            line = f"        $env:HTTPS_PROXY = '{proxy}'\n" if proxy else ""
            certificate = powershell.CERTIFICATE.format(**values, proxy=line)
        else:
            line = f"export HTTPS_PROXY='{proxy}'\n" if proxy else ""
            certificate = scripts.SYSTEMD_CERTIFICATE.format(**values, proxy=line)
    settings = edge_toml(values, f"{data}{slash}spool", config, network, told)
    unless = f" but iot.{values['region']}.amazonaws.com, once, and S3" if credentials is not None else " but S3"
    text = powershell.SERVICE if kind.is_windows else scripts.SYSTEMD
    return text.format(**values, settings=settings, certificate=certificate, unless=unless)


def _digest_of(nucleus: str, digest: str | None) -> str:
    """Return the digest that the nucleus's zip must have.

    Raises:
        typer.BadParameter: it is not known, or none.
    """
    if nucleus == NUCLEUS and digest is None:
        return NUCLEUS_SHA256
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


def _credentials_endpoint(credentials: _Credentials, region: str, network: Network) -> str:
    """Return the account's host that gives credentials for a certificate.

    Raises:
        PermanentError: AWS refuses.
        TransientError: AWS cannot be reached.
    """
    import botocore.exceptions  # noqa: PLC0415  # as above
    import botocore.session  # noqa: PLC0415

    if network.is_fips:
        return CREDENTIALS_HOST.format(region=region)
    try:
        client: Any = botocore.session.Session().create_client(
            "iot",
            region_name=region,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
        )
        return str(client.describe_endpoint(endpointType="iot:CredentialProvider")["endpointAddress"])
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"].get("Code", "Unknown")
        raise PermanentError(f"AWS does not tell its credentials endpoint: {code}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS IoT cannot be asked: {error}") from error


def _write_private(path: Path, text: str) -> None:
    """Write a file that was readable by nobody else at any moment; one of that name is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
