"""JSON documents with a version, as pydantic reads and writes dataclasses: manifest, feedback and heartbeat.

Writers are strict by their types; readers ignore members that they do not know.
"""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AwareDatetime, Strict, StringConstraints, TypeAdapter, ValidationError, create_model

from dicomflow.errors import PermanentError

__all__ = ["Format", "Moment", "Text", "WholeNumber"]

Text = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$")]
"""What UTF-8, keys and both databases can hold: JSON's half pairs of surrogates are refused as no text."""
Moment = Annotated[AwareDatetime, Strict()]
WholeNumber = Annotated[int, Strict()]

T = TypeVar("T")


class Format(Generic[T]):
    """A dataclass as a JSON object in UTF-8, before whose members stands the version of the format."""

    def __init__(self, kind: type[T], name: str, version: int, member: str = "version") -> None:
        self._adapter = TypeAdapter(kind)
        self._head = create_model("Head", **{member: (Literal[version], ...)})  # type: ignore[call-overload]
        self._start = f'{{"{member}":{version},'.encode()
        self._name = f"{name} {version}"

    def encode(self, value: T) -> bytes:
        """Return a document; the same value gives the same bytes."""
        return self._start + self._adapter.dump_json(value).removeprefix(b"{")

    def decode(self, encoded: bytes) -> T:
        """Return what a document says.

        Raises:
            PermanentError: it is none of this version, or a member is missing or of another type.
        """
        try:
            self._head.model_validate_json(encoded)
            return self._adapter.validate_json(encoded)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise PermanentError(f"not {self._name}: {where or 'document'}: {first['type']}") from None
