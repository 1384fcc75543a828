"""What the archive is reached by, for the addresses in its answers."""

from starlette.requests import Request

from dicomflow.archive.web.access import WebAccess

__all__ = ["base_url"]


def base_url(request: Request, access: WebAccess) -> str:
    """Return the service's base URI without a slash at its end: the one that is set, else what the request names.

    Behind a proxy that ends TLS or changes the path it must be set: no header is believed that anybody may write.
    """
    if access.public_url is not None:
        return access.public_url
    root = request.scope.get("root_path", "").rstrip("/")
    return f"{request.url.scheme}://{request.headers.get('host', 'localhost')}{root}"
