"""Image frames: their ids in the metadata, and GetImageFrame."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row

from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.world import World, identifier

__all__ = ["frame_list", "get_image_frame"]


def frame_list(datastore_id: str, image_set_id: str, instance: Row[Any]) -> list[dict[str, Any]]:
    """Return the frames of an instance as the metadata lists them; one without pixels has none."""
    document = instance.document["DICOM"]
    columns, rows = document.get("Columns"), document.get("Rows")
    if not isinstance(columns, int) or not isinstance(rows, int):
        return []
    samples, allocated = document.get("SamplesPerPixel") or 1, document.get("BitsAllocated") or 8
    return [
        {
            "ID": identifier("frame", datastore_id, image_set_id, instance.sop_instance_uid, number),
            "FrameSizeInBytes": columns * rows * samples * allocated // 8,
        }
        for number in range(document.get("NumberOfFrames") or 1)
    ]


def get_image_frame(_world: World, _connection: Connection, _params: Mapping[str, Any]) -> bytes:
    """GetImageFrame: pixels are not kept, so no frame can be had."""
    raise ServiceError("NotAcceptableException", "This simulator does not serve image frames")
