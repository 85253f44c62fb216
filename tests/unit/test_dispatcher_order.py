"""Which of one channel's notifications are sent when: order, concurrency, bulks and rate limits; with a real ledger and
a scripted channel."""

import pytest

from support.channels import FakeChannel
from support.dispatching import BUSY, Desk
from tocsin.channels.base import Delivered, Rejected, Result
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Kind


async def test_what_is_told_is_sent_once_and_written_down(desk: Desk) -> None:
    channel = FakeChannel()
    dispatcher = desk.start(channel)
    ids = await desk.tell("1", "2", "3")
    await desk.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)
    assert {(record.attempts, record.settled_at) for record in await desk.records()} == {(1, desk.clock.now)}
    assert (dispatcher.delivered, dispatcher.failed, dispatcher.last_delivery) == (3, 0, desk.clock.now)


async def test_an_episode_is_sent_in_order_and_one_at_a_time(desk: Desk) -> None:
    channel = FakeChannel(bulk=10)
    desk.start(channel)
    episodes = [await desk.episode(key, 5) for key in "abc"]
    for ids in episodes:
        await desk.delivered(*ids)
        assert [id_ for id_ in channel.ids if id_ in ids] == ids
    assert channel.broken == []


async def test_a_failed_notification_holds_back_its_own_episode_and_no_other(desk: Desk) -> None:
    failing: set[str] = set()
    channel = FakeChannel(lambda message: BUSY if message.id in failing else Delivered())
    first, second, *rest = await desk.episode("a")
    failing.add(first)
    desk.start(channel)
    (other,) = await desk.tell("b")
    await desk.delivered(other)
    await desk.quiet()
    assert channel.attempts(second) == 0
    failing.clear()
    await desk.advance(1.0)
    await desk.delivered(first, second, *rest)
    assert [id_ for id_ in channel.ids if id_ != other] == [first, first, second, *rest]


async def test_episodes_go_side_by_side_up_to_the_concurrency(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel, concurrency=3)
    ids = await desk.tell(*map(str, range(8)))
    await desk.until(lambda: channel.under_way == 3)
    await desk.quiet()
    assert len(channel.sends) == 3
    channel.gate.set()
    await desk.delivered(*ids)
    assert channel.most_under_way == 3


async def test_the_channel_says_how_many_go_in_one_send(desk: Desk) -> None:
    channel = FakeChannel(bulk=4)
    ids = await desk.tell(*map(str, range(10)))
    desk.start(channel, concurrency=1)
    await desk.delivered(*ids)
    assert [len(messages) for messages in channel.sends] == [4, 4, 2]


async def test_a_channel_that_would_take_none_is_given_one(desk: Desk) -> None:
    channel = FakeChannel(bulk=0)
    desk.start(channel)
    await desk.delivered(*await desk.tell("1", "2"))
    assert [len(messages) for messages in channel.sends] == [1, 1]


async def test_each_result_of_a_bulk_counts_for_its_own_message(desk: Desk) -> None:
    answers: dict[str, Result] = {"1": Delivered("accepted"), "2": BUSY, "3": Rejected(Reason.TOO_LARGE, "51 kB")}
    channel = FakeChannel(lambda message: answers[str(message.envelope["row"]["order_id"])], bulk=10)
    ids = await desk.tell("1", "2", "3")
    desk.start(channel)
    await desk.until(lambda: channel.sends)
    await desk.quiet()
    one, two, three = await desk.records(*ids)
    assert (one.status, one.detail) == (Status.DELIVERED, "accepted")
    assert (two.status, two.reason, two.attempts) == (Status.PENDING, "in_progress", 1)
    assert (three.status, three.reason, three.detail) == (Status.DEAD, "too_large", "51 kB")


async def test_a_rate_limit_spreads_notifications_over_time(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel, rate_limit=2.0)
    await desk.tell("1", "2", "3")
    await desk.quiet()
    assert len(channel.ids) == 1
    await desk.advance(0.4)
    assert len(channel.ids) == 1
    await desk.advance(0.11)
    assert len(channel.ids) == 2
    await desk.advance(0.51)
    assert len(channel.ids) == 3


@pytest.mark.parametrize("seconds", [-86400.0, 86400.0])
async def test_a_wall_clock_that_is_set_neither_silences_a_channel_nor_hurries_it(desk: Desk, seconds: float) -> None:
    channel = FakeChannel()
    desk.start(channel, rate_limit=2.0)
    await desk.tell("1", "2")
    await desk.quiet()
    desk.set_clock(seconds)
    await desk.advance(0.4)
    assert len(channel.ids) == 1
    await desk.advance(0.11)
    assert len(channel.ids) == 2


async def test_earlier_ids_come_with_the_end_of_an_episode_for_channels_that_want_them(desk: Desk) -> None:
    channel = FakeChannel(needs_previous_ids={Kind.RESOLVED})
    desk.start(channel)
    ids = await desk.episode("a", 3)
    await desk.delivered(*ids)
    assert [message.previous_ids for message in channel.delivered] == [(), (), tuple(ids[:2])]


async def test_a_channel_that_hangs_delays_neither_another_one_nor_the_offers(desk: Desk) -> None:
    hanging, other = FakeChannel(), FakeChannel()
    hanging.gate.clear()
    desk.start(hanging, name="hook", concurrency=1, limit=4)
    desk.start(other, name="mail")
    for number in range(20):
        await desk.tell(f"a{number}", f"b{number}", to=("hook", "mail"))
    mail = [record.id for record in await desk.records() if record.channel == "mail"]
    await desk.delivered(*mail)
    assert len(hanging.sends) == 1
    hanging.gate.set()
    await desk.delivered(*[record.id for record in await desk.records()])
