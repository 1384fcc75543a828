"""Status codes and reasons are those of the standard."""

from pynetdicom import pdu
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicomflow.dimse.pdu import AssociateReject
from dicomflow.dimse.status import AbortReason, Rejection, Status, describe_rejection, describe_status


def test_no_status_of_ours_is_a_warning():
    """Senders take a warning for "stored"; all but Success are failures."""
    assert "Success" == code_to_category(Status.SUCCESS)
    for status in set(Status) - {Status.SUCCESS}:
        assert "Failure" == code_to_category(status), f"{status:04X}"


def test_storage_statuses_are_known_to_the_service_class():
    """Those that answer a C-STORE stand in its list, or in the general one of PS3.7 Annex C."""
    for status in (Status.OUT_OF_RESOURCES, Status.DATA_SET_MISMATCH, Status.CANNOT_UNDERSTAND):
        assert "Failure" == STORAGE_SERVICE_CLASS_STATUS[status][0]


def test_rejections_are_combinations_that_the_standard_defines():
    """PS3.8 9.3.4 defines reasons for each source, and reserves the rest."""
    rejections = [each for each in vars(Rejection).values() if isinstance(each, AssociateReject)]
    assert 8 == len(rejections)
    for each in rejections:
        item = pdu.A_ASSOCIATE_RJ()
        item.result, item.source, item.reason_diagnostic = each.result, each.source, each.reason
        assert item.result_str
        assert "Reserved" not in item.reason_str
        assert "Unknown" not in item.reason_str


def test_abort_reasons_leave_out_the_reserved_one():
    """3 is reserved (PS3.8 9.3.8)."""
    assert [0, 1, 2, 4, 5, 6] == [int(reason) for reason in AbortReason]


def test_statuses_and_rejections_are_told_in_words():
    """Number first, for who looks it up; a status that nobody knows has the name of its class."""
    assert "A801H (the move destination is unknown to it)" == describe_status(0xA801)
    assert "A7FFH (out of resources)" == describe_status(0xA7FF)
    assert "C123H (cannot understand or process)" == describe_status(0xC123)
    assert "0BADH (unknown)" == describe_status(0x0BAD)
    assert "association rejected 2/3/2: it has as many associations as it takes" == describe_rejection(
        Rejection.LOCAL_LIMIT
    )
    assert "association rejected 1/9/9" == describe_rejection(AssociateReject(1, 9, 9))
