"""Person names as words to search by: case, accents and width make no difference.

What is stored and what is asked for go through the same function, so that both fold alike. Imports no pydicom.
"""

import re
import unicodedata
from typing import Final

__all__ = ["fold_words"]

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


def fold_words(name: str) -> tuple[str, ...]:
    """Return the different words of a name, folded and sorted: `Müller-Łoś^Anna` gives anna, los and muller.

    Of a longer word its first 64 characters stand for it, in what is stored and in what is asked for.
    """
    plain = _APOSTROPHES.sub("", name).casefold()
    if not plain.isascii():
        decomposed = unicodedata.normalize("NFKD", plain)
        plain = unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed)).casefold().translate(_LETTERS)
    words = {word[:MAX_WORD_CHARACTERS] for word in _SEPARATORS.split(plain) if word}
    return tuple(sorted(words)[:MAX_WORDS])
