"""Text in every character set of the standard, as it is written by the standard and as devices write it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dicom.charsets import character_sets

NAME_ENDS = frozenset(b"\r\n\t\f\\^=")
SINGLE_BYTE = {
    100: ("latin_1", "Müller^Jörg"),
    101: ("iso8859_2", "Łoś^Żaneta"),
    109: ("iso8859_3", "Ĝis^Ħobb"),
    110: ("iso8859_4", "Ķirsis^Ģirts"),
    126: ("iso8859_7", "Παπαδόπουλος^Γ"),
    127: ("iso8859_6", "قباني^لنزار"),
    138: ("iso8859_8", "שרון^דבורה"),
    144: ("iso8859_5", "Люксембург"),
    148: ("iso8859_9", "Çavuşoğlu^İ"),
    166: ("tis_620", "สมชาย^ใจดี"),
    203: ("iso8859_15", "Œuvre^€"),
    13: ("shift_jis", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    192: ("utf_8", "王^Zoë"),
    58: ("gb2312", "王^小东"),
    149: ("euc_kr", "김^희중"),
}
ESCAPES = {100: "A", 101: "B", 109: "C", 110: "D", 126: "F", 127: "G", 138: "H", 144: "L", 148: "M", 166: "T", 203: "b"}


def decode(declared: str, raw: bytes, site: str = "") -> tuple[str, bool]:
    """Decode a person name."""
    return character_sets(declared, site).decode(raw, NAME_ENDS)


@pytest.mark.parametrize("number", SINGLE_BYTE)
@pytest.mark.parametrize(
    "spelt",
    [
        "ISO_IR {}",
        "ISO 2022 IR {}",
        "ISO_IR{}",
        "ISO IR {}",
        "iso_ir {}",
        "ISO-IR {} ",
        "ISO_2022_IR_{}",
        "ISO_IR_{}\0x",
    ],
)
def test_term_is_understood_however_it_is_spelt(number: int, spelt: str):
    """Separators, case and what stands behind a NUL make no difference."""
    codec, text = SINGLE_BYTE[number]
    assert (text, True) == decode(spelt.format(number), text.encode(codec))


@pytest.mark.parametrize(
    ("declared", "codec", "text"),
    [
        ("GB18030", "gb18030", "王^小东㐀"),
        ("GBK", "gbk", "王^小东"),
        ("UTF-8", "utf_8", "Zoë^Å"),
        ("utf8", "utf_8", "Zoë^Å"),
        ("ISO 8859-1", "latin_1", "Müller^J"),
        ("ISO8859-15", "iso8859_15", "Œuvre^€"),
        ("windows-1251", "cp1251", "Иванов^Иван"),
        ("GB18030\\ISO IR 192", "gb18030", "王^小东"),
        ("ISO_IR 192\\ISO 2022 IR 100", "utf_8", "Zoë^Å"),
        ("\\ISO 2022 IR 149", "euc_kr", "김^희중"),
        ("\\ISO 2022 IR 58", "gb2312", "王^小东"),
        ("ISO 2022 IR 6\\ISO 2022 IR 100", "latin_1", "Müller^J"),
    ],
)
def test_other_names_and_lacking_escapes_are_understood(declared: str, codec: str, text: str):
    """What is no defined term names an encoding all the same, and only one of several has bytes above 7F."""
    assert (text, True) == decode(declared, text.encode(codec))


@pytest.mark.parametrize("number", ESCAPES)
def test_code_extension_of_each_alphabet_is_followed(number: int):
    """(PS3.3 Table C.12-3): to the delimiter, behind which the initial one is in force again."""
    codec, text = SINGLE_BYTE[number]
    word = text.partition("^")[0]
    raw = b"M\xfc^\x1b-" + ESCAPES[number].encode() + word.encode(codec) + b"^M\xfc"
    assert (f"Mü^{word}^Mü", True) == decode(f"ISO 2022 IR 100\\ISO 2022 IR {number}", raw)


@pytest.mark.parametrize(
    ("declared", "raw", "text"),
    [
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8^\xc8\xf1\xc1\xdf", "김^희중"),
        ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang^XiaoDong=张^小东"),
        ("\\ISO 2022 IR 159", b"\x1b$(D\x30\x21\x1b(B^A", b"\x1b$(D\x30\x21".decode("iso2022_jp_2") + "^A"),
        ("ISO 2022 IR 100\\ISO 2022 IR 149", b"\xe7^\x1b\x24\x29\x43\xa4\xba^\xe7", "ç^ㅊ^ç"),
        ("\\ISO 2022 IR 87", b"\x1b$B;3\x1b(B\r\n\x1b$BED\x1b(B", "山\r\n田"),
    ],
)
def test_code_extensions_of_the_standards_examples_are_followed(declared: str, raw: bytes, text: str):
    """(PS3.5 H, I, K): and of devices that escape once only."""
    assert (text, True) == decode(declared, raw)


@pytest.mark.parametrize(
    "declared", ["", "ISO_IR 6", "KLINGON", "ISO 2022 IR 6\\IS", "UNDEFINED", "IDNA", "ISO_IR 999"]
)
def test_bytes_that_mean_nothing_declared_are_not_certain(declared: str):
    """UTF-8 is known by its looks; anything else is shown as Latin-1, and its bytes are kept by whoever is told."""
    assert ("Zoë", False) == decode(declared, "Zoë".encode())
    assert ("Müller", False) == decode(declared, b"M\xfcller")
    assert ("Miller", True) == decode(declared, b"Miller")


@pytest.mark.parametrize("declared", ["", "ISO_IR 6", "KLINGON"])
def test_site_default_is_meant_where_none_is_declared(declared: str):
    """As long as the bytes are of it; what is declared goes before it."""
    assert ("Иванов", True) == decode(declared, "Иванов".encode("cp1251"), "windows-1251")
    assert ("王", True) == decode(declared, "王".encode("gbk"), "GBK")
    assert ("M\ufffdller", False) == decode(declared, b"M\xfcller", "ISO_IR 192")
    assert ("Müller", True) == decode("ISO_IR 100", b"M\xfcller", "GBK")


@pytest.mark.parametrize("number", [192, 58, 149, 166])
def test_bytes_that_break_their_character_set_are_not_certain(number: int):
    """A letter is lost and never the object."""
    text, is_certain = decode(f"ISO_IR {number}", b"M\xff\xfeller")
    assert not is_certain
    assert text.startswith("M")
    assert text.endswith("ller")


_declared = st.text(max_size=20) | st.lists(
    st.sampled_from(
        ["", "ISO_IR 100", "ISO 2022 IR 87", "ISO 2022 IR 58", "GB18030", "ISO 2022 IR 13", "UNDEFINED", "\0"]
    ),
    max_size=4,
).map("\\".join)
_pieces = st.binary(max_size=8) | st.sampled_from(
    [b"\x1b$B", b"\x1b(B", b"\x1b$)A", b"\x1b-A", b"\x1b", b"^", b"=", b"\\"]
)


@given(declared=_declared, pieces=st.lists(_pieces, max_size=8), site=st.sampled_from(["", "GBK", "?"]))
def test_any_bytes_in_any_character_set_end_in_a_text(declared: str, pieces: list[bytes], site: str):
    """Never in an exception, and never in a text that no database takes."""
    text, _ = decode(declared, b"".join(pieces), site)
    assert text == text.encode("utf_8").decode("utf_8")
    assert re.fullmatch(r"[^\ud800-\udfff]*", text)
