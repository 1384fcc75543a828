"""`dicomflow edge-certificate`: makes a machine a thing of AWS IoT, with the certificate that gives it credentials."""

import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicomflow.cli.stacks import Region
from dicomflow.errors import PermanentError, TransientError

__all__ = ["CERTIFICATE", "KEY", "edge_certificate"]

CERTIFICATE: Final = "device.pem"
KEY: Final = "device.key"
_PRIVATE: Final = 0o600


def edge_certificate(
    thing: Annotated[str, typer.Argument(help="The edge's thing, STACK-NAME.")],
    folder: Annotated[Path, typer.Option(help="Where device.pem and device.key go, readable by you alone.")],
    region: Region = None,
) -> None:
    """Give this machine the certificate of an edge.

    The commands of `edge-install --systemd` and `--windows-service` call it on the machine, with the installer's
    credentials. A certificate that is there stays, and nobody is asked.

    For example: dicomflow edge-certificate iep-edge-1 --folder /var/lib/dicomflow
    """
    import botocore.exceptions  # noqa: PLC0415  # a third of a second
    import botocore.session  # noqa: PLC0415

    if (folder / CERTIFICATE).exists():
        typer.echo(f"{folder / CERTIFICATE} is there, and stays as it is")
        return
    try:
        client: Any = botocore.session.Session().create_client("iot", region_name=region)
        _enrol(client, thing, folder)
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"].get("Code", "Unknown")
        raise PermanentError(f"AWS refuses {error.operation_name} for {thing}: {code}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS IoT cannot be asked: {error}") from error
    typer.echo(f"{thing} has a certificate, in {folder / CERTIFICATE}")


def _enrol(client: Any, thing: str, folder: Path) -> None:
    """Make thing and certificate, as the nucleus's own installer does; the files have their names when all is done."""
    client.create_thing(thingName=thing)
    made = client.create_keys_and_certificate(setAsActive=True)
    _write(folder / f"{KEY}.new", made["keyPair"]["PrivateKey"])
    _write(folder / f"{CERTIFICATE}.new", made["certificatePem"])
    client.attach_policy(policyName=f"{thing}-GG-Thing", target=made["certificateArn"])
    client.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
    for name in (KEY, CERTIFICATE):  # the certificate last: with it all is there
        (folder / f"{name}.new").replace(folder / name)


def _write(path: Path, text: str) -> None:
    """Write a file that was readable by nobody else at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "w", encoding="utf-8") as file:
        file.write(text)
