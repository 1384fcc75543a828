"""What the archive is reached by, for the addresses in its answers."""

from starlette.requests import Request

from dicomflow.archive.web.access import WebAccess
from dicomflow.sites import LOOPBACK_HOSTS

__all__ = ["base_url"]


def base_url(request: Request, access: WebAccess) -> str:
    """Return the service's base URI without a slash at its end: the one that is set, else what the request names.

    Behind a proxy that ends TLS or changes the path it must be set: no header is believed that anybody may write.
    """
    if access.public_url is not None:
        return access.public_url
    root = request.scope.get("root_path", "").rstrip("/")
    host = request.headers.get("host", "localhost")
    port = (request.scope.get("server") or ("", None))[1]
    if host in LOOPBACK_HOSTS and port not in {None, 80, 443}:
        host = f"{host}:{port}"  # dicomweb-client names the host without its port; nobody but this machine is there
    return f"{request.url.scheme}://{host}{root}"
