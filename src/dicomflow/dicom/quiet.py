"""pydicom without its warnings: they quote values, and values are patient data."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["without_warnings"]

_filters: Final = threading.RLock()
"""Guards the process's warning filters while they are changed: `warnings.catch_warnings` is not safe in threads."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep pydicom's warnings from the warning filters and from the log."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
