"""Matching as PS3.4 C.2.2.2 has it, key by key."""

import time as clock
from datetime import date, datetime, time, timedelta
from typing import Any

import pytest

from dicomflow.dicom.matching import MAX_VALUES, MatchError, accepts_any, match_of, same_moment


def moment(*parts: int) -> datetime:
    """Return a wall clock's time."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001  # as the index has them


def accepted(vr: str, key: str, values: list[Any], **how: bool) -> list[Any]:
    """Return the stored values that a key means."""
    match = match_of(vr, key, **how)
    return [value for value in values if match is None or match.accepts(value)]


@pytest.mark.parametrize(
    ("vr", "key", "meant", "not_meant"),
    [
        ("LO", "CT Head", ["CT Head"], ["ct head", "CT Head ", None]),
        ("LO", " CT Head ", ["CT Head"], []),
        ("LO", "CT*", ["CT", "CT Head"], ["ct", None, "MR CT"]),
        ("LO", "?T", ["CT", "ÄT"], ["T", "CCT"]),
        ("LO", "*a*b*", ["ab", "xaxbx", "a\nb"], ["ba"]),
        ("SH", "a.c", ["a.c"], ["abc"]),
        ("SH", "[a]*", ["[a]1"], ["a1"]),
        ("CS", "CT\\MR", ["CT", "MR"], ["US"]),
        ("ST", "a\\b", ["a\\b"], ["a", "b"]),
        ("UI", "1.2\\1.3\\x", ["1.2", "1.3"], ["1.2.3"]),
        ("DA", "20260105", [date(2026, 1, 5)], [date(2026, 1, 6), None]),
        ("DA", "2026.01.05", [date(2026, 1, 5)], []),
        ("DA", "20260101-20260131", [date(2026, 1, 1), date(2026, 1, 31)], [date(2026, 2, 1), None]),
        ("DA", "-20260131", [date(1, 1, 1), date(2026, 1, 31)], [date(2026, 2, 1), None]),
        ("DA", "20260101-", [date(2026, 1, 1), date(9999, 12, 31)], [date(2025, 12, 31), None]),
        ("DA", "20260131-20260101", [], [date(2026, 1, 15)]),
        ("TM", "2230", [time(22, 30)], [time(22, 30, 1)]),
        ("TM", "10-11", [time(10), time(11, 59, 59, 999999)], [time(12), time(9, 59)]),
        ("TM", "1030-1030", [time(10, 30), time(10, 30, 59)], [time(10, 31)]),
        ("TM", "-093000.5", [time(9, 30, 0, 599999)], [time(9, 30, 0, 600000)]),
        ("DT", "2026", [moment(2026, 1, 1), moment(2026, 12, 31, 23, 59)], [moment(2027, 1, 1)]),
        ("DT", "202602-", [moment(2026, 2, 1)], [moment(2026, 1, 31, 23, 59, 59)]),
        ("DT", "-202602", [moment(2026, 2, 28, 23, 59)], [moment(2026, 3, 1)]),
        (
            "DT",
            "20260101120000+0100",
            [(moment(2026, 1, 1, 11), timedelta(0))],
            [(moment(2026, 1, 1, 12), timedelta(0))],
        ),
        (
            "DT",
            "20260101120000+0100-",
            [(moment(2026, 1, 1, 11), timedelta(0))],
            [(moment(2026, 1, 1, 10), timedelta(0))],
        ),
        ("IS", "04", [4], [40, None]),
        ("IS", "+4", [4], []),
        ("US", "512", [512], [511]),
        ("DS", "1.50", [1.5], [1.49]),
    ],
)
def test_key_means_what_the_standard_says(vr: str, key: str, meant: list[Any], not_meant: list[Any]):
    """Single values by meaning, lists, wild cards where a VR has them, ranges with either end open."""
    assert meant == accepted(vr, key, meant + not_meant)


@pytest.mark.parametrize(
    ("key", "meant", "not_meant"),
    [
        ("invented^anna", ["Invented^Anna", "INVENTED^ANNA", "Invénted^Anna", "Invented^Anna^^"], ["Invented^Ann"]),
        ("INVENTED*", ["Invented^Anna", "Invented"], ["An^Invented", None]),
        ("Invented^A*", ["Invented^Anna=山田^太郎"], ["Invented^Bob"]),
        ("山田*", ["Yamada^Tarou=山田^太郎=やまだ^たろう"], ["Yamada^Tarou"]),
        ("Yamada^Tarou=山田^太郎", ["Yamada^Tarou=山田^太郎=やまだ^たろう"], ["Yamada^Tarou", "山田^太郎"]),
        ("=山田*", ["Yamada^Tarou=山田^太郎"], ["山田"]),
        ("?nvented", ["Invented"], ["nvented"]),
        ("Invented", ["Invented"], ["Invented^Anna"]),
        ("obrien", ["O'Brien"], ["Brien"]),
    ],
)
def test_name_is_blind_to_case_accents_and_group(key: str, meant: list[Any], not_meant: list[Any]):
    """Names match as the conformance statement says, by any component group."""
    assert meant == accepted("PN", key, meant + not_meant)


def test_fuzzy_name_is_found_by_the_beginnings_of_its_words():
    """Words in any order; `*x*`, as viewers write what is typed, by any part of a word."""
    names = ["Invented^Anna Maria", "Demo^Anna", "Annabel^Ivo", None]
    assert ["Invented^Anna Maria"] == accepted("PN", "ann inv", names, is_fuzzy=True)
    assert ["Invented^Anna Maria"] == accepted("PN", "*vente*", names, is_fuzzy=True)
    assert names[:3] == accepted("PN", "ANNA", names, is_fuzzy=True)


@pytest.mark.parametrize(("vr", "key"), [("LO", ""), ("LO", "*"), ("DA", " "), ("PN", "\0"), ("UI", "\\"), ("TM", "*")])
def test_empty_key_means_all(vr: str, key: str):
    """Universal matching: no value, or a lone star."""
    assert match_of(vr, key) is None


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("UI", "*"),
        ("UI", "1.2*"),
        ("DA", "202601*"),
        ("DA", "-"),
        ("DA", "20261301"),
        ("DA", "2026-01-05"),
        ("DA", "20260101-20260102-20260103"),
        ("TM", "25"),
        ("TM", "1030-x"),
        ("DT", "-"),
        ("DT", "2026+9900"),
        ("IS", "x"),
        ("DS", "1e999"),
        ("DS", "nan"),
        ("LO", "a\0b"),
        ("LO", "x" * 5000),
        ("UI", "\\".join(["1.2"] * (MAX_VALUES + 1))),
    ],
)
def test_key_without_a_meaning_is_an_error(vr: str, key: str):
    """What cannot be matched is told of, without its value, and never read as all or as nothing."""
    with pytest.raises(MatchError) as told:
        match_of(vr, key)
    assert len(key) < 3 or key not in str(told.value)


def test_empty_value_and_multiple_values_are_asked_for_where_agreed():
    """`""` means no value, and several values all of them, where that was negotiated; else one of them."""
    assert [None, ""] == accepted("LO", '""', [None, "", '""'], matches_empty=True)
    assert ['""'] == accepted("LO", '""', [None, "", '""'])
    every = match_of("CS", "ORIGINAL\\PRIMARY", matches_all=True)
    some = match_of("CS", "ORIGINAL\\PRIMARY")
    assert every is not None
    assert some is not None
    assert accepts_any(every, ["ORIGINAL", "PRIMARY", "AXIAL"])
    assert not accepts_any(every, ["ORIGINAL", "SECONDARY"])
    assert accepts_any(some, ["ORIGINAL", "SECONDARY"])


def test_date_and_time_are_one_range_where_combined():
    """Between two moments, not between two hours of each day (PS3.4 C.2.2.2.5)."""
    joined = same_moment(match_of("DA", "20260101-20260103"), match_of("TM", "1200-0800"))
    assert joined is not None
    assert joined.accepts((date(2026, 1, 2), time(3)))
    assert not joined.accepts((date(2026, 1, 1), time(3)))
    assert not joined.accepts((date(2026, 1, 3), time(9)))
    assert same_moment(match_of("DA", "20260101"), match_of("TM", "1200-")) is None


def test_many_stars_cost_no_more_than_few():
    """A pattern of stars is no way to keep a processor busy."""
    began = clock.process_time()
    assert [] == accepted("LO", "*a" * 1000 + "*b", ["a" * 4000])
    assert [] == accepted("PN", "*a?" * 1000 + "b", ["a" * 4000])
    assert clock.process_time() - began < 2
