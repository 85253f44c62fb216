"""A dispatcher and its ledger: nothing lost, nothing twice, whatever comes between reading, offering and writing."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from support.channels import FakeChannel
from support.dispatching import BUSY, Desk
from support.ledger import commit, transition
from tocsin.channels.base import Delivered, Message, Result
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Ledger, Page, Settlement, Status
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Kind, Notification


class Between:
    """A ledger that does as another does, except where a test puts something between."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.reading = asyncio.Event()
        self.let_read = asyncio.Event()
        self.let_read.set()
        self.unreadable = 0
        self.unwritable = 0
        self.without_ids = 0
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def claim(self, channel: str, limit: int) -> Page:
        self.reads += 1
        if self.unreadable:
            self.unreadable -= 1
            raise LedgerError("the disk reports an error", LedgerReason.FAILED)
        found = await self._ledger.claim(channel, limit)
        self.reading.set()
        await self.let_read.wait()
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> bool:
        if self.unwritable:
            self.unwritable -= 1
            raise LedgerError("the disk is full", LedgerReason.FULL)
        return await self._ledger.settle(settlements)

    async def previous_ids(self, notification: Notification) -> tuple[str, ...]:
        if self.without_ids:
            self.without_ids -= 1
            raise LedgerError("the disk reports an error", LedgerReason.FAILED)
        return await self._ledger.previous_ids(notification)


# Restarts.


async def test_what_was_pending_is_sent_after_a_restart_with_the_same_id_and_not_before_the_recovery_delay(
    desk: Desk,
) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel)
    ids = await desk.tell("1", "2")
    await desk.until(lambda: channel.under_way == 2)
    await desk.stop()
    again = FakeChannel()
    desk.start(again, recovery_delay=3.0)
    await desk.advance(2.9)
    assert again.ids == []
    await desk.advance(0.2)
    await desk.delivered(*ids)
    assert sorted(again.ids) == sorted(ids)


async def test_attempts_and_waits_survive_a_restart(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=3)
    (id_,) = await desk.tell("1")
    await desk.advance(1)
    assert channel.attempts(id_) == 2
    await desk.stop()
    desk.start(channel, max_attempts=3)
    await desk.advance(1.9)
    assert channel.attempts(id_) == 2
    await desk.advance(0.2)
    assert channel.attempts(id_) == 3
    assert (await desk.record(id_)).reason == "exhausted"


async def test_a_restart_of_the_ledger_as_well_sends_what_was_left(desk: Desk) -> None:
    ids = await desk.tell(*map(str, range(50)))
    await desk.ledger.close()
    desk.ledger = open_ledger(desk.path, clock=desk.clock)
    channel = FakeChannel(bulk=7)
    desk.start(channel)
    await desk.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)


# More than memory holds.


async def test_what_memory_does_not_hold_is_read_from_the_ledger_in_order_and_once(desk: Desk) -> None:
    channel = FakeChannel(bulk=3)
    desk.start(channel, limit=5)
    ids = [id_ for number in range(20) for id_ in await desk.tell(*(f"{number}-{key}" for key in "abc"))]
    ids += [id_ for key in "xyz" for id_ in await desk.episode(key, 8)]
    await desk.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)
    assert channel.broken == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [1, 2, 7, 50])
async def test_many_small_commits_while_the_channel_is_slow_lose_nothing_and_send_nothing_twice(
    desk: Desk, seed: int, limit: int
) -> None:
    dice = random.Random(seed)

    async def slowly(_message: Message) -> Result:
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        return Delivered()

    channel = FakeChannel(slowly, bulk=dice.choice([1, 4]))
    desk.start(channel, limit=limit, concurrency=dice.choice([1, 3]))
    ids: list[str] = []

    async def produce(alert: str) -> None:
        for number in range(60):
            key = dice.choice("abcdefgh")
            told = transition(key, Kind.UPDATED, alert=alert, at=number, started_at=1)
            notifications = await desk.ledger.commit(commit([told], alert=alert))
            desk.dispatchers[0].wake()
            ids.extend(one.id for one in notifications)

    await asyncio.gather(*(produce(alert) for alert in ("one", "two", "three")))
    await desk.delivered(*ids)
    await desk.quiet()
    assert sorted(channel.ids) == sorted(ids)
    assert channel.broken == []
    order = {id_: number for number, id_ in enumerate(channel.ids)}
    by_episode: dict[str, list[int]] = {}
    for record in sorted(await desk.records(), key=lambda record: record.seq):
        by_episode.setdefault(record.fingerprint, []).append(order[record.id])
    assert all(places == sorted(places) for places in by_episode.values())


async def test_offers_in_another_order_than_the_commits_lose_nothing(desk: Desk) -> None:
    channel = FakeChannel()
    dispatcher = desk.start(channel)
    await desk.quiet()
    first = await desk.ledger.commit(commit([transition("1")]))
    second = await desk.ledger.commit(commit([transition("2")]))
    dispatcher.wake()
    await desk.delivered(first[0].id, second[0].id)
    assert len(channel.ids) == 2


async def test_what_waits_for_a_retry_does_not_keep_new_notifications_out_of_memory(desk: Desk) -> None:
    channel = FakeChannel(lambda message: BUSY if message.envelope["row"]["order_id"] < 8 else Delivered())
    desk.start(channel, limit=10, max_attempts=None)
    await desk.tell(*map(str, range(8)))
    await desk.until(lambda: len(channel.sends) == 8)
    await desk.delivered(*await desk.tell(*map(str, range(8, 30))))


# Reading again.


async def test_a_retry_by_another_process_is_sent_after_a_rescan(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    dispatcher = desk.start(channel, max_attempts=1)
    (id_,) = await desk.tell("1")
    await desk.quiet()
    assert (await desk.record(id_)).status is Status.DEAD
    channel.answer = lambda _message: Delivered()
    await desk.ledger.retry([id_])
    dispatcher.rescan()
    await desk.delivered(id_)
    assert channel.attempts(id_) == 2


async def test_what_was_dropped_is_not_sent_any_more_after_a_rescan(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    dispatcher = desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.until(lambda: channel.sends)
    await desk.quiet()
    await desk.ledger.drop([id_])
    dispatcher.rescan()
    await desk.advance(100)
    assert channel.attempts(id_) == 1


async def test_what_is_dropped_while_it_is_on_its_way_is_not_sent_again(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    channel.gate.clear()
    dispatcher = desk.start(channel)
    id_, following, _ = await desk.episode("a")
    await desk.until(lambda: channel.under_way)
    await desk.ledger.drop([id_])
    dispatcher.rescan()
    await desk.quiet()
    channel.gate.set()
    await desk.quiet()
    channel.answer = lambda _message: Delivered()
    await desk.advance(100)
    await desk.delivered(following)
    assert channel.attempts(id_) == 1
    assert (await desk.record(id_)).status is Status.DROPPED


async def test_a_rescan_while_a_later_page_is_being_read_loses_nothing(desk: Desk) -> None:
    ids = await desk.tell(*map(str, range(12)))
    between = Between(desk.ledger)
    permits = asyncio.Semaphore(0)

    async def permitted(_message: Message) -> Result:
        await permits.acquire()
        return Delivered()

    channel = FakeChannel(permitted)
    dispatcher = desk.start(channel, ledger=between, concurrency=1, limit=4)
    await desk.until(lambda: channel.under_way)
    between.let_read.clear()
    between.reading.clear()
    permits.release()
    permits.release()
    await asyncio.wait_for(between.reading.wait(), 10)
    dispatcher.rescan()  # forgets what the first page brought and what is not on its way yet
    between.let_read.set()
    for _ in ids:
        permits.release()
    await desk.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)


async def test_what_is_offered_while_the_ledger_is_being_read_is_not_lost(desk: Desk) -> None:
    between = Between(desk.ledger)
    between.let_read.clear()
    channel = FakeChannel()
    desk.start(channel, ledger=between)
    await asyncio.wait_for(between.reading.wait(), 10)  # nothing was found, and that is about to be believed
    ids = await desk.tell("1", "2")
    between.let_read.set()
    await desk.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)


@pytest.mark.parametrize("seed", range(4))
async def test_rescans_at_any_moment_lose_nothing_and_send_nothing_twice(desk: Desk, seed: int) -> None:
    dice = random.Random(seed)

    async def sometimes(_message: Message) -> Result:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        return Delivered() if dice.random() < 0.8 else BUSY

    desk.chance = 0.0  # retries are due at once
    channel = FakeChannel(sometimes, bulk=3)
    dispatcher = desk.start(channel, limit=6, concurrency=3, max_attempts=None)
    ids: list[str] = []
    for _ in range(80):
        ids += await desk.tell_of([transition(key, at=len(ids) + 1) for key in dice.sample("abcdef", 2)])
        if dice.random() < 0.4:
            dispatcher.rescan()
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
    await desk.delivered(*ids)
    await desk.quiet()
    assert sorted(message.id for message in channel.delivered) == sorted(ids)
    assert channel.broken == []


# A ledger that fails.


async def test_a_delivery_that_cannot_be_written_down_is_written_down_later_and_not_sent_again(desk: Desk) -> None:
    between = Between(desk.ledger)
    between.unwritable = 3
    channel = FakeChannel()
    dispatcher = desk.start(channel, ledger=between)
    first, *rest = await desk.episode("a")
    await desk.until(lambda: between.unwritable == 2)
    await desk.quiet()
    assert channel.ids == [first]
    for _ in range(3):
        await desk.advance(60)
    await desk.delivered(first, *rest)
    assert channel.ids == [first, *rest]
    assert dispatcher.delivered == 3


async def test_an_outbox_that_cannot_be_read_is_read_soon_after(desk: Desk) -> None:
    between = Between(desk.ledger)
    between.unreadable = 2
    ids = await desk.tell("1", "2")
    desk.start(FakeChannel(), ledger=between)
    await desk.until(lambda: between.reads)
    for _ in range(2):
        await desk.advance(3)
    await desk.delivered(*ids)


async def test_an_outbox_that_cannot_be_read_is_not_read_at_each_offer(desk: Desk) -> None:
    between = Between(desk.ledger)
    between.unreadable = 1000
    desk.start(FakeChannel(), ledger=between)
    for number in range(50):
        await desk.tell(str(number))
    await desk.quiet()
    assert between.reads < 5


async def test_a_ledger_that_cannot_name_the_earlier_ids_makes_no_dead_letter(desk: Desk) -> None:
    between = Between(desk.ledger)
    channel = FakeChannel(needs_previous_ids={Kind.RESOLVED})
    desk.start(channel, ledger=between, max_attempts=1)
    fired, resolved = await desk.episode("a", 2)
    await desk.delivered(fired, resolved)
    await desk.quiet()
    between.without_ids = 1
    ids = await desk.episode("b", 2)
    await desk.delivered(ids[0])
    await desk.quiet()
    assert channel.attempts(ids[1]) == 0
    await desk.advance(10)
    await desk.delivered(ids[1])
    assert channel.delivered[-1].previous_ids == (ids[0],)


async def test_a_notification_settled_while_the_ledger_is_being_read_is_not_sent_again(desk: Desk) -> None:
    between = Between(desk.ledger)
    channel = FakeChannel()
    channel.gate.clear()
    dispatcher = desk.start(channel, ledger=between)
    ids = await desk.tell("1", "2")
    await desk.until(lambda: channel.under_way == 2)
    between.let_read.clear()
    between.reading.clear()
    dispatcher.rescan()
    await asyncio.wait_for(between.reading.wait(), 10)  # what was read says that both are pending
    channel.gate.set()
    await desk.delivered(*ids)
    between.let_read.set()
    await desk.quiet()
    assert sorted(channel.ids) == sorted(ids)
