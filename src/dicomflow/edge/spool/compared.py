"""What nightly comparisons found, a note for each source in the spool: who compares writes, who tells the cloud reads.

News, not truth: what is missing is found anew each night.
"""

import logging
from pathlib import Path
from typing import Final

from dicomflow.bucket.compared import ComparedSource
from dicomflow.bucket.documents import Format
from dicomflow.edge.spool.durable import give_to_owner_of, write_note
from dicomflow.edge.spool.layout import FOLDER_MODE
from dicomflow.errors import PermanentError
from dicomflow.regularfiles import read_regular

__all__ = ["note_compared", "read_compared"]

_FOLDER: Final = "compared"
_FORMAT: Final = Format(ComparedSource, "a comparison of version", 1)

_logger = logging.getLogger(__name__)


def note_compared(root: Path, found: ComparedSource) -> None:
    """Keep what a comparison found in the place of the last one of its source. Raises `OSError`."""
    folder = root / _FOLDER
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    give_to_owner_of(root, folder)
    write_note(folder / f"{found.name}.json", _FORMAT.encode(found))


def read_compared(root: Path, names: tuple[str, ...]) -> tuple[ComparedSource, ...]:
    """Return what was found of these sources; one that was not compared yet, or whose note is none, is left out."""
    found = []
    for name in names:
        try:
            found.append(_FORMAT.decode(read_regular(root / _FOLDER / f"{name}.json")))
        except FileNotFoundError:
            continue
        except (OSError, PermanentError) as error:
            _logger.warning("comparison_not_read source=%s error=%s", name, type(error).__name__)
    return tuple(found)
