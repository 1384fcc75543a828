"""An edge with two routes: CT to a second store and a PACS, MR to the default store and the second."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from routed_site import RoutedSite
from transfer_site import Pacs

from dicomflow.edge.deliver import deliverer as deliverer_module
from dicomflow.edge.deliver import uploader as uploader_module
from dicomflow.edge.forward import process as process_module
from dicomflow.edge.transfer import lane as lane_module
from dicomflow.edge.transfer import verdict as verdict_module


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """Give a destination."""
    started = Pacs()
    yield started
    started.close()


@pytest.fixture
def routed(tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch) -> RoutedSite:
    """Give an edge that looks often and tries again at once."""
    for module, name, seconds in (
        (deliverer_module, "_POLL_SECONDS", 0.02),
        (uploader_module, "_FIRST_PAUSE_SECONDS", 0.01),
        (uploader_module, "_LONGEST_PAUSE_SECONDS", 0.05),
        (process_module, "_LOOK_SECONDS", 0.02),
        (verdict_module, "_FIRST_WAIT_SECONDS", 0.05),
        (verdict_module, "_LONGEST_WAIT_SECONDS", 0.2),
        (lane_module, "_LOOK_SECONDS", 0.05),
        (verdict_module, "_FIRST_PAUSE_SECONDS", 0.05),
        (verdict_module, "_LONGEST_PAUSE_SECONDS", 0.05),
    ):
        monkeypatch.setattr(module, name, seconds)
    return RoutedSite(tmp_path, **settings_for(tmp_path, pacs.port))


def settings_for(folder: Path, port: int) -> dict[str, Any]:
    """Return destinations and routes."""
    return {
        "destinations": {
            "research": {"kind": "store", "url": (folder / "research").as_uri(), "prefix": "copies"},
            "pacs": {"host": "127.0.0.1", "port": port, "ae_title": "PACS", "associations": 1},
        },
        "routes": [
            {"name": "ct", "when": {"modality": "CT"}, "to": ["pacs", "research"]},
            {"name": "mr", "when": {"modality": "MR"}, "to": ["store", "research"]},
        ],
    }
