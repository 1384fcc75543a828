"""What the AWS sample's config.py says beside ours: read where it means something here, answered where it does not."""

from collections.abc import Mapping
from typing import Any, Final

from infra.values import Section

__all__ = ["SampleStorage", "what_became_of", "with_acceleration"]

# Its functions, by what does their work here.
_FUNCTIONS: Final = {
    "DICOMProfiler": "{stack}-index reads the images and writes the catalog",
    "datastore": "{stack}-index and {stack}-plan write the catalog themselves",
    "DbInit": "{stack}-migrate makes and changes the tables",
    "CreateAHLIDatastore": "CloudFormation makes the data store",
}
_OTHER: Final = "{stack}-index, {stack}-plan, {stack}-drive and {stack}-collect do all of its work"


class SampleStorage(Section):
    """S3_CONFIG."""

    s3_acceleration: bool = False


def with_acceleration(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deployment's sections with S3_CONFIG's word in the place of STORAGE_CONFIG's, where that has none.

    Raises:
        ValueError: the two differ.
    """
    sample, storage = sections.get("sample_storage"), sections.get("storage", {})
    if (
        not isinstance(sample, Mapping)
        or not isinstance(storage, Mapping)
        or not isinstance(wanted := sample.get("s3_acceleration"), bool)
    ):
        return dict(sections)
    ours = storage.get("transfer_acceleration", wanted)
    if ours != wanted:
        raise ValueError(
            f"S3_CONFIG has s3_acceleration {wanted}, STORAGE_CONFIG has transfer_acceleration {ours}: leave one out"
        )
    return {**sections, "storage": {**storage, "transfer_acceleration": wanted}}


def what_became_of(functions: Mapping[str, Any], stack: str) -> list[str]:
    """Return a line for each function of LAMBDA_CONFIG; none of their values is read."""
    lines = [
        f"LAMBDA_CONFIG is not read: {name}: {_FUNCTIONS.get(name, _OTHER).format(stack=stack)}" for name in functions
    ]
    if lines:
        lines.append("LAMBDA_CONFIG: memory, timeouts and rights of the functions are the stack's own")
    return lines
