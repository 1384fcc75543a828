"""A simulated AWS HealthImaging that an unmodified SDK client can use with only an endpoint URL.

`create_app` builds it, `serve` runs it. It must not know the pipeline: it reads and writes buckets and answers HTTP.
"""

from dicomflow.healthimaging.simulator.app import Stores, create_app
from dicomflow.healthimaging.simulator.faults import Faults, FileFault
from dicomflow.healthimaging.simulator.settings import (
    SERVICE_CONCURRENT_JOBS,
    SERVICE_RATES,
    Rate,
    SimulatorSettings,
)
from dicomflow.serving import serve

__all__ = [
    "SERVICE_CONCURRENT_JOBS",
    "SERVICE_RATES",
    "Faults",
    "FileFault",
    "Rate",
    "SimulatorSettings",
    "Stores",
    "create_app",
    "serve",
]
