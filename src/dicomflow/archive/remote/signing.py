"""What proves to an origin who asks: AWS Signature Version 4, or a header that a file has."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dicomflow.archive.remote.origin import Sign
from dicomflow.errors import TransientError

__all__ = ["AwsKeys", "authorization_of", "sign_for_aws"]

AwsKeys = tuple[str, str, str | None]
"""Access key, secret key, and session token."""

_SERVICE = "medical-imaging"


def sign_for_aws(keys: Callable[[], AwsKeys], region: str) -> Sign:
    """Return what signs by Signature Version 4 with the keys that are valid then.

    Args:
        keys: gives them; raises TransientError where there are none.
        region: the origin's.
    """
    # A third of a second, which only who asks HealthImaging has to wait for.
    from botocore.auth import SigV4Auth  # noqa: PLC0415  # as above
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415  # as above
    from botocore.credentials import Credentials  # noqa: PLC0415  # as above

    def sign(url: str, headers: Mapping[str, str]) -> dict[str, str]:
        request = AWSRequest("GET", url, headers=dict(headers))
        SigV4Auth(Credentials(*keys()), _SERVICE, region).add_auth(request)
        return dict(request.headers.items())

    return sign


def authorization_of(file: Path) -> Sign:
    """Return what sends a file's text as the header Authorization; it is read each time, since it may be exchanged."""

    def sign(_url: str, headers: Mapping[str, str]) -> dict[str, str]:
        try:
            text = file.read_text("latin-1").strip()
        except OSError as error:
            raise TransientError(f"archive.dicomweb_authorization_file cannot be read: {error.strerror}") from error
        return {**headers, "Authorization": text}

    return sign
