"""The local queue keeps SQS's promises on both databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from dicomflow.catalog import queue
from dicomflow.catalog.queue import Counts, Message
from dicomflow.errors import PermanentError

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def receive(engine: Engine, now: datetime = NOW, max_messages: int = 10, timeout: float = 30) -> list[Message]:
    """Receive in a transaction of its own, as a consumer does."""
    with engine.begin() as connection:
        return queue.receive(connection, "index", now, max_messages=max_messages, visibility_timeout_seconds=timeout)


def send(engine: Engine, *bodies: str, delay_seconds: int = 0) -> list[str]:
    """Send in a transaction of its own, as a producer does."""
    with engine.begin() as connection:
        return queue.send_many(connection, "index", bodies, NOW, delay_seconds)


def count(engine: Engine, now: datetime = NOW) -> Counts:
    """Count in a transaction of its own."""
    with engine.begin() as connection:
        return queue.count(connection, "index", now)


def test_receive_sent_message_returns_it_once(engine: Engine):
    """A message is received by one consumer, and hidden from the next."""
    (message_id,) = send(engine, "hello")
    (message,) = receive(engine)
    assert (message_id, "hello", 1, NOW) == (
        message.message_id,
        message.body,
        message.receive_count,
        message.enqueued_at,
    )
    assert [] == receive(engine)


def test_receive_other_queue_leaves_the_message(engine: Engine):
    """Queues are apart."""
    with engine.begin() as connection:
        queue.send(connection, "plan", "hello", NOW)
    assert [] == receive(engine)


def test_receive_after_visibility_timeout_returns_it_again(engine: Engine):
    """A consumer that died gives its message back by time."""
    send(engine, "hello")
    receive(engine, timeout=30)
    assert [] == receive(engine, NOW + timedelta(seconds=29))
    assert [2] == [message.receive_count for message in receive(engine, NOW + timedelta(seconds=30))]


def test_receive_more_than_max_takes_the_oldest(engine: Engine):
    """A receive takes no more than asked for."""
    send(engine, *map(str, range(5)))
    assert 3 == len(receive(engine, max_messages=3))
    assert 2 == len(receive(engine, max_messages=3))


def test_send_delayed_is_not_received_before(engine: Engine):
    """A delayed message appears when its delay is over."""
    send(engine, "sweep", delay_seconds=60)
    assert [] == receive(engine, NOW + timedelta(seconds=59))
    assert Counts(visible=0, in_flight=0, delayed=1, dead=0) == count(engine)
    assert 1 == len(receive(engine, NOW + timedelta(seconds=60)))


def test_send_delay_beyond_the_services_limit_refuses(engine: Engine):
    """What SQS would refuse is refused here too."""
    with pytest.raises(PermanentError, match="901"):
        send(engine, "late", delay_seconds=901)


def test_delete_message_received_removes_it(engine: Engine):
    """A deleted message never comes back."""
    send(engine, "hello")
    (message,) = receive(engine)
    with engine.begin() as connection:
        assert queue.delete_message(connection, "index", message.message_id, message.receipt)
    assert [] == receive(engine, NOW + timedelta(hours=1))


def test_delete_message_with_an_old_receipt_keeps_it(engine: Engine):
    """A consumer that was too slow cannot delete what another works on."""
    send(engine, "hello")
    (first,) = receive(engine)
    (second,) = receive(engine, NOW + timedelta(seconds=30))
    with engine.begin() as connection:
        assert not queue.delete_message(connection, "index", first.message_id, first.receipt)
        assert queue.delete_message(connection, "index", second.message_id, second.receipt)


def test_change_visibility_to_zero_gives_it_back(engine: Engine):
    """A failed message can be tried again at once."""
    send(engine, "hello")
    (message,) = receive(engine)
    with engine.begin() as connection:
        assert queue.change_visibility(connection, "index", message.message_id, message.receipt, NOW, 0)
        assert not queue.change_visibility(connection, "index", message.message_id, "other", NOW, 0)
    assert 1 == len(receive(engine))


def test_receive_a_sixth_time_buries_the_message(engine: Engine):
    """After five receives a message is a dead letter, and stays one until it is redriven."""
    send(engine, "poison")
    for attempt in range(1, queue.MAX_RECEIVES + 1):
        assert [attempt] == [message.receive_count for message in receive(engine, timeout=0)]
    assert [] == receive(engine)
    assert Counts(visible=0, in_flight=0, delayed=0, dead=1) == count(engine)
    with engine.begin() as connection:
        assert 1 == queue.redrive(connection, "index", NOW)
    assert [1] == [message.receive_count for message in receive(engine)]


def test_count_each_kind_of_message(engine: Engine):
    """The counts are what SQS calls visible, in flight and delayed."""
    assert Counts(0, 0, 0, 0) == count(engine)
    send(engine, "a", "b", "c")
    send(engine, "d", delay_seconds=5)
    receive(engine, max_messages=1)
    assert Counts(visible=2, in_flight=1, delayed=1, dead=0) == count(engine)


def test_concurrent_consumers_share_without_doubles(engine: Engine):
    """Consumers at work at once receive every message, and each only once."""
    sent = set(send(engine, *map(str, range(200))))

    def consume(_: int) -> list[str]:
        received = []
        while messages := receive(engine, max_messages=7):
            received += [message.message_id for message in messages]
            with engine.begin() as connection:
                for message in messages:
                    assert queue.delete_message(connection, "index", message.message_id, message.receipt)
        return received

    with ThreadPoolExecutor(6) as threads:
        received = [message_id for part in threads.map(consume, range(6)) for message_id in part]
    assert 200 == len(received)
    assert sent == set(received)


@pytest.mark.parametrize("ahead", [timedelta(minutes=20), timedelta(days=1), timedelta(days=4000)])
@pytest.mark.parametrize("what", ["sent", "delayed", "received"])
def test_message_of_a_clock_that_ran_ahead_is_not_hidden(engine: Engine, ahead: timedelta, what: str):
    """What was sent or received while the clock stood in the future comes now that it is right, and once."""
    with engine.begin() as connection:
        queue.send(connection, "index", "hello", NOW + ahead, 60 if what == "delayed" else 0)
    if what == "received":
        assert 1 == len(receive(engine, NOW + ahead))
    assert Counts(1, 0, 0, 0) == count(engine)
    (message,) = receive(engine)
    assert [] == receive(engine)
    assert NOW == message.enqueued_at
    assert Counts(0, 1, 0, 0) == count(engine)
    assert [message.message_id] == [each.message_id for each in receive(engine, NOW + timedelta(seconds=30))]
