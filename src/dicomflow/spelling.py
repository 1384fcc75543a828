"""What was meant by a name that nobody knows, and what is wrong with settings, in words for whoever wrote them."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import BaseModel, ValidationError

__all__ = ["describe_settings", "meant", "setting_paths"]

_KINDS: Final = frozenset({"dimse", "store", "stow"})
_KIND_AT: Final = 2
_MOST_DEPTH: Final = 6


def meant(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean …?` with the nearest of the names that there are; nothing where none is near."""
    near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def describe_settings(error: ValidationError, model: type[BaseModel]) -> str:
    """Return each thing that is wrong with settings, by its name and without its value, which may be a secret."""
    told = []
    for item in error.errors(include_input=False, include_url=False):
        location = _without_kind(item["loc"])
        where = ".".join(map(str, location))
        what = _describe(item["type"], item["msg"], location, model)
        told.append(f"{where}: {what}" if where else what)  # what no one key is to blame for names its keys itself
    return "; ".join(told)


def _without_kind(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return where something is without the kind of a destination, which pydantic puts between and which is no key."""
    is_of_kind = location[:1] == ("destinations",) and len(location) > _KIND_AT and location[_KIND_AT] in _KINDS
    return (*location[:_KIND_AT], *location[_KIND_AT + 1 :]) if is_of_kind else location


def _describe(kind: str, message: str, location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    if kind == "missing":
        return "it is missing"
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ")
    name = str(location[-1])
    here = _model_at(model, location[:-1])
    section = "".join(f"{part}." for part in location[:-1])
    near = meant(f"{section}{name}", [f"{section}{each}" for each in here.model_fields] if here is not None else ())
    if near:
        return f"there is no such setting{near}"
    elsewhere = sorted(path for path in setting_paths(model) if path.rpartition(".")[2] == name)
    return f"there is no such setting here; did you mean {elsewhere[0]}?" if elsewhere else "there is no such setting"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model of a section; names of a table's rows and numbers of a list's are no fields, and passed by."""
    found: type[BaseModel] | None = model
    for part in location:
        if found is not None and part in found.model_fields:
            found = _model_of(found.model_fields[str(part)].annotation)
    return found


def setting_paths(model: type[BaseModel], prefix: str = "", depth: int = _MOST_DEPTH) -> Iterator[str]:
    """Yield the name of each setting with its sections, as `dimse.port`."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        section = _model_of(field.annotation)
        if section is not None and depth:
            yield from setting_paths(section, f"{prefix}{name}.", depth - 1)


def _model_of(annotation: Any) -> type[BaseModel] | None:  # whatever stands behind a field's colon
    """Return the model in an annotation such as `TlsSettings | None` or `dict[str, Destination]`."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return annotation if issubclass(annotation, BaseModel) else None
    found = (_model_of(each) for each in getattr(annotation, "__args__", ()))
    return next((each for each in found if each is not None), None)
