"""Credentials for an edge without Greengrass: AWS IoT gives them for an hour to who shows a device's certificate.

AWS IoT Core Developer Guide, "Authorizing direct calls to AWS services using AWS IoT Core credential provider".
"""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from dicomflow.edge.credentials import Credentials
from dicomflow.edge.settings import DeviceCredentials
from dicomflow.errors import PermanentError, TransientError

__all__ = ["client_context", "is_excluded", "load_device_credentials"]

_TIMEOUT_SECONDS: Final = 10
_MOST_BYTES: Final = 64 << 10
_ADVICE: Final = {
    400: "the role alias or the thing has no such name",
    403: "is the certificate active, attached to the thing, and allowed iot:AssumeRoleWithCertificate?",
    404: "there is no such role alias in this region and account",
}


def load_device_credentials(settings: DeviceCredentials, proxy_url: str | None, excludes: str | None) -> Credentials:
    """Ask the account's credentials endpoint; files are read anew, since a certificate may be exchanged.

    Args:
        settings: endpoint, role alias, thing and certificate.
        proxy_url: the proxy, which must let TLS through as it is; None takes those of the environment.
        excludes: hosts, parted by commas, that are reached without it.

    Raises:
        TransientError: there are none now; the text says why, in words.
    """
    try:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=client_context(settings))]
        if proxy_url is not None:
            is_without = is_excluded(settings.endpoint.partition(":")[0], excludes or "")
            handlers.append(urllib.request.ProxyHandler({} if is_without else {"https": proxy_url}))
        answer = _ask(urllib.request.build_opener(*handlers), settings)
        found = json.loads(answer)["credentials"]
        ends = datetime.fromisoformat(found["expiration"]).astimezone(UTC)
        credentials = Credentials(found["accessKeyId"], found["secretAccessKey"], found["sessionToken"], ends)
    except PermanentError as error:  # a file may be put right while the edge runs
        raise TransientError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TransientError(
            f"{settings.endpoint} answered, but gave no credentials: is it the endpoint of iot:CredentialProvider?"
        ) from error
    if not credentials.access_key_id or not credentials.secret_access_key:
        raise TransientError(f"{settings.endpoint} gave an empty key")
    return credentials


def client_context(settings: DeviceCredentials) -> ssl.SSLContext:
    """Return what a connection shows and trusts.

    Raises:
        PermanentError: a file cannot be read, or certificate and key do not belong together; the text names it.
    """
    files = {name: getattr(settings, name) for name in ("certificate", "key", "ca_certificate")}
    for name, path in files.items():
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise PermanentError(f"cannot read delivery.credentials.{name} {path}: {error.strerror}") from error
    try:
        context = ssl.create_default_context(cafile=settings.ca_certificate)
    except ssl.SSLError as error:
        raise PermanentError("delivery.credentials.ca_certificate is no certificate in PEM") from error
    try:
        context.load_cert_chain(settings.certificate, settings.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise PermanentError(
            "delivery.credentials.certificate and key are no PEM, do not belong together, or the key has a passphrase"
        ) from error
    return context


def is_excluded(host: str, excludes: str) -> bool:
    """Tell whether a host is one of a list, or below one, as obstore reads such a list."""
    names = (name.strip().lstrip("*.") for name in excludes.split(","))
    return any(name and f".{host}".endswith(f".{name}") for name in names)


def _ask(opener: urllib.request.OpenerDirector, settings: DeviceCredentials) -> bytes:
    url = f"https://{settings.endpoint}/role-aliases/{quote(settings.role_alias, safe='')}/credentials"
    request = urllib.request.Request(url, headers={"x-amzn-iot-thingname": settings.thing})
    who = f"the thing {settings.thing} with the role alias {settings.role_alias}"
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            return bytes(response.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            advice = _ADVICE.get(error.code, "it is asked again")
        raise TransientError(f"{settings.endpoint} refuses {who}: HTTP {error.code}; {advice}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is the first
        raise TransientError(f"no AWS credentials from {settings.endpoint}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """Return what stands between the edge and the endpoint."""
    cause: Any = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}); does a proxy open TLS on the way?"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed ({cause.reason}); is the device's certificate of this account, and active?"
    return str(cause) or type(cause).__name__
