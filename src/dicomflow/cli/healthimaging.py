"""Which HealthImaging a command calls: the simulator of a local system, or the one that AWS's own environment names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dicomflow.healthimaging.client import build_client
from dicomflow.local_address import simulator_of
from dicomflow.pipeline.connect import client_of
from dicomflow.pipeline.settings import load_relay

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging.client import HealthImagingClient

__all__ = ["healthimaging_of"]

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_MEDICAL_IMAGING", "AWS_ENDPOINT_URL")


def healthimaging_of(data: Path | None) -> "HealthImagingClient":
    """Return the client for what the folder of `dicomflow local` holds, or for what the environment says.

    Raises:
        PermanentError: there is a folder, no system runs on it, and the environment names no endpoint.
    """
    if data is None or any(map(os.environ.get, _ENDPOINTS)):
        client: HealthImagingClient = client_of("medical-imaging", load_relay())
        return client
    return build_client(simulator_of(data.absolute()), "us-east-1", "local", "local")
