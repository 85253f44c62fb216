"""How a dispatcher ends, and what it waits for; with a real ledger and a scripted channel."""

import asyncio

import pytest

from support.channels import FakeChannel
from support.dispatching import BUSY, REFUSED, Desk
from tocsin.channels.base import Delivered
from tocsin.dispatch import ChannelStatus
from tocsin.ledger.base import Status


async def test_cancelling_closes_the_channel_once_and_ends_what_is_under_way(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel)
    await desk.tell("1", "2")
    await desk.until(lambda: channel.under_way == 2)
    await desk.stop()
    assert (channel.closed, channel.under_way) == (1, 0)
    assert {record.status for record in await desk.records()} == {Status.PENDING}


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_channel_that_cannot_be_closed_does_not_disturb_the_end(desk: Desk, hangs: bool) -> None:
    class Stubborn(FakeChannel):
        async def close(self) -> None:
            await super().close()
            if hangs:
                await asyncio.Event().wait()
            raise ZeroDivisionError

    channel = Stubborn()
    desk.start(channel)
    task = desk.task
    await desk.quiet()
    task.cancel()
    await desk.until(lambda: channel.closed)
    desk.clock.advance(60)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_drained_waits_for_what_is_ready_and_not_for_what_waits(desk: Desk) -> None:
    channel = FakeChannel(lambda message: BUSY if message.envelope["row"]["order_id"] == 0 else Delivered())
    channel.gate.clear()
    dispatcher = desk.start(channel, concurrency=2)
    waiting, *ids = await desk.tell(*map(str, range(9)))
    draining = asyncio.create_task(dispatcher.drained())
    await desk.until(lambda: channel.under_way == 2)
    await desk.quiet()
    assert not draining.done()
    channel.gate.set()
    await draining
    assert {record.status for record in await desk.records(*ids)} == {Status.DELIVERED}
    assert (await desk.record(waiting)).status is Status.PENDING


async def test_drained_does_not_wait_for_a_channel_that_is_paused(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: REFUSED)
    dispatcher = desk.start(channel)
    await desk.tell("1", "2")
    await desk.until(lambda: dispatcher.status is ChannelStatus.PAUSED)
    await dispatcher.drained()


async def test_drained_right_at_the_start_waits_for_what_the_ledger_has(desk: Desk) -> None:
    ids = await desk.tell("1", "2", "3")
    dispatcher = desk.start(FakeChannel())
    await dispatcher.drained()
    assert {record.status for record in await desk.records(*ids)} == {Status.DELIVERED}


async def test_settled_launches_nothing_more_and_waits_for_what_is_under_way(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    dispatcher = desk.start(channel, concurrency=2)
    ids = await desk.tell(*map(str, range(6)))
    await desk.until(lambda: channel.under_way == 2)
    settling = asyncio.create_task(dispatcher.settled())
    await desk.quiet()
    assert not settling.done()
    channel.gate.set()
    await settling
    await desk.quiet()
    assert len(channel.ids) == 2
    statuses = [record.status for record in await desk.records(*ids)]
    assert statuses.count(Status.DELIVERED) == 2
    assert statuses.count(Status.PENDING) == 4


async def test_a_settled_dispatcher_sleeps_whatever_becomes_due(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    dispatcher = desk.start(channel)
    await desk.tell("1")
    await desk.until(lambda: channel.sends)
    await dispatcher.settled()
    await desk.advance(1000)  # waits until the dispatcher sleeps: one that spins never does
    assert len(channel.sends) == 1
