"""What a question's answer is, worked out from the objects themselves, one by one: nothing of ours is asked.

Written apart from the program, with other means, so that both must agree.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag

__all__ = ["expected"]

UNIQUE = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_WILD = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}


def expected(data_sets: Iterable[Dataset], level: str, keys: Mapping[int, Any], *, is_fuzzy: bool = False) -> set[str]:
    """Return the unique keys of the rows that a question is answered by; keys are by tag, of items by tag again."""
    objects = list(data_sets)
    in_study: dict[str, set[str]] = {}
    for each in objects:
        in_study.setdefault(each.StudyInstanceUID, set()).add(each.Modality)
    found = set()
    for each in objects:
        if all(
            _is_meant(each, tag, key, in_study[each.StudyInstanceUID], is_fuzzy=is_fuzzy) for tag, key in keys.items()
        ):
            found.add(str(getattr(each, UNIQUE[level])))
    return found


def _is_meant(each: Dataset, tag: int, key: Any, modalities: set[str], *, is_fuzzy: bool) -> bool:
    if isinstance(key, Mapping):
        items = each[tag].value if tag in each else []
        asked = {inner: value for inner, value in key.items() if value}
        return not asked or any(
            all(_is_meant(item, t, k, set(), is_fuzzy=is_fuzzy) for t, k in asked.items()) for item in items
        )
    vr = dictionary_VR(tag)
    key = key.strip()
    if key in ("", "*"):
        return True
    if keyword_for_tag(tag) == "ModalitiesInStudy":
        values: list[str] = sorted(modalities)
    else:
        value = each[tag].value if tag in each else None
        values = [str(one) for one in value] if tag in each and each[tag].VM > 1 else [str(value or "")]
        values = [one for one in values if one]
    parts = key.split("\\") if vr not in ("LT", "ST", "UR", "UT") else [key]
    return any(_one(vr, part.strip(), value, is_fuzzy=is_fuzzy) for part in parts for value in values if part.strip())


def _one(vr: str, key: str, value: str, *, is_fuzzy: bool) -> bool:
    if vr == "UI":
        return key == value
    if vr in ("IS", "US"):
        return int(key) == int(value)
    if vr == "DS":
        return float(key) == float(value)
    if vr in ("DA", "TM"):
        return _between(vr, key, value)
    if vr == "PN":
        return _name(key, value, is_fuzzy=is_fuzzy)
    return re.fullmatch(_expression(key) if vr in _WILD else re.escape(key), value, re.DOTALL) is not None


def _between(vr: str, key: str, value: str) -> bool:
    def padded(text: str, filler: str) -> str:
        whole, _, fraction = text.partition(".")
        if vr == "DA":
            return whole
        rest = {"0": "000000", "9": "995959"}[filler]
        return whole + rest[len(whole) : 6] + (fraction or "").ljust(6, filler)

    at = padded(value, "0")
    if "-" not in key:
        return at == padded(key, "0")
    first, last = key.split("-")
    return (not first or padded(first, "0") <= at) and (not last or at <= padded(last, "9"))


def _name(key: str, value: str, *, is_fuzzy: bool) -> bool:
    if is_fuzzy:
        words = [word for word in re.split(r"[\W_]+", _plain(key).replace("*", " ").replace("?", " ")) if word]
        names = [word for word in re.split(r"[\W_]+", _plain(value)) if word]
        if words:
            fits = str.__contains__ if key.startswith("*") else str.startswith
            return all(any(fits(name, word) for name in names) for word in words)
    groups = [_plain(group).rstrip("^") for group in value.split("=")]
    asked = [_plain(group).rstrip("^") for group in key.rstrip("=").split("=")]
    if len(asked) == 1:
        return any(re.fullmatch(_expression(asked[0]), group, re.DOTALL) for group in groups)
    groups += [""] * 3
    return all(
        not one or re.fullmatch(_expression(one), group, re.DOTALL) for one, group in zip(asked, groups, strict=False)
    )


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFD", text.replace("'", "").lower()).translate({0x142: "l", 0xDF: "ss"})
    return unicodedata.normalize("NFC", "".join(each for each in letters if not 0x300 <= ord(each) <= 0x36F))


def _expression(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
