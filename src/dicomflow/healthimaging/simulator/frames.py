"""Image frames: their ids and checksums in the metadata, and GetImageFrame.

Frames are made from the imported objects when they are asked for; nothing of them is kept.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.pixels import Frame, PixelsError, encode_frames
from dicomflow.healthimaging.simulator.state import image_set, image_set_instance
from dicomflow.healthimaging.simulator.world import Blob, World, identifier

__all__ = ["frame_list", "get_image_frame"]


def frame_list(world: World, datastore_id: str, image_set_id: str, instance: Row[Any]) -> list[dict[str, Any]]:
    """Return the frames of an instance as the metadata lists them.

    An instance without pixels, or with pixels that cannot be read, has none; one whose object is gone has ids alone.
    """
    try:
        entries = [frame.entry for frame in _frames(world, instance)]
    except PixelsError:
        return []
    except FileNotFoundError:
        entries = [{} for _ in range(int(instance.document["DICOM"].get("NumberOfFrames") or 1))]
    return [{"ID": _frame_id(datastore_id, image_set_id, instance, n), **entry} for n, entry in enumerate(entries)]


def get_image_frame(world: World, connection: Connection, params: Mapping[str, Any]) -> Blob:
    """GetImageFrame: lossless HTJ2K, or as stored."""
    statement = (
        select(image_set_instance)
        .join(image_set, image_set.c.image_set_id == image_set_instance.c.image_set_id)
        .where(image_set.c.datastore_id == params["datastoreId"], image_set.c.state != "DELETED")
        .where(image_set.c.image_set_id == params["imageSetId"])
        .order_by(image_set_instance.c.from_version.desc())
    )
    wanted = params["imageFrameInformation"]["imageFrameId"]
    for instance in connection.execute(statement):
        count = int(instance.document["DICOM"].get("NumberOfFrames") or 1)
        for number in range(count):
            if _frame_id(params["datastoreId"], params["imageSetId"], instance, number) == wanted:
                return _frame(world, instance, number)
    raise ServiceError("ResourceNotFoundException", f"Image frame {wanted} does not exist")


def _frame(world: World, instance: Row[Any], number: int) -> Blob:
    try:
        for index, frame in enumerate(_frames(world, instance)):
            if index == number:
                return Blob(frame.encoded, frame.content_type)
    except PixelsError as error:
        raise ServiceError("NotAcceptableException", str(error)) from error
    except FileNotFoundError as error:
        raise ServiceError("InternalServerException", "The imported object is gone") from error
    raise ServiceError("ResourceNotFoundException", f"The instance has no frame {number + 1}")


def _frames(world: World, instance: Row[Any]) -> Iterator[Frame]:
    store = world.stores(instance.bucket)
    if store is None:
        raise FileNotFoundError(instance.bucket)
    return encode_frames(bytes(store.get(instance.key).bytes()))


def _frame_id(datastore_id: str, image_set_id: str, instance: Row[Any], number: int) -> str:
    version = () if instance.from_version == 1 else (instance.from_version,)
    return identifier("frame", datastore_id, image_set_id, instance.sop_instance_uid, number, *version)
