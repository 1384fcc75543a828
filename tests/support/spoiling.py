"""Documents and files spoiled in every way, for fuzz targets: what a bad disk, another program or an attacker makes."""

import copy
import json
import random
from typing import Any, Final

ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, -1, 1.5, 10**30, 2**63 - 1, "", "\0", "a\0b", "\ud800", "\u00e4", "9" * 5000, "1." * 200, "../..",
    [], {}, [[]], {"key": 1}, "2026-01-02T03:04:05", "9999-12-31T23:59:59.999999+23:59", "0001-01-01T00:00:00-23:59",
    float("inf"), float("nan"),
)  # fmt: skip
_TOKENS: Final = (b"1e999", b"-1e999", b"NaN", b"9" * 5000, b"[" * 3000, b'{"a":' * 2000, b"\\ud800", b"\xff\xfe")


def spoil_bytes(content: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut, write garbage over a page or a run, or repeat one."""
    spoiled = bytearray(content)
    way = chance.randrange(6)
    if not spoiled or way == 0:
        return bytes(spoiled[: chance.randrange(len(spoiled) + 1)])
    at = chance.randrange(len(spoiled))
    if way == 1:
        for _ in range(chance.randint(1, 8)):
            spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    elif way == 2:
        spoiled[at : at + 64] = chance.randbytes(64)
    elif way == 3:
        page = at // 4096 * 4096
        spoiled[page : page + 4096] = chance.choice([bytes(4096), chance.randbytes(4096), spoiled[:4096]])
    elif way == 4:
        spoiled[at:at] = chance.randbytes(chance.randint(1, 5000))
    else:
        spoiled[chance.randrange(min(200, len(spoiled)))] = chance.randrange(256)
    return bytes(spoiled)


def spoil_document(document: Any, chance: random.Random) -> bytes:
    """Put an odd value, or one of another place, anywhere in a document, or spoil its bytes."""
    changed = copy.deepcopy(document)
    for _ in range(chance.randint(0, 3)):
        _spoil_place(changed, chance)
    encoded = json.dumps(changed, ensure_ascii=chance.random() < 0.9).encode(errors="surrogatepass")
    way = chance.random()
    if way < 0.6:
        return encoded
    if way < 0.8:
        pieces = encoded.split(b":")
        at = chance.randrange(len(pieces))
        pieces[at] = chance.choice(_TOKENS) + b"".join(pieces[at].partition(b",")[1:])
        return b":".join(pieces)
    return spoil_bytes(encoded, chance)


def _spoil_place(document: Any, chance: random.Random) -> None:
    place = document
    while isinstance(place, dict | list) and place:
        key: Any = chance.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
        if not isinstance(place[key], dict | list) or chance.random() < 0.3:
            way = chance.random()
            if way < 0.2:
                del place[key]
            elif way < 0.4 and isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            elif way < 0.5 and isinstance(place[key], str):
                place[key] += chance.choice(("\0", "%00", "\ud800", "/..", "x" * 3000, ".1" * 40, " ", "\u00e4"))
            else:
                place[key] = copy.deepcopy(chance.choice(ODD_VALUES))
            return
        place = place[key]
