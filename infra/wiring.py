"""What every function of the pipeline stands on: network, key, bucket, catalog and the settings they all read."""

import json
from dataclasses import dataclass, field, replace

from aws_cdk import Duration
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.catalog import Catalog
from infra.functions import PipelineFunction
from infra.landing import LandingBucket
from infra.network import Network
from infra.settings import DeploymentSettings

__all__ = ["Foundation"]


@dataclass(frozen=True, slots=True)
class Foundation:
    """The parts that functions share; `environment` is what they are told beside those."""

    settings: DeploymentSettings
    key: kms.IKey
    network: Network
    landing: LandingBucket
    catalog: Catalog
    environment: dict[str, str] = field(default_factory=dict)

    def with_environment(self, environment: dict[str, str]) -> "Foundation":
        """Return the same parts with more to tell."""
        return replace(self, environment={**self.environment, **environment})

    def pipeline_function(
        self, scope: Construct, name: str, *, timeout: Duration, memory_mib: int, **environment: str
    ) -> PipelineFunction:
        """Make a function that reads the pipeline's settings."""
        return PipelineFunction(
            scope,
            name,
            settings=self.settings,
            key=self.key,
            network=self.network,
            environment={
                "DICOMFLOW_STORE_URL": self.landing.url,
                "DICOMFLOW_ISSUERS": json.dumps(self.settings.pipeline_issuers, sort_keys=True),
                "DICOMFLOW_CHARACTER_SETS": json.dumps(self.settings.pipeline_character_sets, sort_keys=True),
                **self.catalog.environment,
                **self.environment,
                **environment,
            },
            timeout=timeout,
            memory_mib=memory_mib,
            layers=[self.catalog.layer],
        )
