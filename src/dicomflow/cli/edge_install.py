"""`dicomflow edge-install`: the commands that make a device an edge of a deployed stack."""

import ast
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from dicomflow.errors import PermanentError, TransientError

__all__ = ["edge_install", "stack_of_config"]

CONFIG: Final = Path("config.py")
INSTALLER_SECONDS: Final = 3600
_PRIVATE: Final = 0o600

_GREENGRASS: Final = """\
# Paste these lines into a terminal of the device that becomes the edge {thing} (Debian, Ubuntu).
# The credentials below end at {expires}; until then this file is a secret. Delete it when you are done.
sudo apt-get update
sudo apt-get install -y default-jre-headless curl unzip python3 python3-venv
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || sudo apt-get install -y python3.11 python3.11-venv
curl -fsSL https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-nucleus-latest.zip -o greengrass-nucleus.zip
unzip -o greengrass-nucleus.zip -d GreengrassInstaller
export AWS_ACCESS_KEY_ID={access_key}
export AWS_SECRET_ACCESS_KEY={secret_key}
export AWS_SESSION_TOKEN={token}
sudo -E java -Droot=/greengrass/v2 -Dlog.store=FILE -jar ./GreengrassInstaller/lib/Greengrass.jar \\
    --aws-region {region} --thing-name {thing} --thing-group-name {stack}-IEP-devices \\
    --thing-policy-name {thing}-GG-Thing -trn {thing}-GG-Role -tra {thing}-GG-Role-Alias \\
    --component-default-user ggc_user:ggc_group --provision true --setup-system-service true
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
"""

_SETTINGS: Final = """\
name = "{thing}"

[spool]
dir = '{spool}'

[delivery]
store_url = "{store_url}"
"""

_SYSTEMD: Final = """\
# Run these lines on the machine that becomes the edge {thing}, with dicomflow-edge-linux-amd64.zip or -aarch64 beside.
# `python -m infra.greengrass` makes the zip; the machine needs Python 3.11 or newer with venv, unzip, and no internet.
id dicomflow >/dev/null 2>&1 || sudo useradd --system --user-group --home-dir /var/lib/dicomflow dicomflow
sudo install -d -m 750 -o dicomflow -g dicomflow /var/lib/dicomflow /var/lib/dicomflow/spool
sudo install -d -m 755 /etc/dicomflow /opt/dicomflow
sudo unzip -o dicomflow-edge-linux-*.zip -d /opt/dicomflow
sudo -u dicomflow sh /opt/dicomflow/python.sh install /var/lib/dicomflow
sudo tee /etc/dicomflow/edge.toml >/dev/null <<'EDGE_TOML'
{settings}EDGE_TOML
# Without a role of the machine's own, add AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a user with the policy
# {thing}-GG-RoleAccess to this file, which only root can read.
sudo install -m 600 /dev/null /etc/dicomflow/environment
echo 'AWS_REGION={region}' | sudo tee /etc/dicomflow/environment >/dev/null
sudo install -m 644 /opt/dicomflow/dicomflow-edge.service /etc/systemd/system/dicomflow-edge.service
sudo systemctl daemon-reload
sudo systemctl enable --now dicomflow-edge
curl -fsS --retry 20 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz
"""

_WINDOWS: Final = """\
# Run these lines in PowerShell as an administrator of the machine that becomes the edge {thing}, with
# dicomflow-edge-windows-amd64.zip beside. `python -m infra.greengrass` makes the zip; the machine needs Python 3.11 or
# newer, installed for all users, and no internet.
$data = "$env:ProgramData\\dicomflow"
Expand-Archive -Force dicomflow-edge-windows-amd64.zip C:\\dicomflow
New-Item -ItemType Directory -Force "$data\\spool" | Out-Null
icacls $data /inheritance:r /grant "*S-1-5-18:(OI)(CI)F" "*S-1-5-32-544:(OI)(CI)F" | Out-Null
& C:\\dicomflow\\python.cmd install $data
$settings = @'
{settings}'@
[IO.File]::WriteAllText("$data\\edge.toml", $settings)
[Environment]::SetEnvironmentVariable("AWS_REGION", "{region}", "Machine")
$python = "$data\\environments\\$(Get-Content "$data\\current")\\Scripts\\python.exe"
& $python -m pywin32_postinstall -silent -install
& $python C:\\dicomflow\\windows_service.py --startup auto install
sc.exe failure dicomflow-edge reset= 86400 actions= restart/5000/restart/5000/restart/60000
New-NetFirewallRule -DisplayName "dicomflow edge" -Direction Inbound -Protocol TCP -LocalPort 11112 -Action Allow
Start-Service dicomflow-edge
"""


class _Credentials(NamedTuple):
    access_key: str
    secret_key: str
    token: str
    expires: datetime


def edge_install(
    name: Annotated[str, typer.Argument(help="The edge's name, as EDGE_CONFIG in config.py has it.")],
    stack: Annotated[
        str | None, typer.Option(help="The stack's name; by default CDK_APP_NAME of the config.py in this folder.")
    ] = None,
    region: Annotated[
        str, typer.Option(envvar="AWS_REGION", help="The region the stack is deployed to.")
    ] = "us-east-1",
    output: Annotated[
        Path | None, typer.Option(help="The file to write, readable by you alone; edge-install-NAME.txt by default.")
    ] = None,
    store_url: Annotated[
        str | None, typer.Option(help="The stack's bucket, s3://NAME; for an installation without Greengrass.")
    ] = None,
    *,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Install a service of systemd, without Greengrass.")
    ] = False,
    windows_service: Annotated[
        bool, typer.Option("--windows-service", help="Install a service of Windows, without Greengrass.")
    ] = False,
) -> None:
    """Write the commands that make a device an edge.

    With Greengrass they hold credentials for an hour, of the stack's installer role; run this where the AWS CLI works.
    With --systemd or --windows-service they hold no secret.

    For example: dicomflow edge-install edge-1
    """
    if systemd and windows_service:
        raise typer.BadParameter("choose one of --systemd and --windows-service")
    stack = stack or stack_of_config(name)
    thing = f"{stack}-{name}"
    values = {"stack": stack, "thing": thing, "region": region}
    if systemd or windows_service:
        if not (store_url or "").startswith("s3://"):
            raise typer.BadParameter("give the stack's bucket, s3://NAME", param_hint="--store-url")
        spool = r"C:\ProgramData\dicomflow\spool" if windows_service else "/var/lib/dicomflow/spool"
        settings = _SETTINGS.format(thing=thing, spool=spool, store_url=store_url)
        text = (_WINDOWS if windows_service else _SYSTEMD).format(**values, settings=settings)
    else:
        credentials = _assume_installer(stack, region)
        text = _GREENGRASS.format(**values, **credentials._asdict() | {"expires": credentials.expires.isoformat()})
    target = output or Path(f"edge-install-{name}.txt")
    _write_private(target, text)
    typer.echo(f"the commands for {thing} are in {target}, which only you can read")
    if not (systemd or windows_service):
        typer.echo(f"its credentials end at {credentials.expires.isoformat()}; delete it when the device is installed")


def stack_of_config(edge: str) -> str:
    """Return the stack that config.py names, after a look whether it has the edge; its code is not run."""
    try:
        tree = ast.parse(CONFIG.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PermanentError(
            "there is no config.py in this folder: go to the project's folder, or give --stack"
        ) from error
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # not written out: --stack says what it is
                continue
    edges = [str(each.get("Name")) for each in found.get("EDGE_CONFIG", [])]
    if edge not in edges:
        raise PermanentError(f"EDGE_CONFIG in config.py has no edge {edge!r}; it has {', '.join(edges) or 'none'}")
    if not isinstance(found.get("CDK_APP_NAME"), str):
        raise PermanentError("config.py does not say CDK_APP_NAME in plain text: give --stack")
    return str(found["CDK_APP_NAME"])


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
