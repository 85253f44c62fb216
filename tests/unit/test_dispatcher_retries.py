"""What becomes of a notification that could not be delivered: waits, attempts and dead letters; with a real ledger and
a scripted channel."""

from collections.abc import Sequence

import pytest

from support.channels import FakeChannel, script
from support.dispatching import BUSY, Desk, compose
from tocsin.channels.base import Message, Rejected, Retry
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Kind, Notification


async def test_waits_between_attempts_double_up_to_the_maximum(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=None, max_age=1e9)
    (id_,) = await desk.tell("1")
    for number, ceiling in enumerate([1, 2, 4, 8, 16, 32, 60, 60], 1):
        await desk.until(lambda number=number: channel.attempts(id_) == number)  # type: ignore[misc]
        await desk.quiet()
        record = await desk.record(id_)
        assert record.not_before - desk.clock.now == pytest.approx(ceiling * desk.chance)
        await desk.advance(ceiling * desk.chance - 0.01)
        assert channel.attempts(id_) == number
        await desk.advance(0.02)


async def test_attempts_are_counted_and_the_last_one_parks_the_notification(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=3)
    (id_,) = await desk.tell("1")
    for _ in range(6):
        await desk.advance(100)
    assert channel.attempts(id_) == 3
    record = await desk.record(id_)
    assert (record.status, record.reason, record.attempts) == (Status.DEAD, "exhausted", 3)
    assert "in_progress: later" in record.detail


async def test_waits_that_the_receiver_asked_for_do_not_count(desk: Desk) -> None:
    wait = Retry(Reason.RATE_LIMITED, "slow down", after=5.0, free=True)
    channel = FakeChannel(script(*[wait] * 10))
    desk.start(channel, max_attempts=2)
    (id_,) = await desk.tell("1")
    for _ in range(10):
        await desk.advance(6)
    assert (await desk.record(id_)).status is Status.DELIVERED
    assert (await desk.record(id_)).attempts == 1


async def test_a_notification_that_is_too_old_is_parked(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=None, max_age=100.0)
    (id_,) = await desk.tell("1")
    await desk.advance(50)
    assert (await desk.record(id_)).status is Status.PENDING
    await desk.advance(51)
    record = await desk.record(id_)
    assert (record.status, record.reason) == (Status.DEAD, "expired")


async def test_what_the_receiver_will_never_take_is_parked_and_the_episode_goes_on(desk: Desk) -> None:
    channel = FakeChannel(script(Rejected(Reason.NOT_FOUND, "no such workflow")))
    desk.start(channel)
    first, *rest = await desk.episode("a")
    await desk.delivered(*rest)
    record = await desk.record(first)
    assert (record.status, record.reason, record.detail) == (Status.DEAD, "not_found", "no such workflow")


async def test_what_cannot_be_composed_is_parked_with_its_reason(desk: Desk) -> None:
    def choosy(together: Sequence[Notification]) -> Message | Rejected:
        match together[0].transition.row[0]:
            case "1":
                return Rejected(Reason.UNROUTED, "no longer notifies")
            case "2":
                raise ZeroDivisionError
        return compose(together)

    channel = FakeChannel(bulk=10)
    ids = await desk.tell("1", "2", "3")
    desk.start(channel, compose=choosy)
    await desk.delivered(ids[2])
    await desk.quiet()
    assert channel.ids == [ids[2]]
    assert [record.reason for record in await desk.records(*ids[:2])] == ["unrouted", "internal"]


async def test_a_retry_after_is_kept(desk: Desk) -> None:
    channel = FakeChannel(script(Retry(Reason.SERVER_ERROR, after=45.0)))
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.advance(44.9)
    assert channel.attempts(id_) == 1
    await desk.advance(6)
    assert channel.attempts(id_) == 2


async def test_a_receiver_that_limits_the_rate_is_left_alone_for_as_long_as_it_asks(desk: Desk) -> None:
    channel = FakeChannel(script(Retry(Reason.RATE_LIMITED, after=30.0, free=True)))
    dispatcher = desk.start(channel, concurrency=1)
    ids = await desk.tell("1", "2", "3")
    await desk.advance(29.9)
    assert len(channel.ids) == 1
    assert dispatcher.status is ChannelStatus.UP
    await desk.advance(4)
    await desk.delivered(*ids)


async def test_a_retry_after_of_nothing_is_no_loop(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: Retry(Reason.RATE_LIMITED, after=0.0, free=True))
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.quiet()
    assert channel.attempts(id_) == 1
    await desk.advance(1.0)
    assert channel.attempts(id_) == 2


async def test_a_repeat_of_an_episode_reaches_the_channel_with_its_attempts(desk: Desk) -> None:
    channel = FakeChannel(script(BUSY, BUSY))
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.advance(1)
    await desk.advance(2)
    await desk.delivered(id_)
    assert [message.attempts for messages in channel.sends for message in messages] == [0, 1, 2]
    assert channel.sends[0][0].kind is Kind.FIRED
