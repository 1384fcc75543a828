"""The edge's documents say what its code does: the conformance statement's tables, and every setting."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dicomflow.dimse.status import Rejection, Status
from dicomflow.edge.conformance import render
from dicomflow.edge.settings import EdgeSettings

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = Path(__file__).parents[2] / "src" / "dicomflow" / "edge"


def _statement() -> str:
    return (DOCS / "conformance.md").read_text(encoding="utf-8")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings models in an annotation, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def _has_many(annotation: Any) -> bool:
    """Tell whether an annotation has a list or a mapping of tables, be it optional."""
    is_many = getattr(annotation, "__origin__", None) in {tuple, dict}
    return is_many or any(_has_many(part) for part in getattr(annotation, "__args__", ()))


def _settings(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, list[str]]]:
    """Return name, default as the manual writes it, and for lists of tables their keys."""
    found: list[tuple[str, str, list[str]]] = []
    for name, field in model.model_fields.items():
        models = _models(field.annotation)
        is_table = bool(models) and not _has_many(field.annotation)
        if is_table:
            found += _settings(models[0], f"{prefix}{name}.")
            continue
        default = field.default
        text = "needed" if field.is_required() else "none" if default is None else f"`{_written(default)}`"
        found.append((prefix + name, text, list(models[0].model_fields) if models else []))
    return found


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(list(value) if isinstance(value, tuple) else value)


def test_statement_has_the_tables_of_this_version():
    """Making the tables again changes nothing."""
    assert render(_statement()) == _statement(), "run python -m dicomflow.edge.conformance docs/conformance.md"


def test_statement_has_every_table_filled():
    """No marked table is empty, and none is unmarked."""
    assert 9 == len(re.findall(r"<!-- table: [a-z-]+ -->\n\| .+\n\| ---", _statement()))


def test_statement_names_each_rejection():
    """Each A-ASSOCIATE-RJ that the code can send has its row."""
    rejects = [value for name, value in vars(Rejection).items() if name.isupper()]
    rows = [f"| {each.result} | {each.source} | {each.reason} |" for each in rejects]
    assert [] == [row for row in rows if row not in _statement()]


def test_statement_names_each_status_that_is_sent():
    """Each status that the edge's code names stands in the statement."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    sent = set(re.findall(r"\bStatus\.([A-Z_]+)", source))
    assert len(sent) > 9
    assert [] == sorted(name for name in sent if f"{Status[name]:04X}" not in _statement())


@pytest.mark.parametrize(("name", "default", "keys"), _settings(EdgeSettings))
def test_setting_of_the_edge_is_documented_with_its_default(name: str, default: str, keys: list[str]):
    """Each setting has its row in the operations manual, with the default in force."""
    manual = (DOCS / "operations.md").read_text(encoding="utf-8")
    rows = [line for line in manual.splitlines() if line.startswith(f"| `{name}` | {default} |")]
    assert 1 == len(rows)
    assert [] == [key for key in keys if f"`{key}`" not in rows[0]]
