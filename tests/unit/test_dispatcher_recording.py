"""How a dispatcher writes down what has been answered: together, while it goes on sending, and to the last."""

import asyncio
from collections.abc import Sequence
from typing import Any

from support.channels import FakeChannel
from support.dispatching import Desk
from tocsin.channels.base import Delivered, Message, Result
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Ledger, Settlement, Status


class Slow:
    """A ledger that writes outcomes down when it is let. `writings`: how many each writing was told of; `failures`: how
    many of the next ones fail."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.let_write = asyncio.Event()
        self.writings: list[int] = []
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def settle(self, settlements: Sequence[Settlement]) -> bool:
        self.writings.append(len(settlements))
        await self.let_write.wait()
        if self.failures:
            self.failures -= 1
            raise LedgerError("the disk is full", LedgerReason.FULL)
        return await self._ledger.settle(settlements)


async def test_sending_goes_on_while_outcomes_are_written_down_and_those_that_gather_are_written_together(
    desk: Desk,
) -> None:
    channel, slow = FakeChannel(), Slow(desk.ledger)
    desk.start(channel, ledger=slow, concurrency=1)
    ids = await desk.tell(*map(str, range(50)))
    await desk.until(lambda: len(channel.delivered) == 50)
    first = slow.writings[0]
    assert len(slow.writings) == 1, "one writing at a time"
    slow.let_write.set()
    await desk.delivered(*ids)
    assert slow.writings == [first, 50 - first]


async def test_the_next_of_an_episode_waits_until_the_one_before_is_written_down(desk: Desk) -> None:
    channel, slow = FakeChannel(), Slow(desk.ledger)
    desk.start(channel, ledger=slow)
    ids = await desk.episode("1")
    others = await desk.tell("2")
    await desk.until(lambda: slow.writings and len(channel.delivered) == 2)
    assert channel.ids == [ids[0], *others]
    slow.let_write.set()
    await desk.delivered(*ids)
    assert channel.ids == [ids[0], *others, *ids[1:]]


async def test_what_was_answered_is_written_down_even_if_the_run_ends_before_its_turn(desk: Desk) -> None:
    channel, slow = FakeChannel(), Slow(desk.ledger)
    desk.start(channel, ledger=slow, concurrency=1)
    ids = await desk.tell("1", "2", "3")
    await desk.until(lambda: len(channel.delivered) == 3)
    desk.task.cancel()
    await asyncio.sleep(0)
    slow.let_write.set()
    await asyncio.wait([desk.task])
    assert {record.status for record in await desk.records(*ids)} == {Status.DELIVERED}


async def test_a_channel_that_never_waits_leaves_the_event_loop_to_others(desk: Desk) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    sent_in: list[int] = []

    def answer(_message: Message) -> Result:
        sent_in.append(turns)
        return Delivered()

    counting = asyncio.create_task(count_turns())
    desk.start(FakeChannel(answer), concurrency=1)
    await desk.tell(*map(str, range(100)))
    await desk.until(lambda: len(sent_in) == 100)
    counting.cancel()
    assert len({*sent_in}) == 100


async def test_what_a_failing_ledger_could_not_take_is_written_down_if_it_can_at_the_end(desk: Desk) -> None:
    channel, slow = FakeChannel(), Slow(desk.ledger)
    slow.let_write.set()
    slow.failures = 1
    desk.start(channel, ledger=slow)
    ids = await desk.tell("1")
    await desk.until(lambda: slow.writings and not slow.failures)
    desk.task.cancel()
    await asyncio.wait([desk.task])
    assert [record.status for record in await desk.records(*ids)] == [Status.DELIVERED]


async def test_what_gathers_while_the_ledger_fails_is_written_down_with_the_rest(desk: Desk) -> None:
    channel, slow = FakeChannel(), Slow(desk.ledger)
    slow.let_write.set()
    slow.failures = 1
    desk.start(channel, ledger=slow, concurrency=1)
    ids = await desk.tell("1", "2", "3")
    await desk.until(lambda: len(channel.delivered) == 3 and not slow.failures)
    desk.clock.advance(60)
    await desk.delivered(*ids)
    assert slow.writings == [slow.writings[0], 3]
