"""A name that nobody knows is answered with the nearest that there is, and values are not shown."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from dicomflow.edge.settings import EdgeSettings
from dicomflow.spelling import describe_settings, meant, setting_paths


class Row(BaseModel):
    """A row of a table."""

    model_config = ConfigDict(extra="forbid")
    host: str = ""
    ae_title: str = ""


class Top(BaseModel):
    """Settings with each kind of section."""

    model_config = ConfigDict(extra="forbid")
    row: Row | None = None
    rows: dict[str, Row] = {}  # pydantic copies it
    order: tuple[Row, ...] = ()
    count: int = 1


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"row": {"hots": 1}}, "row.hots: there is no such setting; did you mean row.host?"),
        (
            {"rows": {"pacs": {"aetitle": 1}}},
            "rows.pacs.aetitle: there is no such setting; did you mean rows.pacs.ae_title?",
        ),
        ({"order": [{"hst": 1}]}, "order.0.hst: there is no such setting; did you mean order.0.host?"),
        ({"ae_title": "X"}, "ae_title: there is no such setting here; did you mean order.ae_title?"),
        ({"zzz": "secret"}, "zzz: there is no such setting"),
        ({"count": "secret"}, "count: Input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_wrong_setting_is_told_in_words_and_without_its_value(document: dict[str, object], told: str):
    """The nearest name of the same section comes first, then the same name in another."""
    with pytest.raises(ValidationError) as caught:
        Top(**document)  # type: ignore[arg-type]  # wrong on purpose
    assert told == describe_settings(caught.value, Top)


def test_every_setting_of_an_edge_is_found_by_its_path():
    """Sections, tables and lists are walked."""
    paths = set(setting_paths(EdgeSettings))
    assert {"name", "dimse.port", "dimse.tls.certificate", "destinations.ae_title", "delivery.bandwidth"} <= paths


def test_nothing_is_meant_by_what_is_like_nothing():
    """A wrong guess would send somebody the wrong way."""
    assert ("; did you mean status?", "") == (meant("statsu", ["status", "send"]), meant("xyz", ["status", "send"]))
