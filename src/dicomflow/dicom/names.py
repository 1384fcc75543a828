"""Person names as words to search by: case, accents and width make no difference.

What is stored and what is asked for are folded by the same function. Where a script writes no blank between family
name and given name, what is stored has words for each beginning that may be asked for. Imports no pydicom.
"""

import re
import unicodedata
from typing import Final

__all__ = ["MAX_WORD_CHARACTERS", "fold_name", "fold_words", "words_to_find"]

MAX_WORD_CHARACTERS: Final = 64
MAX_WORDS: Final = 256
"""Of a name; each of its three component groups holds 64 characters (PS3.5 6.2), and what is longer is no name."""

# The separators of PN (PS3.5 6.2.1): components, component groups, values; and whatever else parts words.
_SEPARATORS: Final = re.compile(r"[\^=\\\s,;:/().\[\]_\-\u2010-\u2015\u30fb\xb7]+")
_APOSTROPHES: Final = re.compile(r"['\"`\xb4\u2018\u2019\u02bc]")
# Accents of alphabets only: marks of Kana, Hangul and Indic scripts make other letters, not the same with an accent.
_ACCENTS: Final = re.compile("[\u0300-\u036f]")
# Letters that Unicode does not take apart.
_LETTERS: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "\u0131": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
# Ideographs, Kana and Hangul, whose names are written as one.
_WRITTEN_AS_ONE: Final = re.compile(
    "[\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]+"
)
_GROUPS: Final = re.compile(r"[=\\]")


def words_to_find(name: str) -> tuple[str, ...]:
    """Return the words by whose beginnings a name is found: those of `fold_words`, and more where it is written as one.

    `王小明` and `王^小明` are both found by 王小明, 小明 and 王 小明: by the whole, and from each character on.
    """
    words = dict.fromkeys(fold_words(name))
    for group in _GROUPS.split(name):
        parts = [each for each in _SEPARATORS.split(_fold(group)) if each]
        if parts and all(map(_WRITTEN_AS_ONE.fullmatch, parts)):
            whole = "".join(parts)[:MAX_WORD_CHARACTERS]
            words |= dict.fromkeys(whole[start:] for start in range(len(whole)))
    return tuple(list(words)[:MAX_WORDS])


def fold_words(name: str) -> tuple[str, ...]:
    """Return the different words of a name, folded and sorted: `Müller-Łoś^Anna` gives anna, los and muller.

    Of a longer word its first 64 characters stand for it, in what is stored and in what is asked for.
    """
    words = {word[:MAX_WORD_CHARACTERS] for word in _SEPARATORS.split(_fold(name)) if word}
    return tuple(sorted(words)[:MAX_WORDS])


def fold_name(group: str) -> str:
    """Return a component group to compare by: folded, without padding, and without what is empty at its end."""
    return "^".join(part.strip() for part in _fold(group).split("^")).rstrip("^")


def _fold(name: str) -> str:
    plain = _APOSTROPHES.sub("", name).casefold()
    if plain.isascii():
        return plain
    decomposed = unicodedata.normalize("NFKD", plain)
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed)).casefold().translate(_LETTERS)
