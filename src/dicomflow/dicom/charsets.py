"""Text by its Specific Character Set (0008,0005): defined terms as devices spell them, and ISO 2022 code extensions.

`decode` never fails, and says whether what it gives is certain. All the tables are the standard's (PS3.3 C.12.1.1.2,
PS3.5 6.1); no codec is taken by a name that came from a device.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["DEFAULT", "CharacterSets", "character_sets", "codec_to_write", "is_known_term"]

_ASCII: Final = "ascii"
# ISO-IR registration numbers of the defined terms, without code extensions (PS3.3 Tables C.12-2 to C.12-5).
_CODECS: Final = {
    6: _ASCII,
    13: "shift_jis",
    58: "gb2312",
    87: "iso2022_jp",
    100: "iso8859_1",
    101: "iso8859_2",
    109: "iso8859_3",
    110: "iso8859_4",
    126: "iso8859_7",
    127: "iso8859_6",
    138: "iso8859_8",
    144: "iso8859_5",
    148: "iso8859_9",
    149: "euc_kr",
    159: "iso2022_jp_2",
    166: "tis_620",
    192: "utf_8",
    203: "iso8859_15",
}
# What is no defined term, or one that stands alone; spelt without separators.
_NAMES: Final = {
    "": _ASCII,
    "ASCII": _ASCII,
    "USASCII": _ASCII,
    "GB18030": "gb18030",
    "GBK": "gbk",
    "GB2312": "gb2312",
    "UTF8": "utf_8",
    "LATIN1": "iso8859_1",
    "SHIFTJIS": "shift_jis",
    "SJIS": "shift_jis",
    "EUCKR": "euc_kr",
    "EUCJP": "euc_jp",
    "BIG5": "big5",
    "KOI8R": "koi8_r",
    **{f"ISO8859{part}": f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"{word}125{page}": f"cp125{page}" for word in ("CP", "WINDOWS") for page in range(9)},
}
_SEPARATORS: Final = re.compile(r"[\s_.\-]+")
_REGISTRATION: Final = re.compile(r"ISO(?:2022)?IR(\d{1,3})")

_ESCAPE: Final = b"\x1b"
# Escape sequences without ESC, and which code element of how many bytes a character they put where: G0 is what bytes
# below 80 mean, G1 those above (PS3.3 Tables C.12-3 and C.12-4).
_G0: Final = {b"(B": _ASCII, b"(J": "romaji", b"$B": "iso2022_jp", b"$@": "iso2022_jp", b"$(D": "iso2022_jp_2"}
_G1: Final = {
    b")I": "shift_jis",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
    b"-A": "iso8859_1",
    b"-B": "iso8859_2",
    b"-C": "iso8859_3",
    b"-D": "iso8859_4",
    b"-L": "iso8859_5",
    b"-G": "iso8859_6",
    b"-F": "iso8859_7",
    b"-H": "iso8859_8",
    b"-M": "iso8859_9",
    b"-b": "iso8859_15",
    b"-T": "tis_620",
}
# How a run of two-byte characters in G0 is introduced to Python's codec, which is of a whole stream.
_INTRODUCED: Final = {"iso2022_jp": b"\x1b$B", "iso2022_jp_2": b"\x1b$(D"}
_ESCAPES: Final = sorted((*_G0, *_G1), key=len, reverse=True)
_SPLIT: Final = re.compile(rb"\x1b(" + b"|".join(map(re.escape, _ESCAPES)) + rb")")
# Python's codecs of whole streams have escapes of their own; here each run is decoded by itself.
_STREAMS: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
# Terms that stand alone (PS3.3 Table C.12-5): a second byte may lie below 80, and an escape is but a character.
_ALONE: Final = frozenset({"utf_8", "gb18030", "gbk", "big5", "euc_jp"})


@dataclass(frozen=True, slots=True, eq=False)  # made once for each value, so that a cache finds one by its identity
class CharacterSets:
    """The code elements that a data set may use: Python's names, the initial one first.

    `is_certain` is False where a term is not known, or where none is declared: then bytes above 7F mean whatever the
    site says, or what they look like.
    """

    codecs: tuple[str, ...]
    is_certain: bool

    def decode(self, raw: bytes, delimiters: frozenset[int]) -> tuple[str, bool]:
        """Return the text of bytes, and whether it is certain; `delimiters` end code extensions (PS3.5 6.1.2.5.3)."""
        if raw.isascii() and _ESCAPE not in raw:
            return raw.decode(_ASCII), True
        if _ESCAPE in raw and self.codecs[0] not in _ALONE:
            return self._decode_extended(raw, delimiters)
        return self._decode_plain(raw)

    def _decode_plain(self, raw: bytes) -> tuple[str, bool]:
        """Decode bytes without escape sequences: by the first code element that has bytes above 7F."""
        for codec in self.codecs:
            if codec == _ASCII or codec in _STREAMS:
                continue  # has none
            text = _strictly(raw, codec)
            if text is not None:
                return text, self.is_certain
        declared = next((codec for codec in self.codecs if codec != _ASCII and codec not in _STREAMS), None)
        guessed = _strictly(raw, "utf_8")
        if guessed is not None:
            return guessed, False
        return raw.decode(declared or "iso8859_1", "replace"), False

    def _decode_extended(self, raw: bytes, delimiters: frozenset[int]) -> tuple[str, bool]:
        """Decode bytes with escape sequences, run by run (PS3.5 6.1.2.4, 6.1.2.5)."""
        initial = self.codecs[0] if self.codecs[0] not in _STREAMS else _ASCII
        g0, g1 = "romaji" if initial == "shift_jis" else _ASCII, initial
        parts: list[str] = []
        is_certain = self.is_certain
        pieces = _SPLIT.split(raw)
        for number, piece in enumerate(pieces):
            if number % 2:
                g0, g1 = _G0.get(piece, g0), _G1.get(piece, g1)
                continue
            for run in _runs(piece, g0, delimiters):
                if run[0] in delimiters and g0 not in _INTRODUCED:
                    g0, g1 = "romaji" if initial == "shift_jis" else _ASCII, initial
                text, is_right = self._decode_run(run, g0, g1)
                parts.append(text)
                is_certain = is_certain and is_right
        return "".join(parts), is_certain

    def _decode_run(self, run: bytes, g0: str, g1: str) -> tuple[str, bool]:
        if run[0] >= 0x80:
            text = _strictly(run, g1) if g1 != _ASCII else None
            return (text, True) if text is not None else self._decode_plain(run)
        if g0 in _INTRODUCED:
            introduced = _INTRODUCED[g0] + run
            text = _strictly(introduced, g0)
            return (text, True) if text is not None else (introduced.decode(g0, "replace"), False)
        text = run.decode(_ASCII)
        return text, "\x1b" not in text


DEFAULT: Final = CharacterSets((_ASCII,), is_certain=False)
"""Nothing declared: the default repertoire, which has no bytes above 7F (PS3.5 6.1.2.1)."""


def is_known_term(term: str) -> bool:
    """Tell whether a defined term, or one of its misspellings, is understood."""
    return _codec_of(term) is not None


def codec_to_write(declared: str) -> str | None:
    """Return the codec of a character set in which text can be written without code extensions; None for others."""
    term = declared.strip()
    codec = _codec_of(term) if term and "\\" not in term and "2022" not in term else None
    return None if codec in _STREAMS or codec == _ASCII else codec


@lru_cache(maxsize=256)
def character_sets(declared: str, site_default: str = "") -> CharacterSets:
    """Return the character sets for a value of Specific Character Set, backslashes included.

    Args:
        declared: the value; "" for none.
        site_default: a value that is meant where none is declared, or none that is known, for devices that are silent.
    """
    codecs = _codecs_of(declared)
    has_more_than_ascii = any(codec != _ASCII for codec in codecs)
    is_known = all(_codec_of(term) is not None for term in _terms(declared))
    if not has_more_than_ascii and site_default:
        by_site = _codecs_of(site_default)
        return CharacterSets(by_site or DEFAULT.codecs, is_certain=bool(by_site))
    return CharacterSets(codecs or DEFAULT.codecs, is_certain=has_more_than_ascii and is_known)


def _terms(declared: str) -> Sequence[str]:
    # What stands behind a NUL is what a longer value of before left there.
    return [term.partition("\0")[0] for term in declared.split("\\")]


def _codecs_of(declared: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(codec for term in _terms(declared) if (codec := _codec_of(term)) is not None))


def _codec_of(term: str) -> str | None:
    plain = _SEPARATORS.sub("", term).upper()
    match = _REGISTRATION.fullmatch(plain)
    return _CODECS.get(int(match[1])) if match else _NAMES.get(plain)


def _strictly(raw: bytes, codec: str) -> str | None:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        return None


def _runs(piece: bytes, g0: str, delimiters: frozenset[int]) -> Sequence[bytes]:
    """Split bytes where they go from below 80 to above or back, and at delimiters, which are runs of their own."""
    runs: list[bytes] = (_HALVES if g0 in _INTRODUCED else _pattern(delimiters)).findall(piece)
    return runs


_HALVES: Final = re.compile(rb"[\x00-\x7f]+|[\x80-\xff]+")


@lru_cache(maxsize=8)
def _pattern(delimiters: frozenset[int]) -> re.Pattern[bytes]:
    ends = b"[" + re.escape(bytes(sorted(delimiters))) + b"]"
    return re.compile(ends + rb"|(?:(?!" + ends + rb")[\x00-\x7f])+|[\x80-\xff]+")
