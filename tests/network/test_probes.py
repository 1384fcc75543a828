"""Connections of load balancers and monitors: counted, and told of once."""

import logging
import socket
import struct
from collections import Counter
from typing import Any

import pytest

from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.status import Status
from dicomflow.network.probes import Probes

ECHO = ((VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),)


def connect_and_close(port: int, _scu_with: Any) -> None:
    """Connect and close at once."""
    socket.create_connection(("127.0.0.1", port)).close()


def connect_and_reset(port: int, _scu_with: Any) -> None:
    """Connect and reset, as some load balancers do."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def associate_and_release(port: int, scu_with: Any) -> None:
    """Associate for nothing."""
    scu = scu_with(port, contexts=ECHO)
    scu.associate()
    scu.release()
    scu.socket.close()


def verify(port: int, scu_with: Any) -> None:
    """Associate and ask whether somebody is there."""
    scu = scu_with(port, contexts=ECHO)
    scu.associate()
    assert Status.SUCCESS == scu.echo(1).status
    scu.release()
    scu.socket.close()


def associate_and_close(port: int, scu_with: Any) -> None:
    """Associate and close without a word."""
    scu = scu_with(port, contexts=ECHO)
    scu.associate()
    scu.socket.close()


class Counted:
    """Counts how associations end."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()

    def ended(self, result: str, _ae_title: str) -> None:
        """Count one."""
        self.results[result] += 1


@pytest.mark.parametrize(
    "probe", [connect_and_close, connect_and_reset, associate_and_release, verify, associate_and_close]
)
def test_probe_is_counted_each_time_and_told_of_once(
    receiver_with: Any, scu_with: Any, until: Any, probe: Any, caplog: pytest.LogCaptureFixture
):
    """Ten checks of a load balancer are one line at INFO, and ten in the counter."""
    caplog.set_level(logging.INFO, "dicomflow")
    counted = Counted()
    receiver = receiver_with(metrics=counted)
    for number in range(10):
        probe(receiver.port, scu_with)
        until(lambda count=number + 1: counted.results.total() == count)
    ended = [record for record in caplog.records if "association_ended" in record.getMessage()]
    # A reset may come before the connection is accepted, or after.
    assert 1 <= len(ended) <= len(counted.results)
    assert 10 == counted.results.total()


def test_association_that_asks_for_something_has_its_line_each_time(
    receiver: Any, scu_with: Any, data_set: Any, ended_lines: Any
):
    """Stored or refused: an operator looks for it."""
    for number, study in enumerate(("1.2.3", None, None)):
        scu = scu_with(receiver.port)
        scu.associate()
        assert (study is None) == (scu.store(data_set(study_instance_uid=study)).status != Status.SUCCESS)
        scu.release()
        scu.socket.close()
        ended_lines(number + 1)
    assert 3 == len(ended_lines(3))


def test_rejection_has_its_line_each_time(receiver_with: Any, scu_with: Any, ended_lines: Any):
    """What is wrong with a device's settings is told as often as it tries."""
    receiver = receiver_with(called_ae_titles=("OTHER",))
    for number in range(3):
        scu = scu_with(receiver.port)
        scu.associate()
        scu.socket.close()
        assert number + 1 == len(ended_lines(number + 1))


def test_news_is_news_again_after_an_hour_and_memory_is_bounded():
    """Each kind and peer by itself; of thousands of peers the oldest are forgotten."""
    now = 0.0
    probes = Probes(lambda: now)
    assert [True, False, True, True] == [
        probes.is_news("silent", "10.0.0.1"),
        probes.is_news("silent", "10.0.0.1"),
        probes.is_news("silent", "10.0.0.2"),
        probes.is_news("lost", "10.0.0.1"),
    ]
    now = 3600.0
    assert probes.is_news("silent", "10.0.0.1")
    for number in range(5000):
        probes.is_news("silent", number)
    assert len(probes._told_at) <= 1000


def test_move_originator_is_in_the_line_of_the_association(receiver: Any, scu: Any, data_set: Any, ended_lines: Any):
    """Whose C-MOVE sent the instances, and which (0000,1030 and 1031); an odd byte of a title forges no line."""
    for title, number in (("VIEWER", 5), ("VIEWER", 5), ("VIEWER", 6), ("WORK\nSTATION", 1), ("PACS", None), (None, 7)):
        status = scu.store(data_set(), move_originator_ae_title=title, move_originator_message_id=number).status
        assert Status.SUCCESS == status
    scu.release()
    scu.socket.close()
    (line,) = ended_lines(1)
    assert " move_originator=VIEWER/5,VIEWER/6,WORK?STATION/1,PACS/0 " in line


def test_association_without_a_move_has_no_originator(receiver: Any, scu: Any, data_set: Any, ended_lines: Any):
    """A device that sends what it made itself."""
    scu.store(data_set())
    scu.release()
    scu.socket.close()
    assert " move_originator=- " in ended_lines(1)[0]
