"""DEVICE_CONFIG: what the devices of all edges have in common, and the components of AWS's that it asks for."""

from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from dicomflow.cli.nucleus import LOG_MANAGER, NUCLEUS, NUCLEUS_COMPONENT, nucleus_settings
from infra.greengrass import COMPONENT
from infra.values import Section, text

__all__ = ["LOG_MANAGER_COMPONENT", "DeviceConfig", "public_components"]

LOG_MANAGER_COMPONENT: Final = "aws.greengrass.LogManager"
_UPLOAD_SECONDS: Final = 300
_Version = Annotated[str, text(r"(\d+\.\d+\.\d+)?", "nothing, or a version such as 2.16.0")]


class DeviceConfig(Section):
    """DEVICE_CONFIG."""

    proxy_url: Annotated[
        str, text(r"(https?://[\w.-]+(:\d+)?)?", "nothing, or http:// and a proxy's host and port, without a user")
    ] = ""
    proxy_excludes: Annotated[
        str, text(r"([\w.:/*-]+(,[\w.:/*-]+)*)?", "nothing, or hosts and addresses, parted by commas without blanks")
    ] = ""
    only_port_443: bool = False
    logs_to_cloudwatch: bool = False
    nucleus_version: _Version = ""
    log_manager_version: _Version = ""

    @field_validator("proxy_url")
    @classmethod
    def _has_a_port(cls, url: str) -> str:
        try:
            _ = urlsplit(url).port
        except ValueError as error:
            raise ValueError(f"{url!r}; a port is at most 65535") from error
        return url

    @model_validator(mode="after")
    def _excludes_from_something(self) -> Self:
        if self.proxy_excludes and not self.proxy_url:
            raise ValueError("proxy_excludes needs a proxy_url")
        return self


def public_components(config: DeviceConfig, region: str, *, is_fips: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return by name the version and the configuration of AWS's own components that a deployment has."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    told = nucleus_settings(
        region,
        proxy_url=config.proxy_url,
        proxy_excludes=config.proxy_excludes,
        only_443=config.only_port_443,
        is_fips=is_fips,
    )
    if told:
        found[NUCLEUS_COMPONENT] = (config.nucleus_version or NUCLEUS, told)
    if config.logs_to_cloudwatch:
        found[LOG_MANAGER_COMPONENT] = (config.log_manager_version or LOG_MANAGER, _log_manager_settings())
    return found


def _log_manager_settings() -> dict[str, Any]:
    """Return what is uploaded: the nucleus's log and the edge's, which stay on the device as well."""

    def log(megabytes: int, **more: str) -> dict[str, str]:
        limit = {"diskSpaceLimit": str(megabytes), "diskSpaceLimitUnit": "MB"}
        return {"minimumLogLevel": "INFO", **limit, "deleteLogFileAfterCloudUpload": "false", **more}

    return {
        "logsUploaderConfiguration": {
            "systemLogsConfiguration": log(10, uploadToCloudWatch="true"),
            "componentLogsConfigurationMap": {COMPONENT: log(100)},
        },
        "periodicUploadIntervalSec": str(_UPLOAD_SECONDS),
    }
