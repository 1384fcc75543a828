"""The service's errors, as an SDK expects them: a name, an HTTP status and one sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["STATUS_OF", "ServiceError"]

STATUS_OF: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ThrottlingException": 429,
        "AccessDeniedException": 403,
        "ValidationException": 400,
        "BadRequestException": 400,
        "InternalServerException": 500,
        "ResourceNotFoundException": 404,
        "ConflictException": 409,
        "ServiceQuotaExceededException": 402,
        "NotAcceptableException": 406,
    }
)


class ServiceError(Exception):
    """An answer of the simulated service other than 200; `name` is a key of `STATUS_OF`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.status = STATUS_OF[name]
        self.message = message
