"""dicomflow: DICOM from a hospital's devices into S3, an SQL index and AWS HealthImaging."""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
