"""The Greengrass nucleus of an edge's device: which one it is, and what it is told of the network around it.

An installation tells it (`dicomflow edge-install`), and so does each deployment (`infra/component.py`).
"""

from typing import Final

__all__ = [
    "CREDENTIALS_HOST",
    "DATA_HOST",
    "LOG_MANAGER",
    "NUCLEUS",
    "NUCLEUS_COMPONENT",
    "NUCLEUS_SHA256",
    "nucleus_settings",
]

NUCLEUS: Final = "2.16.0"
"""The newest whose digest AWS publishes: in its Yocto layer, meta-aws, recipe greengrass-bin (decision 0044)."""
NUCLEUS_SHA256: Final = "f07742c76eca868617127b5c6c9028e41c45c2b4ec25dd0db6f3b40ef7638b4e"
NUCLEUS_COMPONENT: Final = "aws.greengrass.Nucleus"
LOG_MANAGER: Final = "2.3.11"
"""The version of aws.greengrass.LogManager that AWS released with that nucleus."""
CREDENTIALS_HOST: Final = "data.credentials.iot-fips.{region}.amazonaws.com"
"""Developer Guide, "FIPS endpoints": where a region has one, it is every account's."""
DATA_HOST: Final = "data.iot-fips.{region}.amazonaws.com"
"""The same of MQTT and Greengrass's data plane."""
_LOOPBACK: Final = "localhost,127.0.0.1"


def nucleus_settings(
    region: str, *, proxy_url: str = "", proxy_excludes: str = "", only_443: bool = False, is_fips: bool = False
) -> dict[str, object]:
    """Return a nucleus's configuration as far as it is not its default; nothing where all is.

    AWS IoT Greengrass Developer Guide, "Connect on port 443 or through a network proxy" and "FIPS endpoints".

    Args:
        region: the stack's.
        proxy_url: the proxy, which the nucleus tells its components too.
        proxy_excludes: hosts that are reached without it, parted by commas.
        only_443: whether everything goes to port 443, in the place of 8443 and 8883.
        is_fips: whether AWS is called by its FIPS endpoints alone.
    """
    told: dict[str, object] = {}
    if proxy_url:
        excludes = ",".join(filter(None, (_LOOPBACK, proxy_excludes)))
        told["networkProxy"] = {"noProxyAddresses": excludes, "proxy": {"url": proxy_url}}
    if only_443:
        told |= {"mqtt": {"port": 443}, "greengrassDataPlanePort": 443}
    if is_fips:
        told |= {
            "fipsMode": "true",
            "iotDataEndpoint": DATA_HOST.format(region=region),
            "iotCredEndpoint": CREDENTIALS_HOST.format(region=region),
            "greengrassDataPlaneEndpoint": "iotdata",
        }
    return told
