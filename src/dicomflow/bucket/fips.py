"""S3's FIPS endpoint, for stores of obstore, which knows neither the variable nor the profile's setting."""

from typing import Any

from dicomflow.errors import PermanentError

__all__ = ["fips_endpoint"]


def fips_endpoint(session: Any) -> str | None:
    """Return S3's FIPS endpoint where `AWS_USE_FIPS_ENDPOINT`, or the profile, asks for it.

    Args:
        session: one of botocore's.

    Raises:
        PermanentError: it is asked for, and AWS lists none in the session's region, or the region is not known.
    """
    if not session.get_config_variable("use_fips_endpoint"):
        return None
    region = session.get_config_variable("region")
    if region is None:
        raise PermanentError("AWS_USE_FIPS_ENDPOINT is set, and no region: set AWS_REGION")
    for partition in session.get_data("endpoints")["partitions"]:
        endpoint = partition["services"].get("s3", {}).get("endpoints", {}).get(region, {})
        for variant in endpoint.get("variants", ()):
            if variant["tags"] == ["fips"]:
                return f"https://{variant['hostname']}"
    raise PermanentError(f"AWS_USE_FIPS_ENDPOINT is set, and S3 has no FIPS endpoint in {region}")
