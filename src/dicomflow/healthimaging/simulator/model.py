"""The service's own interface description, as botocore ships it: routes, request parsing, validation, responses.

Nothing of the wire format is written by hand here: members, their places (path, query, body), patterns, lengths and
enumerations come from the model, so that the simulator cannot drift from what an SDK sends and reads.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StringShape, StructureShape

from dicomflow.healthimaging.simulator.errors import ServiceError

__all__ = ["load_model", "parse_request", "serialize"]

SERVICE: Final = "medical-imaging"
JSON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "blob": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "timestamp": (int, float),
}


@cache
def load_model() -> ServiceModel:
    """Return botocore's model of the service."""
    return ServiceModel(Loader().load_service_model(SERVICE, "service-2"), SERVICE)


def parse_request(
    operation: OperationModel, path: Mapping[str, str], query: Sequence[tuple[str, str]], body: bytes
) -> dict[str, Any]:
    """Return the validated input members of a request.

    Raises:
        ServiceError: the body is no JSON object, or a member breaks the model (ValidationException).
    """
    shape = operation.input_shape
    if shape is None:
        return {}
    document = _decode_body(body)
    payload = shape.serialization.get("payload")
    values: dict[str, Any] = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        wire_name = member.serialization.get("name", name)
        if location == "uri":
            values[name] = path[wire_name]
        elif location == "querystring":
            found = [value for key, value in query if key == wire_name]
            if found:
                values[name] = _from_query(member, found)
        elif name == payload:
            values[name] = document
        elif payload is None and wire_name in document:
            values[name] = document[wire_name]
    return dict(_checked(shape, values, "input"))


def serialize(shape: Shape, value: Any) -> Any:
    """Return `value` as the JSON this shape has on the wire; members that are None are left out.

    Raises:
        ServiceError: a member the model requires is missing (InternalServerException: a bug of the simulator).
    """
    if isinstance(shape, StructureShape):
        members = {}
        for name, member in shape.members.items():
            item = value.get(name)
            if item is not None:
                members[member.serialization.get("name", name)] = serialize(member, item)
            elif name in shape.required_members:
                raise ServiceError("InternalServerException", f"{shape.name} lacks {name}")
        return members
    if isinstance(shape, ListShape):
        return [serialize(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {str(key): serialize(shape.value, item) for key, item in value.items()}
    if shape.type_name == "timestamp" and isinstance(value, datetime):
        return value.timestamp()
    return value


def _decode_body(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ServiceError("ValidationException", "The request body is not JSON") from error
    if not isinstance(document, dict):
        raise ServiceError("ValidationException", "The request body is not a JSON object")
    return document


def _from_query(shape: Shape, found: list[str]) -> Any:
    if isinstance(shape, ListShape):
        return found
    text = found[-1]
    if shape.type_name == "boolean" and text in {"true", "false"}:
        return text == "true"
    if shape.type_name == "integer" and re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    return text


def _checked(shape: Shape, value: Any, where: str) -> Any:
    """Return the value with unknown members dropped and blobs decoded, or raise a ValidationException."""
    if not _has_type(shape, value):
        raise _invalid(where, f"must be a {shape.type_name}")
    if isinstance(shape, StructureShape):
        return _checked_structure(shape, value, where)
    if isinstance(shape, ListShape):
        _check_size(shape, len(value), where)
        return [_checked(shape.member, item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(shape, MapShape):
        _check_size(shape, len(value), where)
        return {
            _checked(shape.key, key, f"{where} key"): _checked(shape.value, item, f"{where}.{key}")
            for key, item in value.items()
        }
    if shape.type_name == "blob":
        return _checked_blob(shape, value, where)
    if isinstance(shape, StringShape):
        _check_size(shape, len(value), where)
        pattern = shape.metadata.get("pattern")
        if pattern is not None and not _compiled(pattern).fullmatch(value):
            raise _invalid(where, f"must satisfy regular expression pattern: {pattern}")
        if shape.enum and value not in shape.enum:
            raise _invalid(where, f"must be one of {', '.join(shape.enum)}")
    elif shape.type_name == "integer":
        _check_size(shape, value, where)
    return value


def _has_type(shape: Shape, value: Any) -> bool:
    expected = JSON_TYPES[shape.type_name]
    return isinstance(value, expected) and (bool in expected or not isinstance(value, bool))


def _checked_structure(shape: StructureShape, value: dict[str, Any], where: str) -> dict[str, Any]:
    by_name = {name: member for name, member in shape.members.items() if value.get(name) is not None}
    for name in shape.required_members:
        if name not in by_name:
            raise _invalid(f"{where}.{name}", "must not be null")
    if shape.is_tagged_union and len(by_name) != 1:
        raise _invalid(where, f"must hold exactly one of {', '.join(shape.members)}")
    return {name: _checked(member, value[name], f"{where}.{name}") for name, member in by_name.items()}


def _checked_blob(shape: Shape, value: str, where: str) -> bytes:
    try:
        decoded = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise _invalid(where, "must be base64") from error
    _check_size(shape, len(decoded), where)
    return decoded


def _check_size(shape: Shape, size: int, where: str) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        raise _invalid(where, f"must have length or value of at least {least}, has {size}")
    if most is not None and size > most:
        raise _invalid(where, f"must have length or value of at most {most}, has {size}")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the model, which is Java's dialect, for Python."""
    return re.compile(pattern.replace(r"\p{ASCII}", r"[\x00-\x7f]"))


def _invalid(where: str, reason: str) -> ServiceError:
    return ServiceError(
        "ValidationException", f"1 validation error detected: Value at '{where}' failed to satisfy: {reason}"
    )
