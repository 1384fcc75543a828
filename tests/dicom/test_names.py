"""Names are found however they are typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dicom.names import fold_words


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
