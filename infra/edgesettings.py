"""What config.py sets of single edges: checked by the edge's own model, and carried to each by its name."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from dicomflow.cli.toml import merged
from infra.words import in_words

if TYPE_CHECKING:
    from infra.settings import EdgeDevice

__all__ = ["check_edge_settings", "own_settings"]

_MAX_CHARACTERS: Final = 30_000
"""Windows has 32,767 for a variable of the environment, in which a device gets them."""
_OF_THE_STACK: Final = (("name",), ("delivery", "store_url"), ("delivery", "kms_key_id"), ("delivery", "accelerate"))
_OF_AN_INSTANCE: Final = (("dimse", "port"), ("dimse", "bind"), ("spool", "dir"))


def check_edge_settings(name: str, settings: Mapping[str, Any], *, is_instance: bool) -> None:
    """Refuse what the edge would not start with.

    Args:
        name: the edge's, for the message.
        settings: as in edge.toml.
        is_instance: whether it is an instance of the stack's, whose spool and port are the stack's too.

    Raises:
        ValueError: the text names the edge and each setting.
    """
    # Little of a deployment needs the edge's packages.
    from dicomflow.edge.settings import EdgeSettings  # noqa: PLC0415

    class _SettingsAlone(EdgeSettings):
        """The model without this machine's environment."""

        @classmethod
        def settings_customise_sources(  # type: ignore[override]  # one of the sources that it is called with
            cls, settings_cls: Any, init_settings: Any, **_: Any
        ) -> tuple[Any, ...]:
            del settings_cls
            return (init_settings,)

    fixed = (*_OF_THE_STACK, *(_OF_AN_INSTANCE if is_instance else ()))
    problems = [f"{'.'.join(path)} is the stack's own" for path in fixed if _has(settings, path)]
    needed = {"name": name, "spool": {"dir": "spool"}, "delivery": {"store_url": "s3://bucket"}}
    try:
        json.dumps(settings)
        _SettingsAlone(**merged(needed, settings))
    except TypeError as error:
        problems.append(f"{error}: write texts, numbers, True, False, lists and tables")
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, item['loc']))}: {in_words(item)}" for item in error.errors()]
    if problems:
        raise ValueError(f"the settings of {name!r}: {'; '.join(problems)}")


def own_settings(edges: Iterable["EdgeDevice"], prefix: str) -> str:
    """Return the settings of all LOCAL edges as JSON, by the names of their things.

    It is one text, so that a device keeps nothing of what config.py no longer says.

    Raises:
        ValueError: it is too long for a device's environment.
    """
    by_thing = {f"{prefix}{each.name}": each.settings for each in edges if each.device_type == "LOCAL"}
    told = json.dumps({thing: settings for thing, settings in by_thing.items() if settings}, sort_keys=True)
    if len(told) > _MAX_CHARACTERS:
        raise ValueError(
            f"EDGE_CONFIG: the settings of all edges have {len(told):,} characters, {_MAX_CHARACTERS:,} at most"
        )
    return told


def _has(settings: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    value: Any = settings
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True
