"""Where the services are that a deployment needs, by their usual endpoints and by those of FIPS 140."""

from typing import Any, Final

from infra.errors import ConfigError

__all__ = ["HEALTHIMAGING_REGIONS", "check_region", "deployable_regions", "fips_regions"]

HEALTHIMAGING_REGIONS: Final = ("ap-southeast-2", "eu-west-1", "eu-west-2", "us-east-1", "us-west-2")
"""Regions of AWS HealthImaging, November 2026; AWS IoT Greengrass and Aurora Serverless v2 are in all of them."""
_HEALTHIMAGING_FIPS: Final = frozenset({"us-east-1", "us-west-2"})
"""AWS General Reference, "AWS HealthImaging endpoints and quotas"; botocore's list of endpoints does not have it."""
_CALLED: Final = ("events", "lambda", "s3", "secretsmanager", "sqs")
"""What functions and edges call beside HealthImaging, by botocore's names."""


def fips_regions(service: str) -> frozenset[str]:
    """Return the regions in which AWS lists an FIPS endpoint of a service, from what botocore was published with."""
    import botocore.session  # noqa: PLC0415  # only where FIPS is asked for

    document: dict[str, Any] = botocore.session.Session().get_data("endpoints")
    return frozenset(
        region
        for partition in document["partitions"]
        for region, endpoint in partition["services"].get(service, {}).get("endpoints", {}).items()
        if any("fips" in variant["tags"] for variant in endpoint.get("variants", ()))
    )


def deployable_regions(*, with_imports: bool, with_fips: bool) -> tuple[tuple[str, ...], str]:
    """Return the regions that have all that is called, and what is to be said of any other."""
    if not with_fips:
        return HEALTHIMAGING_REGIONS, (
            f"AWS HealthImaging is in {', '.join(HEALTHIMAGING_REGIONS)} only: deploy there, or set"
            " ahli_enabled in AHLI_CONFIG to False"
        )
    everywhere = frozenset.intersection(*(fips_regions(service) for service in _CALLED))
    found = tuple(sorted(everywhere & _HEALTHIMAGING_FIPS if with_imports else everywhere))
    off = "ahli_enabled in AHLI_CONFIG or " if with_imports else ""
    names = "HealthImaging, " if with_imports else ""
    return found, (
        f"{names}EventBridge, Lambda, S3, Secrets Manager and SQS have FIPS endpoints in {', '.join(found)} only:"
        f" deploy there, or set {off}fips_endpoints in ACCOUNT_CONFIG to False"
    )


def check_region(region: str | None, *, with_imports: bool, with_fips: bool = False) -> None:
    """Refuse a region that lacks what is called; None, a region that is not known yet, passes.

    Raises:
        ConfigError: HealthImaging is not there, or an FIPS endpoint that is asked for.
    """
    if region is None:
        return
    if with_imports and region not in HEALTHIMAGING_REGIONS:
        raise ConfigError(
            f"AWS HealthImaging is not in region {region}: deploy to one of {', '.join(HEALTHIMAGING_REGIONS)},"
            " or set ahli_enabled in AHLI_CONFIG to False"
        )
    if with_fips:
        regions, reason = deployable_regions(with_imports=with_imports, with_fips=True)
        if region not in regions:
            raise ConfigError(f"region {region}: {reason}")
