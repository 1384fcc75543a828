"""Where the services are that a deployment needs."""

from typing import Final

from infra.errors import ConfigError

__all__ = ["HEALTHIMAGING_REGIONS", "check_region"]

HEALTHIMAGING_REGIONS: Final = ("ap-southeast-2", "eu-west-1", "eu-west-2", "us-east-1", "us-west-2")
"""Regions of AWS HealthImaging, November 2026; AWS IoT Greengrass and Aurora Serverless v2 are in all of them."""


def check_region(region: str | None, *, with_imports: bool) -> None:
    """Refuse a region without HealthImaging where imports are on; None, a region that is not known yet, passes.

    Raises:
        ConfigError: HealthImaging is not there.
    """
    if with_imports and region is not None and region not in HEALTHIMAGING_REGIONS:
        raise ConfigError(
            f"AWS HealthImaging is not in region {region}: deploy to one of {', '.join(HEALTHIMAGING_REGIONS)},"
            " or set ahli_enabled in AHLI_CONFIG to False"
        )
