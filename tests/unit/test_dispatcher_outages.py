"""A channel whose receiver is down or refuses us, with a real ledger and a scripted channel."""

from collections.abc import Sequence
from pathlib import Path

from support.channels import FakeChannel, deliver, script
from support.dispatching import DOWN, REFUSED, Desk, compose
from tocsin.app.build import policy
from tocsin.channels.base import Delivered, Message, Rejected
from tocsin.config import load
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Notification


async def test_a_refusal_pauses_the_channel_until_one_probe_gets_through(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: REFUSED, bulk=5)
    dispatcher = desk.start(channel, concurrency=1)
    ids = await desk.tell(*map(str, range(20)))
    await desk.advance(29)
    assert len(channel.sends) == 1
    assert (dispatcher.status, dispatcher.message) == (ChannelStatus.PAUSED, "unauthorized: wrong key")
    await desk.advance(2)
    assert [len(messages) for messages in channel.sends] == [5, 1]
    await desk.advance(58)
    assert len(channel.sends) == 2
    channel.answer = deliver
    await desk.advance(3)
    await desk.delivered(*ids)
    assert (dispatcher.status, dispatcher.message) == (ChannelStatus.UP, "")
    assert len(channel.sends[2]) == 1


async def test_refusals_cost_no_attempt(desk: Desk) -> None:
    channel = FakeChannel(script(*[REFUSED] * 4))
    desk.start(channel, max_attempts=1)
    (id_,) = await desk.tell("1")
    for _ in range(5):
        await desk.advance(301)
    assert (await desk.record(id_)).status is Status.DELIVERED


async def test_refusals_that_were_under_way_together_are_one_pause(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: REFUSED)
    channel.gate.clear()
    desk.start(channel, concurrency=8)
    await desk.tell(*map(str, range(20)))
    await desk.until(lambda: channel.under_way == 8)
    channel.gate.set()
    await desk.advance(29)
    assert len(channel.sends) == 8
    await desk.advance(2)
    assert len(channel.sends) == 9


async def test_failures_that_were_under_way_together_are_one_step_of_the_backoff(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: DOWN)
    channel.gate.clear()
    dispatcher = desk.start(channel, concurrency=20)
    await desk.tell(*map(str, range(40)))
    await desk.until(lambda: channel.under_way == 20)
    channel.gate.set()
    await desk.quiet()
    assert dispatcher.status is ChannelStatus.FAILING
    assert len(channel.sends) == 20
    await desk.advance(1.0)
    assert len(channel.sends) == 21


async def test_after_five_failures_one_send_at_a_time_finds_out_when_the_receiver_is_back(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: DOWN, bulk=10)
    dispatcher = desk.start(channel, concurrency=1, max_attempts=None)
    ids = await desk.tell(*map(str, range(200)))
    await desk.quiet()
    assert str(dispatcher.status) == "failing"
    assert dispatcher.message == "connection: refused"
    assert len(channel.sends) == 5
    for wait in (1, 2, 4):
        before = len(channel.sends)
        await desk.advance(wait - 0.1)
        assert len(channel.sends) == before
        await desk.advance(0.2)
        assert len(channel.sends) == before + 1
    channel.answer = deliver
    await desk.advance(60)
    await desk.advance(60)
    await desk.delivered(*ids)
    assert dispatcher.status is ChannelStatus.UP


async def test_an_outage_of_one_message_among_others_is_no_outage(desk: Desk) -> None:
    channel = FakeChannel(lambda message: DOWN if message.envelope["row"]["order_id"] == 1 else Delivered(), bulk=2)
    dispatcher = desk.start(channel, max_attempts=None)
    for at in range(8):
        await desk.tell("1", "2", at=1000 + at)
        await desk.advance(60)
    assert dispatcher.status is ChannelStatus.UP


async def test_what_was_never_sent_says_nothing_of_the_receiver(desk: Desk) -> None:
    def choosy(together: Sequence[Notification]) -> Message | Rejected:
        odd = int(together[0].transition.row[0] or 0) % 2
        return Rejected(Reason.TEMPLATE, "bad") if odd else compose(together)

    channel = FakeChannel(lambda _message: REFUSED)
    dispatcher = desk.start(channel, concurrency=4, compose=choosy)
    await desk.tell("0")
    await desk.until(lambda: dispatcher.status is ChannelStatus.PAUSED)
    await desk.tell(*map(str, range(1, 40)))
    for probes in range(2, 5):
        await desk.advance(301)
        assert dispatcher.status is ChannelStatus.PAUSED
        assert len(channel.sends) == probes


async def test_what_a_channel_rejects_without_asking_says_nothing_of_the_receiver_either(desk: Desk) -> None:
    nobody = Rejected(Reason.NO_RECIPIENTS, "nobody to tell")
    channel = FakeChannel(script(REFUSED, nobody, nobody, REFUSED))
    dispatcher = desk.start(channel, concurrency=4)
    await desk.tell("0")
    await desk.until(lambda: dispatcher.status is ChannelStatus.PAUSED)
    await desk.tell(*map(str, range(1, 10)))
    await desk.advance(31)
    assert dispatcher.status is ChannelStatus.PAUSED
    assert len(channel.sends) == 4


async def test_by_default_an_outage_of_many_hours_costs_nothing_and_one_of_more_than_a_day_ends_in_dead_letters(
    desk: Desk, tmp_path: Path
) -> None:
    file = tmp_path / "tocsin.yaml"
    file.write_text(
        "sources: {pg: {type: postgres, host: h, user: u}}\n"
        "channels: {hook: {type: console}}\n"
        "alerts: {late: {source: pg, relation: v, notify: [hook]}}\n"
    )
    settings = policy(load(file, {}).channels["hook"])
    desk.chance = 0.5
    channel = FakeChannel(lambda _message: DOWN)
    desk.start(channel, **{field: getattr(settings, field) for field in type(settings).__slots__})
    (first,) = await desk.tell("1")
    for _ in range(23 * 2):
        await desk.advance(1800)
    assert (await desk.record(first)).status is Status.PENDING
    assert channel.attempts(first) > 40
    channel.answer = deliver
    await desk.advance(1800)
    await desk.delivered(first)
    channel.answer = lambda _message: DOWN
    (second,) = await desk.tell("2")
    for _ in range(25 * 2):
        await desk.advance(1800)
    record = await desk.record(second)
    assert (record.status, record.reason) == (Status.DEAD, "expired")
