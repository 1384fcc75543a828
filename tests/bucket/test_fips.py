"""S3's FIPS endpoint: used where the environment asks for it, refused where there is none."""

from typing import Any

import boto3
import pytest

from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store
from dicomflow.errors import PermanentError
from dicomflow.healthimaging.client import build_client
from dicomflow.pipeline import connect


@pytest.fixture
def fips(aws_environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Ask for FIPS endpoints, as Greengrass does with its `fipsMode` and the stack for its functions."""
    aws_environment.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    return aws_environment


def _endpoint(store: Any) -> str:
    return str(store.config["endpoint"])


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "us-gov-west-1"])
def test_stores_of_edge_and_pipeline_are_at_the_fips_endpoint(fips: pytest.MonkeyPatch, region: str):
    """Where boto3's own client would be."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        fips.setenv(name, region)
    expected = f"https://s3-fips.{region}.amazonaws.com"
    assert expected == _endpoint(build_store(DeliverySettings(store_url="s3://bucket")))
    assert expected == _endpoint(connect.build_store("s3://bucket")[1])
    assert "-fips." in boto3.client("s3", region_name=region).meta.endpoint_url


def test_clients_of_the_pipeline_are_at_fips_endpoints(fips: pytest.MonkeyPatch):
    """SQS, Lambda and HealthImaging: whatever is built by boto3 hears the variable."""
    clients = [build_client(), connect.client_of("sqs"), connect.client_of("secretsmanager")]
    assert ["medical-imaging-fips", "sqs-fips", "secretsmanager-fips"] == [
        client.meta.endpoint_url.removeprefix("https://").partition(".")[0] for client in clients
    ]


def test_region_without_a_fips_endpoint_is_refused(fips: pytest.MonkeyPatch):
    """An image that went by another endpoint would break the rule that was asked for."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        fips.setenv(name, "eu-west-1")
    for build in (lambda: build_store(DeliverySettings(store_url="s3://b")), lambda: connect.build_store("s3://b")):
        with pytest.raises(PermanentError, match="S3 has no FIPS endpoint in eu-west-1"):
            build()


def test_acceleration_and_fips_exclude_each_other(fips: pytest.MonkeyPatch):
    """Acceleration has no FIPS endpoint."""
    with pytest.raises(PermanentError, match=r"delivery\.accelerate has no FIPS endpoint"):
        build_store(DeliverySettings(store_url="s3://bucket", accelerate=True))


def test_endpoint_that_is_named_stays(fips: pytest.MonkeyPatch):
    """It may be a FIPS one of a VPC's own."""
    settings = DeliverySettings(store_url="s3://bucket", endpoint="https://s3.example")
    assert "https://s3.example" == _endpoint(build_store(settings))
    fips.setenv("AWS_ENDPOINT_URL_S3", "https://vpce.example")
    assert "https://vpce.example" == _endpoint(connect.build_store("s3://bucket")[1])
