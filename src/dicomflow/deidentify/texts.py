"""Text that may stay: words of DICOM's own vocabulary, and codes of public schemes with the meaning that those give.

Nothing that was typed passes as it is: a word stays because it is a term, not because nobody recognised it.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, Final

__all__ = ["REMOVED_CODE", "Code", "clean_words", "public_code", "words_of"]

Code = tuple[bytes, bytes, bytes]
"""Code Value, Coding Scheme Designator and Code Meaning."""
REMOVED_CODE: Final[Code] = (b"REMOVED", b"99DICOMFLOW", b"Removed")
"""Stands in the place of a code of a local scheme, which may name anything."""

_RETIRED_SNOMED: Final = frozenset({"SRT", "SNM3", "99SDM"})
# How codes of public schemes look that pydicom does not have: nothing that was typed does.
_FORMS: Final = {
    "DCM": re.compile(r"\d{5,6}"),
    "SCT": re.compile(r"[1-9]\d{5,17}"),
    "LN": re.compile(r"\d{1,5}-\d"),
    "RADLEX": re.compile(r"RID\d{1,6}"),
    "FMA": re.compile(r"\d{3,6}"),
    "MDC": re.compile(r"\d{4,7}"),
}
_SNOMED_FORM: Final = re.compile(r"[A-Z]-[0-9A-F]{4,5}")
_WORD: Final = re.compile(rb"[^\s!-/:-@\[-`{-~]+")
_TERM: Final = re.compile(r"[A-Za-z]{2,}")
# Numbers that are joined may be a date, an age with its unit, a telephone number.
_JOINED_NUMBERS: Final = re.compile(rb"\S*\d[-./:,_'+]+\d\S*")
_NUMBER: Final = re.compile(rb"\d{1,2}")
_ESCAPE: Final = b"\x1b"
# What devices write beside the terms of the standard's tables; and terms that all begin with a capital there.
_USUAL: Final = frozenset(
    b"""
    ct mr mri pt pet us cr dx mg xa rf nm ap pa lat ll rl cc mlo ax axial cor coronal sag sagittal obl oblique recon
    thorax abdomen pelvis head neck chest spine brain liver kidney knee hip shoulder hand foot wrist elbow ankle
    cervical thoracic lumbar native contrast with without arterial venous portal delayed phase plain low high dose
    t1 t2 t2w t1w flair dwi adc stir tse fse gre se epi tof mip mpr mprage fs fatsat 2d 3d 4d b0 asl swi tirm space
    localizer scout topogram routine standard bone soft tissue lung kernel series study scan protocol screening follow
    up left right both upper lower extremity body whole report ac nac wb
    """.split()  # reads as the words do
)


def words_of(values: Iterable[bytes]) -> frozenset[bytes]:
    """Return the words, in small letters, of texts that name somebody; those of one or two letters are not told."""
    found = (word.lower() for value in values for word in _WORD.findall(value))
    return frozenset(word for word in found if len(word) > 2)


def clean_words(value: bytes, names: frozenset[bytes], more: frozenset[bytes] = frozenset()) -> bytes:
    """Return the words of a text that are terms, or among `more`, and not among `names`, and small numbers alone.

    A text with code extensions is not looked into: what it shows are not the letters that stand in it.
    """
    if _ESCAPE in value:
        return b""
    terms = _terms()
    parts = []
    for part in value.rstrip(b" \0").split(b"\\"):
        kept = []
        for word in _WORD.findall(_JOINED_NUMBERS.sub(b" ", part)):
            low = word.lower()
            if (low in more or low in _USUAL or low in terms or _NUMBER.fullmatch(low)) and low not in names:
                kept.append(word)
        parts.append(b" ".join(kept))
    return b"\\".join(parts) if any(parts) else b""


@cache
def _terms() -> frozenset[bytes]:
    """Return the words that stand in small letters in a meaning of a code, and the abbreviations in capitals.

    A word that has a capital everywhere may be a name, as in "Doppler".
    """
    found: set[str] = set()
    for scheme in _concepts().values():
        for codes in scheme.values():
            for meaning, _ in codes.values():
                found.update(word for word in _TERM.findall(meaning) if word.islower() and len(word) > 2)
    return frozenset(word.encode("ascii") for word in found)


@lru_cache(maxsize=4096)
def public_code(value: str, scheme: str) -> Code | None:
    """Return a code with its scheme's meaning; None if the scheme is not public, or the code cannot be one of it.

    A code that pydicom does not know has itself for a meaning: the one that came with it may hold anything.
    """
    meaning = _meaning(value, scheme)
    if meaning is None:
        form = _SNOMED_FORM if scheme in _RETIRED_SNOMED else _FORMS.get(scheme)
        if form is None or form.fullmatch(value) is None:
            return None
        meaning = value
    return value.encode("ascii"), scheme.encode("ascii"), meaning.encode("ascii", "replace")[:64]


def _meaning(value: str, scheme: str) -> str | None:
    if scheme in _RETIRED_SNOMED:
        from pydicom.sr._snomed_dict import mapping  # noqa: PLC0415  # dear, and not always needed

        value, scheme = mapping["SRT"].get(value, ""), "SCT"
    return _meanings().get(scheme, {}).get(value)


@cache
def _meanings() -> dict[str, dict[str, str]]:
    return {
        scheme: {code: meaning for codes in named.values() for code, (meaning, _) in codes.items()}
        for scheme, named in _concepts().items()
    }


def _concepts() -> Any:  # the package has no types for it
    """Return pydicom's codes by scheme and keyword, each with its meaning."""
    from pydicom.sr._concepts_dict import concepts  # noqa: PLC0415  # as above

    return concepts
