"""`dicomflow edge-install`: the commands that make a device an edge of a deployed stack."""

import ast
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from dicomflow.bucket.keys import check_edge_name
from dicomflow.errors import PermanentError, TransientError

__all__ = ["edge_install", "stack_of_config"]

CONFIG: Final = Path("config.py")
INSTALLER_SECONDS: Final = 3600
NUCLEUS: Final = "2.18.2"
_PRIVATE: Final = 0o600

# In a shell of their own: the first command that fails ends them, and not the terminal that they were pasted into.
_GREENGRASS: Final = """\
# Run this file on the device that becomes the edge {thing}: sh {file}. Or paste it into a terminal there.
# The credentials below end at {expires}; until then this file is a secret. Delete it when you are done.
[ -z "${{BASH_VERSION:-}}" ] || set +o history
(
set -eu
if command -v apt-get >/dev/null; then
    sudo apt-get update
    sudo apt-get install -y default-jre-headless curl unzip python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || sudo apt-get install -y python3.11 python3.11-venv
elif command -v dnf >/dev/null; then
    command -v java >/dev/null || sudo dnf install -y java-21-openjdk-headless ||
        sudo dnf install -y java-17-openjdk-headless || sudo dnf install -y java-17-amazon-corretto-headless
    command -v curl >/dev/null || sudo dnf install -y curl
    sudo dnf install -y unzip python3
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || sudo dnf install -y python3.11
else
    echo 'neither apt-get nor dnf is here: install Java 11 or newer, curl, unzip and Python 3.11 with venv first' >&2
    for tool in java curl unzip python3; do command -v "$tool" >/dev/null; done
fi
if [ ! -f /greengrass/v2/config/effectiveConfig.yaml ]; then
    folder=$(mktemp -d)
    curl -fsSL https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-{nucleus}.zip -o "$folder/nucleus.zip"
    unzip -q "$folder/nucleus.zip" -d "$folder/GreengrassInstaller"
    export AWS_ACCESS_KEY_ID={access_key}
    export AWS_SECRET_ACCESS_KEY={secret_key}
    export AWS_SESSION_TOKEN={token}
    sudo -E java -Droot=/greengrass/v2 -Dlog.store=FILE -jar "$folder/GreengrassInstaller/lib/Greengrass.jar" \\
        --aws-region {region} --thing-name {thing} --thing-group-name {stack}-IEP-devices \\
        --thing-policy-name {thing}-GG-Thing -trn {thing}-GG-Role -tra {thing}-GG-Role-Alias \\
        --component-default-user ggc_user:ggc_group --provision true --setup-system-service true
    rm -rf "$folder"
else
    echo 'the nucleus is installed already, and stays as it is'
fi
sudo systemctl enable --now greengrass
)
[ -z "${{BASH_VERSION:-}}" ] || set -o history
"""

_UNINSTALL: Final = """\
# Run this file on the device that was the edge {thing}: sh {file}. What its spool holds stays.
(
set -eu
for service in greengrass dicomflow-edge; do
    ! systemctl cat "$service" >/dev/null 2>&1 || sudo systemctl disable --now "$service"
done
for spool in /greengrass/v2/work/DIMSEtoS3/spool /var/lib/dicomflow/spool; do
    ! sudo test -d "$spool" || echo "images that were not delivered may be in $spool: delete it when none is wanted"
done
sudo rm -rf /opt/dicomflow /etc/dicomflow /etc/systemd/system/dicomflow-edge.service
sudo find /greengrass/v2 -mindepth 1 -maxdepth 1 ! -name work -exec rm -rf {{}} + 2>/dev/null || true
sudo systemctl daemon-reload
)
"""

_SETTINGS: Final = """\
name = "{thing}"

[spool]
dir = '{spool}'

[delivery]
store_url = "{store_url}"
"""

_SYSTEMD: Final = """\
# Run this file on the machine that becomes the edge {thing}: sh {file}, with dicomflow-edge-linux-amd64.zip or -aarch64
# beside. `python -m infra.greengrass` makes the zip; the machine needs Python 3.11 or newer with venv, unzip, curl, and
# no internet. Run again it upgrades to the zip beside, and leaves settings, keys and spool as they are.
(
set -eu
id dicomflow >/dev/null 2>&1 || sudo useradd --system --user-group --home-dir /var/lib/dicomflow dicomflow
sudo install -d -m 750 -o dicomflow -g dicomflow /var/lib/dicomflow /var/lib/dicomflow/spool
sudo install -d -m 755 /etc/dicomflow /opt/dicomflow
sudo unzip -qo dicomflow-edge-linux-*.zip -d /opt/dicomflow
sudo -u dicomflow sh /opt/dicomflow/python.sh install /var/lib/dicomflow
sudo test -f /etc/dicomflow/edge.toml || sudo tee /etc/dicomflow/edge.toml >/dev/null <<'EDGE_TOML'
{settings}EDGE_TOML
# Without a role of the machine's own, add AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a user with the policy
# {thing}-GG-RoleAccess to this file, which only root can read: sudo -e /etc/dicomflow/environment.
if ! sudo test -f /etc/dicomflow/environment; then
    sudo install -m 600 /dev/null /etc/dicomflow/environment
    echo 'AWS_REGION={region}' | sudo tee /etc/dicomflow/environment >/dev/null
fi
sudo install -m 644 /opt/dicomflow/dicomflow-edge.service /etc/systemd/system/dicomflow-edge.service
sudo systemctl daemon-reload
sudo systemctl enable dicomflow-edge
sudo systemctl restart dicomflow-edge
curl -fsS --retry 20 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz
)
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
        str | None,
        typer.Option(envvar="AWS_REGION", help="The region the stack is deployed to; by default your AWS profile's."),
    ] = None,
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
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Write the commands that take the edge off a Linux device again.")
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
        _write_private(target, _UNINSTALL.format(thing=thing, file=target.name))
        typer.echo(f"the commands are in {target}; then: dicomflow edge-remove {name}")
        return
    region = region or _region_of_profile()
    values = {"stack": stack, "thing": thing, "region": region, "file": target.name, "nucleus": NUCLEUS}
    if systemd or windows_service:
        if not (store_url or "").startswith("s3://"):
            raise typer.BadParameter("give the stack's bucket, s3://NAME", param_hint="--store-url")
        spool = r"C:\ProgramData\dicomflow\spool" if windows_service else "/var/lib/dicomflow/spool"
        settings = _SETTINGS.format(thing=thing, spool=spool, store_url=store_url)
        text = (_WINDOWS if windows_service else _SYSTEMD).format(**values, settings=settings)
    else:
        credentials = _assume_installer(stack, region)
        text = _GREENGRASS.format(**values, **credentials._asdict() | {"expires": credentials.expires.isoformat()})
    _write_private(target, text)
    typer.echo(f"the commands for {thing} are in {target}, which only you can read")
    if not (systemd or windows_service):
        typer.echo(f"its credentials end at {credentials.expires.isoformat()}; delete it when the device is installed")


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
