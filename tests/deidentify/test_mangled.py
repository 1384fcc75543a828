"""Objects that are damaged at random are copied or quarantined with a reason, and nothing else comes of them."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from planted import encoded, reading
from pydicom.dataset import Dataset

from dicomflow.deidentify.copying import Quarantined, Written, deidentify
from dicomflow.deidentify.profile import Profile

_WORDS = (b"\xff\xff", b"\0\0", b"SQ", b"UN", b"OB", b"DA", b"UI", b"\xfe\xff", b"\xff\xff\xff\xff")


def _mangled(chance: random.Random, whole: bytes) -> bytes:
    """Return a file of which some bytes are others, gone or new, most of them in its header."""
    made = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(made)) if chance.random() < 0.3 else chance.randrange(128, min(len(made), 2500))
        match chance.randrange(4):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                word = chance.choice(_WORDS)
                made[at : at + len(word)] = word
            case 2:
                del made[at : at + chance.randrange(1, 9)]
            case _:
                other = chance.randrange(128, len(made))
                made[at:at] = made[other : other + chance.randrange(1, 60)]
    return bytes(made)


@pytest.mark.parametrize("seed", range(4))
def test_mangled_object_is_copied_or_quarantined(seed: int, profile: Callable[..., Profile], tmp_path: Path):
    """No damage is an internal error, and none leaves a file that nobody was told of."""
    chance = random.Random(seed)
    seeds = [encoded(each, is_implicit=is_implicit) for each in reading() for is_implicit in (False, True)]
    profiles = [
        profile(),
        profile("clean_structured_content", "shift_dates", "clean_descriptors", "retain_safe_private"),
    ]
    target = tmp_path / "copy.dcm"
    for _ in range(250):
        outcome = deidentify(_mangled(chance, chance.choice(seeds)), target, chance.choice(profiles))
        if isinstance(outcome, Written):
            target.unlink()
        else:
            assert not outcome.reason.startswith("internal error")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.102", "1.3.6.1.4.1.5962.300.1", "1.2.840.10008.1.2.Zqwert"])
def test_transfer_syntax_that_is_not_known_is_quarantined(syntax: str, profile: Callable[..., Profile], tmp_path: Path):
    """Not even its UID gets into a copy."""
    whole = encoded(_image()).replace(b"UI\x14\x001.2.840.10008.1.2.1\0", _element(syntax))
    assert isinstance(deidentify(whole, tmp_path / "copy.dcm", profile()), Quarantined)
    assert list(tmp_path.iterdir()) == []


def _image() -> Dataset:
    return reading()[0]


def _element(uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"UI" + len(value).to_bytes(2, "little") + value
