"""References: what a request for commitment names is read in a bounded time, and a report names it as it was."""

import io
from collections.abc import Callable
from typing import Final

import pytest
from data_sets import BIG_ENDIAN, EXPLICIT, IMPLICIT, UNDEFINED, element, item, sequence
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from dicomflow.dicom.references import (
    Reference,
    TooManyReferencesError,
    encode_references,
    read_references,
    read_report,
)
from dicomflow.errors import PeerError

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
NAMED: Final = tuple(Reference(CT, f"1.2.{number}") for number in range(3))


def transaction(syntax: str, value: bytes = b"1.2.9\0") -> bytes:
    """Encode a Transaction UID."""
    return element(0x00081195, "UI", value, syntax)


def naming(reference: Reference, syntax: str, *, defined: bool = False, after: bytes = b"") -> bytes:
    """Encode the item of a reference, and what a device writes after it."""
    uids = ((0x00081150, reference.sop_class_uid), (0x00081155, reference.sop_instance_uid))
    encoded = b"".join(element(tag, "UI", uid.encode() + b"\0" * (len(uid) % 2), syntax) for tag, uid in uids)
    return item(encoded + after, syntax, defined=defined)


def asking(syntax: str, *, defined: bool = False, after: bytes = b"") -> bytes:
    """Encode a request that names three instances."""
    items = (naming(each, syntax, defined=defined, after=after) for each in NAMED)
    return transaction(syntax) + sequence(0x00081199, *items, syntax=syntax, defined=defined)


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_request_is_read_in_every_encoding(syntax: str, *, defined: bool):
    """With lengths and without, and with what devices write beside the two UIDs, sequences of their own too."""
    purpose = sequence(0x0040A170, item(element(0x00080100, "SH", b"1 ", syntax), syntax), syntax=syntax)
    for after in (b"", element(0x00081190, "UT", b"http://pacs/1 ", syntax), purpose):
        assert ("1.2.9", NAMED) == read_references(asking(syntax, defined=defined, after=after), syntax)


@pytest.mark.parametrize(("declared", "sent"), [(IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT)])
def test_request_in_another_encoding_than_negotiated_is_read(declared: str, sent: str):
    """As an image is that is sent so."""
    before = element(0x00080005, "CS", b"ISO_IR 100", sent) + element(0x00080054, "AE", b"PACS", sent)
    assert ("1.2.9", NAMED) == read_references(before + asking(sent), declared)


def test_order_and_padding_do_not_matter():
    """The Transaction UID may stand last, UIDs end with spaces, and an instance is named twice."""
    odd = item(element(0x00081155, "UI", b"1.2.0 ") + element(0x00081150, "UI", CT.encode() + b" "))
    encoded = sequence(0x00081199, odd, naming(NAMED[0], EXPLICIT), naming(NAMED[1], EXPLICIT))
    assert ("1.2.9", NAMED[:2]) == read_references(encoded + transaction(EXPLICIT), EXPLICIT)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        transaction(EXPLICIT),
        sequence(0x00081199, naming(NAMED[0], EXPLICIT)),
        transaction(EXPLICIT) + sequence(0x00081199),
        transaction(EXPLICIT) + sequence(0x00081199, item(b"")),
        transaction(EXPLICIT, b"1.2.9\\1.2.8") + sequence(0x00081199, naming(NAMED[0], EXPLICIT)),
        transaction(EXPLICIT) + sequence(0x00081199, naming(Reference(CT, "../1"), EXPLICIT)),
        transaction(EXPLICIT) + sequence(0x00081199, naming(Reference(CT, ""), EXPLICIT)),
        transaction(EXPLICIT) + sequence(0x00081199, item(element(0x00081155, "UI", b"1.2.3\0"))),
        transaction(EXPLICIT) + element(0x00081199, "SQ", element(0x00081155, "UI", b"1.2.3\0")),
        transaction(EXPLICIT) + element(0x00081199, "SQ", element(0xFFFEE000, "", b"", length=9)),
    ],
)
def test_request_that_names_nothing_usable_is_refused(encoded: bytes):
    """Whatever is missing, illegal or no item."""
    with pytest.raises(PeerError):
        read_references(encoded, EXPLICIT)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("defined", [True, False])
def test_request_that_is_cut_short_is_refused(syntax: str, *, defined: bool):
    """Wherever it is cut: a half list is another list."""
    whole = asking(syntax, defined=defined)
    for length in range(len(whole)):
        with pytest.raises(PeerError):
            read_references(whole[:length], syntax)


def test_number_of_references_is_bounded():
    """As many as may be named are read; one more is refused for that, and not as illegal."""
    encoded = asking(EXPLICIT)
    assert ("1.2.9", NAMED) == read_references(encoded, EXPLICIT, most=3)
    with pytest.raises(TooManyReferencesError):
        read_references(encoded, EXPLICIT, most=2)


_MOST: Final = 1_000
_MANY: Final = 30 * _MOST
_HOSTILE: Final[dict[str, Callable[[], bytes]]] = {
    "empty items": lambda: sequence(0x00081199, element(0xFFFEE000, "", b"") * _MANY),
    "empty elements": lambda: sequence(0x00081199, item(element(0x00081190, "UT", b"") * _MANY)),
    "nested": lambda: sequence(
        0x00081199,
        element(0xFFFEE000, "", element(0x00081199, "SQ", b"", length=UNDEFINED), length=UNDEFINED) * _MANY,
    ),
    "no end": lambda: element(0x00081199, "SQ", element(0xFFFEE000, "", b"", length=UNDEFINED), length=UNDEFINED),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_request_is_refused(name: str):
    """Without recursion, and no later than at the bound on elements."""
    with pytest.raises(PeerError):
        read_references(transaction(EXPLICIT) + _HOSTILE[name](), EXPLICIT, most=_MOST)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_report_is_what_pydicom_reads(syntax: str):
    """Each list in its sequence, with the reasons, and an empty one left out."""
    failed = ((Reference(CT, "1.2.7"), 0x0112), (Reference(CT, "1.2.77"), 0x0119))
    for succeeded, reasons in ((NAMED, failed), (NAMED, ()), ((), failed)):
        encoded = encode_references("1.2.9", succeeded, reasons, syntax)
        found = read_dataset(io.BytesIO(encoded), is_implicit_VR=syntax == IMPLICIT, is_little_endian=True)
        assert "1.2.9" == found.TransactionUID
        assert list(succeeded) == [_of(each) for each in found.get("ReferencedSOPSequence", [])]
        items = found.get("FailedSOPSequence", [])
        assert list(reasons) == [(_of(each), each.FailureReason) for each in items]


def _of(found: Dataset) -> Reference:
    return Reference(found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID)


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_report_is_read_with_the_reasons_of_what_failed(syntax: str, *, defined: bool):
    """In either order of its sequences, with a reason, without one, and with one that is no number."""
    failed = [
        naming(NAMED[1], syntax, defined=defined, after=element(0x00081197, "US", b"\x12\x01", syntax)),
        naming(NAMED[2], syntax, defined=defined, after=element(0x00081197, "US", b"", syntax)),
        naming(NAMED[2], syntax, defined=defined),
    ]
    parts = [
        transaction(syntax),
        sequence(0x00081199, naming(NAMED[0], syntax, defined=defined), syntax=syntax, defined=defined),
        sequence(0x00081198, *failed, syntax=syntax, defined=defined),
    ]
    expected = ("1.2.9", NAMED[:1], ((NAMED[1], 0x0112), (NAMED[2], None), (NAMED[2], None)))
    assert expected == read_report(b"".join(parts), syntax)
    assert expected == read_report(b"".join(reversed(parts)), syntax)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_report_that_is_written_is_read(syntax: str):
    """A round trip, also of one that has neither sequence."""
    failed = ((NAMED[1], 0x0110), (NAMED[2], 0x0213))
    assert ("1.2.9", NAMED[:1], failed) == read_report(encode_references("1.2.9", NAMED[:1], failed, syntax), syntax)
    assert ("1.2.9", (), ()) == read_report(encode_references("1.2.9", (), (), syntax), syntax)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xff" * 50,
        transaction(EXPLICIT, b"../x"),
        transaction(EXPLICIT) + sequence(0x00081198, item(element(0x00081197, "US", b"\x10\x01"))),
        transaction(EXPLICIT) + sequence(0x00081199, item(element(0x00081150, "UI", b"1.2\0"))),
    ],
)
def test_report_that_names_nothing_is_refused(encoded: bytes):
    """No Transaction UID, an illegal one, an item without an instance: none is a report."""
    with pytest.raises(PeerError):
        read_report(encoded, EXPLICIT)


def test_report_with_too_many_items_is_refused():
    """Either sequence has its limit."""
    encoded = encode_references("1.2.9", NAMED, [(each, 0x0110) for each in NAMED], EXPLICIT)
    assert 3 == len(read_report(encoded, EXPLICIT, most=3)[1])
    with pytest.raises(TooManyReferencesError):
        read_report(encoded, EXPLICIT, most=2)
