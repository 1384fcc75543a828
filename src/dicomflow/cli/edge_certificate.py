"""An edge's thing in AWS IoT, and the certificate that its device gets with the commands of `edge-install`.

All is made on the operator's computer: the device gets what makes it this one edge, and nothing that AWS IoT or IAM
would let it use for another (decision 0065).
"""

from typing import Any, Final, NamedTuple

from dicomflow.cli.nucleus import CREDENTIALS_HOST, DATA_HOST
from dicomflow.errors import PermanentError, TransientError

__all__ = ["CERTIFICATE", "KEY", "Enrolment", "enrol"]

CERTIFICATE: Final = "device.pem"
KEY: Final = "device.key"
_SECONDS: Final = 900  # the least that STS gives


class Enrolment(NamedTuple):
    """What a device shows to AWS IoT, and whom; in PEM, and empty where the edge had certificate and key before."""

    certificate: str
    key: str
    data_endpoint: str
    credentials_endpoint: str


def enrol(stack: str, thing: str, region: str, *, is_core: bool, is_fips: bool) -> Enrolment:
    """Make an edge's thing, and a certificate unless it has one; with the stack's installer role.

    Args:
        stack: the deployed stack's name.
        thing: the edge's.
        region: the stack's.
        is_core: whether Greengrass runs on the device: then the stack's group has it, and deploys to it.
        is_fips: whether the device calls AWS by its FIPS endpoints, which are every account's.

    Raises:
        PermanentError: AWS refuses: no such role or policy, or no right to take it.
        TransientError: AWS cannot be reached, or there are no credentials to ask with.
    """
    import botocore.exceptions  # noqa: PLC0415  # a third of a second, and not for the installations without AWS
    import botocore.session  # noqa: PLC0415

    role = f"{stack}-GGInstallerRole"
    try:
        iot = _installer(botocore.session.Session(), role, region)
        hosts = [DATA_HOST.format(region=region), CREDENTIALS_HOST.format(region=region)]
        if not is_fips:
            kinds = ("iot:Data-ATS", "iot:CredentialProvider")
            hosts = [str(iot.describe_endpoint(endpointType=kind)["endpointAddress"]) for kind in kinds]
        iot.create_thing(thingName=thing)
        if is_core:
            iot.add_thing_to_thing_group(thingName=thing, thingGroupName=f"{stack}-IEP-devices")
        if iot.list_thing_principals(thingName=thing)["principals"]:
            return Enrolment("", "", *hosts)
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.attach_policy(policyName=f"{thing}-GG-Thing", target=made["certificateArn"])
        iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])  # last: the next call begins anew
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"].get("Code", "Unknown")
        if error.operation_name == "AssumeRole":
            raise PermanentError(
                f"AWS does not let you take the role {role}: {code}; is the stack deployed?"
            ) from error
        raise PermanentError(f"AWS refuses {error.operation_name} for {thing}: {code}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS cannot be asked for a certificate: {error}") from error
    return Enrolment(made["certificatePem"], made["keyPair"]["PrivateKey"], *hosts)


def _installer(session: Any, role: str, region: str) -> Any:
    """Return a client of AWS IoT with the installer role's rights, for as long as this command runs."""
    sts = session.create_client("sts", region_name=region)
    caller = sts.get_caller_identity()
    given = sts.assume_role(
        RoleArn=f"arn:{caller['Arn'].split(':')[1]}:iam::{caller['Account']}:role/{role}",
        RoleSessionName="GGInstaller",
        DurationSeconds=_SECONDS,
    )["Credentials"]
    return session.create_client(
        "iot",
        region_name=region,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )
