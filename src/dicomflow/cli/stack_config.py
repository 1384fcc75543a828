"""What a config.py writes out, read without running its code.

A name may stand for a value that was written out above. What is computed, imported or changed later is not known, and
whoever asks for it is told so: a guess would leave a proxy or a rule of access out without a word.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from dicomflow.errors import PermanentError

__all__ = ["StackConfig", "read_config"]

_CONFIG: Final = Path("config.py")


class StackConfig:
    """The values of a config.py that are written out, and the names of those that are not."""

    def __init__(self, body: Iterable[ast.stmt]) -> None:
        self._values: dict[str, Any] = {}
        self._sources: dict[str, set[str]] = {}
        self._hidden: set[str] = set()
        self._hides_all = False
        for statement in body:
            self._read(statement)

    def hides(self, name: str) -> bool:
        """Tell whether config.py has a value of this name, or may have one, that is not written out."""
        return name in self._hidden or (self._hides_all and name not in self._values)

    def value(self, name: str, remedy: str) -> Any:
        """Return a value; None where config.py does not have the name.

        Raises:
            PermanentError: it is not written out; the text ends with the remedy.
        """
        if self.hides(name):
            raise PermanentError(f"config.py does not say {name} in plain text: {remedy}")
        return self._values.get(name)

    def section(self, name: str, remedy: str) -> dict[str, Any]:
        """Return a section, empty where config.py does not have it.

        Raises:
            PermanentError: it is not written out, or is none.
        """
        found = self.value(name, remedy)
        if found is not None and not isinstance(found, dict):
            raise PermanentError(f"{name} in config.py must be names and values, in {{ and }}")
        return found or {}

    def edges(self, remedy: str) -> dict[str, dict[str, Any]]:
        """Return the edges of EDGE_CONFIG by their names.

        Raises:
            PermanentError: they are not written out, or are none.
        """
        found = self.value("EDGE_CONFIG", remedy)
        if not isinstance(found or [], list | tuple) or not all(isinstance(each, dict) for each in found or ()):
            raise PermanentError("EDGE_CONFIG in config.py must be a list of edges, in [ and ]")
        return {str(each.get("Name")): each for each in found or ()}

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.ImportFrom | ast.Import):
            self._import(statement)
            return
        targets, value = _assigned(statement)
        if value is None:
            self._hide({each.id for each in ast.walk(statement) if isinstance(each, ast.Name)})
            return
        used = {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}
        for name in targets:
            self._values.pop(name, None)
            self._hidden.discard(name)
            self._sources[name] = used.union(*(self._sources.get(each, set()) for each in used))
            try:
                self._values[name] = ast.literal_eval(_Written(self._values).visit(value))
            except (ValueError, TypeError):
                self._hidden.add(name)

    def _import(self, statement: ast.ImportFrom | ast.Import) -> None:
        names = {each.asname or each.name for each in statement.names}
        if "*" in names:
            self._hides_all = True
            self._values.clear()
        self._hide(names)

    def _hide(self, names: set[str]) -> None:
        """Forget values that a statement may change, and those that are made of them."""
        made = {name for name, sources in self._sources.items() if sources & names}
        for name in names | made:
            self._values.pop(name, None)
            self._hidden.add(name)


class _Written(ast.NodeTransformer):
    """Puts values in the places of the names that stand for them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(repr(self._values[node.id]), mode="eval").body if node.id in self._values else node


def read_config() -> StackConfig:
    """Return what the config.py of this folder writes out.

    Raises:
        FileNotFoundError: there is none.
        PermanentError: it cannot be read.
    """
    try:
        return StackConfig(ast.parse(_CONFIG.read_text(encoding="utf-8")).body)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise PermanentError(f"config.py cannot be read: {error}") from error


def _assigned(statement: ast.stmt) -> tuple[list[str], ast.expr | None]:
    """Return the names that get a value, and the value; none where the statement is something else."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    names = [each.id for each in targets if isinstance(each, ast.Name)]
    is_plain = bool(names) and len(names) == len(targets)
    return (names, getattr(statement, "value", None)) if is_plain else ([], None)
