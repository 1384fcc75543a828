"""SITE_ISSUERS and SITE_CHARACTER_SETS: what devices mean that do not say it.

An edge that is no longer in EDGE_CONFIG may stand there: what it delivered is read again, by a rebuild for one.
"""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["check_sites"]

_EDGE: Final = re.compile(r"[A-Za-z0-9](-?[A-Za-z0-9])*")


def check_sites(issuers: Mapping[str, str], character_sets: Mapping[str, str]) -> None:
    """Refuse names that no object can have, and character sets that there are not.

    Raises:
        ValueError: the text names the parameter and the name.
    """
    # Little of a deployment needs them.
    from dicomflow.dicom.charsets import is_known_term  # noqa: PLC0415
    from dicomflow.network.settings import is_ae_title  # noqa: PLC0415

    for section, by_device in (("SITE_ISSUERS", issuers), ("SITE_CHARACTER_SETS", character_sets)):
        for name in by_device:
            edge, slash, title = name.partition("/")
            if _EDGE.fullmatch(edge) is None:
                raise ValueError(f"{section}: {edge!r} can be no Name of EDGE_CONFIG")
            if slash and not is_ae_title(title):
                raise ValueError(f"{section}: {title!r} of {name!r} is no AE title, of 1 to 16 characters")
    for value in character_sets.values():
        unknown = [term for term in value.split("\\") if not is_known_term(term)]
        if unknown:  # a function that has a wrong one stops
            raise ValueError(f"SITE_CHARACTER_SETS: {unknown[0]!r} is no defined term of (0008,0005)")
