"""Writes the tables of src/dicomflow/deidentify/data from two packages, which nothing of ours needs when it runs.

`python scripts/deidentify_tables.py DICOM_ANONYMIZER HIGHDICOM`: the folders into which the wheels of
dicom-anonymizer 2.1.0 (BSD-3-Clause) and highdicom 0.28.2 (MIT) were unpacked. Their notices are in data/NOTICE.

`actions.txt` has the Basic Profile's codes (PS3.15 Table E.1-1, edition 2026c), a tag a row. `types.txt` has, for each
SOP class, the modules of its IOD, and for each module what types those attributes have whose handling depends on it
(PS3.3): `parent tag type`, where the parent is the sequence that the attribute stands in, 00000000 for the data set.
"""

import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

_DATA = Path(__file__).parent.parent / "src" / "dicomflow" / "deidentify" / "data"
_CODES = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
_TEXT = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "UR", "PN", "DA", "TM", "DT", "AE"})
_TOP = 0


def main() -> None:
    """Write both tables."""
    anonymizer, highdicom = map(Path, sys.argv[1:])
    actions = _read_actions(anonymizer / "dicomanonymizer/dicom_anonymization_databases/dicomfields_2026c.py")
    lines = [f"{tag:08X} {code}\n" for tag, code in sorted(actions.items())]
    (_DATA / "actions.txt").write_text("".join(lines), encoding="ascii")
    (_DATA / "types.txt").write_text(_types(highdicom / "highdicom/_standard", actions), encoding="ascii")


def _read_actions(path: Path) -> dict[int, str]:
    """Return the codes of the exact tags; the four patterns of the table are the walk's business."""
    spec = importlib.util.spec_from_file_location("fields", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[int, str] = {}
    for name, code in _CODES.items():
        for tag in getattr(module, name):
            if len(tag) == 2:  # four numbers are a pattern and its mask
                found[tag[0] << 16 | tag[1]] = code
    return found


def _types(folder: Path, actions: dict[int, str]) -> str:
    modules = json.loads((folder / "module_attribute_map.json").read_text(encoding="utf-8"))
    iods = json.loads((folder / "iod_module_map.json").read_text(encoding="utf-8"))
    classes = json.loads((folder / "sop_class_iod_map.json").read_text(encoding="utf-8"))
    used = sorted({module["key"] for iod in set(classes.values()) for module in iods[iod]})
    numbers = {key: number for number, key in enumerate(used)}
    lines = []
    for sop_class, iod in sorted(classes.items()):
        lines.append(f"{sop_class} {','.join(str(numbers[module['key']]) for module in iods[iod])}\n")
    for key in used:
        types: dict[tuple[int, int], str] = defaultdict(lambda: "3")
        for attribute in modules.get(key, []):  # a few are missing there
            tag = tag_for_keyword(attribute["keyword"])
            parent = tag_for_keyword(attribute["path"][-1]) if attribute["path"] else _TOP
            if tag is None or parent is None or not _depends_on_type(tag, actions):
                continue
            types[parent, tag] = min(types[parent, tag], attribute["type"][0])
        lines.append(f"module {numbers[key]}\n")
        by_parent: dict[int, list[str]] = defaultdict(list)
        for (parent, tag), kind in sorted(types.items()):
            by_parent[parent].append(f"{tag:08X}{kind}")
        lines.extend(f"{parent:08X} {' '.join(found)}\n" for parent, found in by_parent.items())
    return "".join(lines)


def _depends_on_type(tag: int, actions: dict[int, str]) -> bool:
    code = actions.get(tag)
    if code is None:
        return dictionary_VR(tag) in _TEXT
    return code not in {"X", "U"}


if __name__ == "__main__":
    main()
