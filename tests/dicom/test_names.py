"""Names are found however they are typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dicom.names import fold_words, words_to_find


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Müller^Anna", ("anna", "muller")),
        ("MULLER^ANNA", ("anna", "muller")),
        ("Meier-Schmidt^Jörg^^Dr.", ("dr", "jorg", "meier", "schmidt")),
        ("O'Brien^Seán", ("obrien", "sean")),
        ("Łoś^Søren", ("los", "soren")),
        ("Straße^İpek", ("ipek", "strasse")),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ("tarou", "yamada", "たろう", "やまだ", "太郎", "山田")),
        ("\uff21\uff22\uff25^ｼﾞﾛｳ", ("abe", "ジロウ")),
        ("Hong^Gildong=洪^吉洞=홍^길동", ("gildong", "hong", "吉洞", "洪", "길동", "홍")),
        ("Ελένη^Παπαδοπούλου", ("ελενη", "παπαδοπουλου")),
        ("", ()),
        ("^^=^=", ()),
    ],
)
def test_fold_words_case_accents_and_width_make_no_difference(name: str, words: tuple[str, ...]):
    """Words of alphabets lose case and accents, those of other scripts stay as they are."""
    assert words == fold_words(name)


def test_fold_words_kana_marks_make_other_letters():
    """Ga is not ka with an accent."""
    assert fold_words("が") != fold_words("か")


@given(st.text(max_size=40))
def test_fold_words_of_folded_words_are_the_same(name: str):
    """What is found can be asked for: folding twice changes nothing."""
    words = fold_words(name)
    assert set(words) == {word for each in words for word in fold_words(each)}


@pytest.mark.parametrize("name", ["王小明", "王^小明", "Wang^XiaoMing=王^小明", "王^小明=Wang"])
@pytest.mark.parametrize("asked", ["王", "王小明", "小明", "王 小明", "王小", "明"])
def test_words_to_find_of_a_name_written_as_one_hold_each_part(name: str, asked: str):
    """Family name and given name are found whether or not the device parts them, and whether or not who asks does."""
    words = words_to_find(name)
    assert all(any(word.startswith(each) for word in words) for each in fold_words(asked))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "Hong^Gildong=洪^吉洞=홍^길동",
            {"hong", "gildong", "洪", "吉洞", "洪吉洞", "洞", "홍", "길동", "홍길동", "동"},
        ),
        ("山田^タロウ", {"山田", "タロウ", "山田タロウ", "田タロウ", "ロウ", "ウ"}),
        ("Müller^Anna", {"muller", "anna"}),
        ("王Smith", {"王smith"}),
        ("", set()),
    ],
)
def test_words_to_find_are_added_to_names_written_as_one_alone(name: str, words: set[str]):
    """A name of an alphabet has its words and no others."""
    assert words == set(words_to_find(name))


@given(st.text(max_size=200))
def test_words_to_find_are_bounded(name: str):
    """Whatever the name, the words are its folded ones first, no more than a bound, none longer than one."""
    words = words_to_find(name)
    assert fold_words(name) == words[: len(fold_words(name))]
    assert len(words) <= 256
    assert all(0 < len(word) <= 64 for word in words)
