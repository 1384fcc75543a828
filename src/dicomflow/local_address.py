"""Where a running `dicomflow local` is asked: a note in its data folder, for commands that are given the folder.

It is there while the system runs, and may be older than a kill: who asks there finds out.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Final

from dicomflow.errors import PermanentError

__all__ = ["ADDRESS_FILE", "forget_addresses", "note_addresses", "simulator_of"]

ADDRESS_FILE: Final = "addresses.json"


def note_addresses(data: Path, addresses: dict[str, Any]) -> None:
    """Say where the system on a data folder is asked. Raises `OSError`."""
    part = data / f"{ADDRESS_FILE}.part"
    part.write_text(json.dumps(addresses), encoding="utf-8")
    part.replace(data / ADDRESS_FILE)


def forget_addresses(data: Path) -> None:
    """Say that the system is asked no more."""
    with contextlib.suppress(OSError):
        (data / ADDRESS_FILE).unlink(missing_ok=True)


def simulator_of(data: Path) -> str:
    """Return the URL of the simulated HealthImaging of the system on a data folder.

    Raises:
        PermanentError: no system runs there.
    """
    try:
        return str(json.loads((data / ADDRESS_FILE).read_text(encoding="utf-8"))["healthimaging"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PermanentError(
            f"no `dicomflow local` runs on {data}, whose simulated HealthImaging is to be asked: start it, or say by"
            " AWS_ENDPOINT_URL_MEDICAL_IMAGING where HealthImaging is"
        ) from error
