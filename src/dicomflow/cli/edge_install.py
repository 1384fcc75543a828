"""`dicomflow edge-install`: the commands that make a device an edge of a deployed stack."""

import json
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicomflow.bucket.keys import check_edge_name
from dicomflow.cli import edge_powershell as powershell
from dicomflow.cli import edge_scripts as scripts
from dicomflow.cli.edge_certificate import CERTIFICATE, KEY, Enrolment, enrol
from dicomflow.cli.edge_config import EdgeConfig, Network, edge_toml
from dicomflow.cli.nucleus import NUCLEUS, NUCLEUS_COMPONENT, NUCLEUS_SHA256, nucleus_settings
from dicomflow.cli.stacks import EdgeName, Region, StackName, stack_of_config

__all__ = ["edge_install"]

_PRIVATE: Final = 0o600
_WARNING: Final = "It holds the key of the edge's certificate and is a secret: delete it when the device is installed."
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

    They hold the key of the edge's certificate, made here and now; run this where the AWS CLI works.
    For an edge that has a certificate they hold none, and bring program and settings up to date.
    With --own-credentials, and with --uninstall, AWS is not asked.

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
    if not os.access(target.parent, os.W_OK):  # before a certificate is made that no file would have
        raise typer.BadParameter(f"{target.parent} is no folder that you can write to", param_hint="--output")
    network = config.network(proxy_url, proxy_excludes, only_443=only_port_443, is_fips=fips)
    region = region or _region_of_profile()
    values: dict[str, Any] = {
        "stack": stack,
        "name": name,
        "thing": thing,
        "region": region,
        "file": target.name,
        "ports": config.ports,
    }
    enrolled = None
    if not own_credentials:
        enrolled = enrol(stack, thing, region, is_core=kind.has_nucleus, is_fips=network.is_fips)
    is_secret = enrolled is not None and bool(enrolled.key)
    values["secrecy"] = _WARNING if is_secret else "This file holds no secret."
    if enrolled is not None and kind.has_nucleus:
        text = _with_nucleus(kind, values | {"nucleus": nucleus, "digest": digest}, network, enrolled)
    else:
        values |= {"store_url": str(store_url).rstrip("/")}
        text = _without_nucleus(kind, values, config, network, enrolled)
    _write_private(target, text)
    readers = "which only you can read" if os.name == "posix" else "which is a secret"  # Windows knows no mode
    typer.echo(f"the commands for {thing} are in {target}, {readers if is_secret else 'which hold no secret'}")
    if is_secret:
        typer.echo(f"{target} holds the key of its certificate: delete it when the device is installed")
    elif enrolled is not None:
        typer.echo(f"{thing} has a certificate; for another: dicomflow edge-remove {name} --force, and this again")


def _kind_of(chosen: dict[_Kind, bool]) -> _Kind:
    found = [kind for kind, is_chosen in chosen.items() if is_chosen]
    if len(found) > 1:
        raise typer.BadParameter(f"choose one of {' and '.join(found)}")
    return found[0] if found else _Kind.GREENGRASS


def _with_nucleus(kind: _Kind, values: dict[str, Any], network: Network, enrolled: Enrolment) -> str:
    """Return the commands that install Greengrass with a thing that is there ("manual provisioning").

    AWS IoT Greengrass Developer Guide, "Install with manual resource provisioning"; the files' names are those that the
    nucleus's own installer would give.
    """
    root = r"C:\greengrass\v2" if kind.is_windows else "/greengrass/v2"
    folder = root + ("\\" if kind.is_windows else "/")
    configuration = {
        "awsRegion": values["region"],
        "iotRoleAlias": f"{values['thing']}-GG-Role-Alias",
        "iotDataEndpoint": enrolled.data_endpoint,
        "iotCredEndpoint": enrolled.credentials_endpoint,
    }
    configuration |= nucleus_settings(
        values["region"],
        proxy_url=network.proxy_url,
        proxy_excludes=network.proxy_excludes,
        only_443=network.only_443,
        is_fips=network.is_fips,
    )
    told = {
        "system": {
            "certificateFilePath": f"{folder}thingCert.crt",
            "privateKeyPath": f"{folder}privKey.key",
            "rootCaPath": f"{folder}rootCA.pem",
            "rootpath": root,
            "thingName": values["thing"],
        },
        "services": {
            NUCLEUS_COMPONENT: {
                "componentType": "NUCLEUS",
                "version": values["nucleus"],
                "configuration": configuration,
            }
        },
    }
    texts = powershell if kind.is_windows else scripts
    proxy = network.proxy_url
    if proxy:
        proxy = f" -Proxy '{proxy}'" if kind.is_windows else f"    export HTTPS_PROXY='{proxy}'\n"
    text: str = (powershell.GREENGRASS if kind.is_windows else scripts.GREENGRASS).format(
        **values,
        proxy=proxy,
        nucleus_settings=json.dumps(told, indent=2),  # JSON is YAML, which the installer reads
        certificate=_files(texts.NUCLEUS_FILES, texts.NO_CERTIFICATE, values, enrolled),
    )
    return text


def _without_nucleus(
    kind: _Kind, values: dict[str, Any], config: EdgeConfig, network: Network, enrolled: Enrolment | None
) -> str:
    """Return the commands that install a service of the machine's own, with a certificate unless it has credentials."""
    data, slash = (r"C:\ProgramData\dicomflow", "\\") if kind.is_windows else ("/var/lib/dicomflow", "/")
    texts = powershell if kind.is_windows else scripts
    told = None
    certificate = ""
    if enrolled is not None:
        told = {
            "endpoint": enrolled.credentials_endpoint,
            "role_alias": f"{values['thing']}-GG-Role-Alias",
            "thing": values["thing"],
            "certificate": f"{data}{slash}{CERTIFICATE}",
            "key": f"{data}{slash}{KEY}",
        }
        files = powershell.SERVICE_FILES if kind.is_windows else scripts.SYSTEMD_FILES
        certificate = texts.CERTIFICATE.format(install=_files(files, texts.NO_CERTIFICATE, values, enrolled))
    settings = edge_toml(values, f"{data}{slash}spool", config, network, told)
    text = powershell.SERVICE if kind.is_windows else scripts.SYSTEMD
    return text.format(**values, settings=settings, certificate=certificate)


def _files(files: str, missing: str, values: dict[str, Any], enrolled: Enrolment) -> str:
    """Return the commands that write certificate and key, or end where the device lacks them and this file does too."""
    if not enrolled.key:
        return missing.format(**values)
    return files.format(pem=enrolled.certificate.strip() + "\n", key=enrolled.key.strip() + "\n")


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


def _write_private(path: Path, text: str) -> None:
    """Write a file that was readable by nobody else at any moment; one of that name is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
