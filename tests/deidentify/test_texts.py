"""Words and codes that may stay, and the table of project IDs."""

from pathlib import Path

import pydicom
import pytest
from planted import encoded, reading

from dicomflow.deidentify.copying import Quarantined, deidentify
from dicomflow.deidentify.profile import Profile, load_profile
from dicomflow.deidentify.settings import ProfileSettings
from dicomflow.deidentify.texts import clean_words, public_code, words_of
from dicomflow.errors import PermanentError

_SECRET = "a secret of a site, long enough to be one"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"CT Abdomen with contrast", b"CT Abdomen with contrast"),
        (b"CT Abdomen, Zqwert, 12.03.1960, phase 2", b"CT Abdomen phase 2"),
        (b"liver: Zqwert has 55-12-34", b"liver has"),
        (b"liver\\Zqwert", b"liver\\"),
        (b"Doe Head", b"Head"),
        (b"head of Smithy", b"head"),
        (b"\x1b$B;3ED\x1b(B head", b""),
        ("Leber Zqwért".encode(), b""),
    ],
)
def test_words_stay_that_are_terms(text: bytes, expected: bytes):
    """What nobody knows goes, and so do numbers that could be dates, and what code extensions hide."""
    names = words_of([b"Doe^John", b"Smithy"])
    assert clean_words(text, names).strip() == expected.strip()


def test_word_of_a_name_goes_even_if_it_is_a_term():
    """A patient who is called Liver is not named, and the site's own words stay."""
    names = words_of([b"Liver^Hand"])
    assert clean_words(b"liver with hand trial7", names, frozenset({b"trial7"})) == b"with trial7"


@pytest.mark.parametrize(
    ("value", "scheme", "meaning"),
    [
        ("10200004", "SCT", b"Liver structure (body structure)"),
        ("T-62000", "SRT", b"Liver structure (body structure)"),
        ("121071", "DCM", b"Finding"),
        ("mm", "UCUM", b"mm"),
        ("999999999", "SCT", b"999999999"),
        ("Zqwert", "SCT", None),
        ("{Zqwert}", "UCUM", None),
        ("121071", "99LOCAL", None),
        ("121071", "", None),
    ],
)
def test_code_has_its_schemes_meaning_or_is_none(value: str, scheme: str, meaning: bytes | None):
    """Whatever meaning came with a code, the copy has the scheme's own."""
    code = public_code(value, scheme)
    assert (None if code is None else code[2]) == meaning


def _bound(lookup: Path) -> Profile:
    return load_profile("p", {"p": ProfileSettings(lookup=lookup)}, secret=_SECRET, domain="research")


def test_patient_has_the_project_id_of_the_lookup_table(tmp_path: Path):
    """The project's ID stands in name and ID; who is not in the table is not sent, and not named in the reason."""
    made = reading()[0]
    made.SpecificCharacterSet, made.PatientID = "ISO_IR 192", "Zqwért"
    (tmp_path / "projects.csv").write_text("Zqwért,P-001\n7,P-002\n", encoding="utf-8")
    deidentify(encoded(made), tmp_path / "copy.dcm", _bound(tmp_path / "projects.csv"))
    copy = pydicom.dcmread(tmp_path / "copy.dcm")
    assert (copy.PatientID, copy.PatientName) == ("P-001", "P-001")
    made.PatientID = "stranger"
    outcome = deidentify(encoded(made), tmp_path / "other.dcm", _bound(tmp_path / "projects.csv"))
    assert isinstance(outcome, Quarantined)
    assert "lookup table" in outcome.reason
    assert "stranger" not in outcome.reason


@pytest.mark.parametrize("content", ["a,b,c\n", "a\n", "a,\n", "a,Zqwért\n", "a,b\na,c\n", "a,b\\c\n"])
def test_lookup_table_that_cannot_be_meant_is_refused_without_its_values(tmp_path: Path, content: str):
    """The line's number is told, and nothing that stands in it."""
    (tmp_path / "projects.csv").write_text(content, encoding="utf-8")
    with pytest.raises(PermanentError, match=r"line \d of the lookup table") as caught:
        _bound(tmp_path / "projects.csv")
    assert "Zq" not in str(caught.value)
