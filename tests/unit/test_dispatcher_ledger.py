"""A dispatcher and its ledger: nothing is lost or sent twice, whatever happens between reading and writing."""

import asyncio
import random

import pytest

from support.channels import FakeChannel, deliver
from support.dispatching import BUSY, DispatcherHarness, FaultyLedger
from support.ledger import commit, transition
from tocsin.channels.base import Delivered, Message, Result
from tocsin.ledger.base import Claimed, Status
from tocsin.ledger.outbox import Read
from tocsin.ledger.queue import Queue
from tocsin.model import Kind, Notification

# Restarts.


async def test_pending_ones_are_sent_after_restart(harness: DispatcherHarness) -> None:
    """With the same ids, and not before the recovery delay. New notifications do not wait."""
    channel = FakeChannel()
    channel.gate.clear()
    harness.start(channel)
    ids = await harness.fire("1", "2")
    await harness.until(lambda: channel.under_way == 2)
    await harness.stop()
    assert (channel.closed, channel.under_way) == (1, 0)
    assert await harness.statuses(*ids) == [Status.PENDING] * 2
    again = FakeChannel()
    harness.start(again, recovery_delay=3.0)
    await harness.advance(1.0)
    new = await harness.fire("3")
    await harness.advance(1.9)
    assert again.ids == new
    await harness.advance(0.2)
    await harness.delivered(*ids)
    assert sorted(again.ids) == sorted([*ids, *new])


async def test_attempts_and_waits_survive_restart(harness: DispatcherHarness) -> None:
    """The last attempt ends in a dead letter."""
    channel = FakeChannel(lambda _message: BUSY)
    harness.start(channel, max_attempts=3)
    (id_,) = await harness.fire("1")
    await harness.advance(1)
    assert channel.attempts(id_) == 2
    await harness.stop()
    harness.start(channel, max_attempts=3)
    await harness.advance(1.9)
    assert channel.attempts(id_) == 2
    await harness.advance(0.2)
    record = await harness.record(id_)
    assert (channel.attempts(id_), record.status, record.attempts) == (3, Status.DEAD, 3)
    assert record.reason == "exhausted"
    assert "in_progress: later" in record.detail
    await harness.advance(100)
    assert channel.attempts(id_) == 3


# More than one page.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [1, 2, 7, 50])
async def test_commits_while_channel_is_slow_lose_nothing(harness: DispatcherHarness, seed: int, limit: int) -> None:
    """They are not sent twice, or out of order."""
    dice = random.Random(seed)

    async def slowly(_message: Message) -> Result:
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        return Delivered()

    channel = FakeChannel(slowly, bulk=dice.choice([1, 4]))
    harness.start(channel, limit=limit, concurrency=dice.choice([1, 3]))
    ids: list[str] = []

    async def produce(alert: str) -> None:
        for number in range(60):
            updated = transition(dice.choice("abcdefgh"), Kind.UPDATED, alert=alert, at=number, started_at=1)
            notifications = await harness.ledger.commit(commit([updated], alert=alert))
            harness.wake()
            ids.extend(one.id for one in notifications)

    await asyncio.gather(*(produce(alert) for alert in ("one", "two", "three")))
    await harness.delivered(*ids)
    await harness.quiet()
    assert sorted(channel.ids) == sorted(ids)
    assert channel.broken == []
    order = {id_: number for number, id_ in enumerate(channel.ids)}
    by_episode: dict[str, list[int]] = {}
    for record in sorted(await harness.records(), key=lambda record: record.seq):
        by_episode.setdefault(record.fingerprint, []).append(order[record.id])
    assert all(places == sorted(places) for places in by_episode.values())


async def test_waiting_retries_do_not_keep_new_ones_out(harness: DispatcherHarness) -> None:
    channel = FakeChannel(lambda message: BUSY if message.envelope["row"]["order_id"] < 8 else Delivered())
    harness.start(channel, limit=10, max_attempts=None)
    await harness.fire(*map(str, range(8)))
    await harness.until(lambda: len(channel.sends) == 8)
    await harness.delivered(*await harness.fire(*map(str, range(8, 30))))


async def test_commit_during_a_read_is_not_lost(harness: DispatcherHarness) -> None:
    ledger = FaultyLedger(harness.ledger)
    gate = ledger.close_gate("claim")
    channel = FakeChannel()
    harness.start(channel, ledger=ledger)
    await harness.until(lambda: ledger.count("claimed"))  # nothing was found
    ids = await harness.fire("1", "2")
    gate.set()
    await harness.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)


# Changes by another process.


@pytest.mark.parametrize("while_sent", [False, True])
async def test_dropped_one_is_not_sent_again(harness: DispatcherHarness, while_sent: bool) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    if while_sent:
        channel.gate.clear()
    harness.start(channel)
    id_, following, _ = await harness.episode()
    await harness.until(lambda: channel.under_way if while_sent else channel.sends)
    if not while_sent:
        await harness.quiet()
    await harness.change("drop", [id_])
    await harness.quiet()
    channel.gate.set()
    await harness.quiet()
    channel.answer = deliver
    await harness.advance(100)
    await harness.delivered(following)
    assert (channel.attempts(id_), await harness.statuses(id_)) == (1, [Status.DROPPED])


async def test_dropped_one_on_a_page_is_not_sent(harness: DispatcherHarness) -> None:
    """It was claimed, and waits for its turn."""
    channel = FakeChannel()
    channel.gate.clear()
    harness.start(channel, concurrency=1)
    first, second, third = await harness.fire("1", "2", "3")
    await harness.until(lambda: channel.under_way)
    await harness.quiet()
    await harness.change("drop", [second])
    await harness.quiet()
    channel.gate.set()
    await harness.delivered(first, third)
    assert channel.ids == [first, third]


@pytest.mark.parametrize("seed", range(4))
async def test_rescans_at_any_moment_lose_nothing(harness: DispatcherHarness, seed: int) -> None:
    """Nothing is sent twice either."""
    dice = random.Random(seed)

    async def sometimes(_message: Message) -> Result:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        return Delivered() if dice.random() < 0.8 else BUSY

    harness.chance = 0.0  # retries are due at once
    channel = FakeChannel(sometimes, bulk=3)
    dispatcher = harness.start(channel, limit=6, concurrency=3, max_attempts=None)
    ids: list[str] = []
    for _ in range(80):
        ids += await harness.commit([transition(key, at=len(ids) + 1) for key in dice.sample("abcdef", 2)])
        if dice.random() < 0.4:
            dispatcher.rescan()
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
    await harness.delivered(*ids)
    await harness.quiet()
    assert sorted(message.id for message in channel.delivered) == sorted(ids)
    assert channel.broken == []


# A ledger that fails.


async def test_outcome_is_recorded_once_ledger_works(harness: DispatcherHarness) -> None:
    """A delivered notification is not repeated meanwhile, and the next of its episode waits."""
    ledger, channel = FaultyLedger(harness.ledger), FakeChannel()
    ledger.failures["settle"] = 3
    dispatcher = harness.start(channel, ledger=ledger)
    first, *rest = await harness.episode()
    await harness.until(lambda: ledger.failures["settle"] == 2)
    await harness.quiet()
    assert channel.ids == [first]
    for _ in range(3):
        await harness.advance(2)
    await harness.delivered(first, *rest)
    assert (channel.ids, dispatcher.delivered) == ([first, *rest], 3)


async def test_unreadable_outbox_is_read_again_soon(harness: DispatcherHarness) -> None:
    """Not at each commit, and within 2 s however long it has failed and whatever the backoff of the channel is."""
    ledger = FaultyLedger(harness.ledger)
    ledger.failures["claim"] = 10
    dispatcher = harness.start(FakeChannel(), ledger=ledger)
    ids = [id_ for number in range(50) for id_ in await harness.fire(str(number))]
    await harness.quiet()
    assert ledger.count("claim") == 1
    assert dispatcher.message.startswith("cannot read the outbox: ")
    for _ in range(10):
        await harness.advance(2)
    await harness.delivered(*ids)
    assert not dispatcher.message


async def test_unreadable_previous_ids_make_no_dead_letter(harness: DispatcherHarness) -> None:
    ledger = FaultyLedger(harness.ledger)
    ledger.failures["previous_ids"] = 1
    channel = FakeChannel(needs_previous_ids={Kind.RESOLVED})
    harness.start(channel, ledger=ledger, max_attempts=1)
    fired, resolved = await harness.episode(length=2)
    await harness.delivered(fired)
    await harness.quiet()
    assert channel.attempts(resolved) == 0
    await harness.advance(10)
    await harness.delivered(resolved)
    assert channel.delivered[-1].previous_ids == (fired,)


# The queue of a channel in memory: what a commit made ready is claimed once.


def notification(seq: int) -> Notification:
    return Notification(seq, f"n{seq}", "hook", transition(str(seq)), f"key {seq}")


def read(*heads: Notification, last_seq: int = 0, full: bool = False, next_at: float | None = None) -> Read:
    return Read(Claimed(heads=heads, more=full, next_at=next_at), full, last_seq)


def claimed(queue: Queue, now: float = 0.0) -> list[int] | None:
    found = queue.claim(100, now)
    return None if found is None else [one.seq for one in found.heads]


def test_commit_is_claimed_once_without_a_read() -> None:
    queue = Queue()
    assert claimed(queue) is None
    queue.was_read(read(), queue.changes)
    queue.committed(notification(1))
    assert [claimed(queue), claimed(queue)] == [[1], []]


@pytest.mark.parametrize("answered_first", [True, False])
def test_commit_that_a_read_returned_is_claimed_once(answered_first: bool) -> None:
    """The read ends before the answer of the commit, or after it."""
    queue, one = Queue(), notification(1)
    queue.was_read(read(), queue.changes)
    if answered_first:
        queue.committed(one)
    queue.was_read(read(one, last_seq=1), queue.changes)
    if not answered_first:
        queue.committed(one)
    assert claimed(queue) == []


@pytest.mark.parametrize("read_before", [True, False])
def test_commit_after_a_read_began_is_not_lost(read_before: bool) -> None:
    queue = Queue()
    if read_before:
        queue.was_read(read(), queue.changes)
    changes = queue.changes
    queue.committed(notification(2))
    queue.was_read(read(notification(1), last_seq=1), changes)
    assert claimed(queue) == [2]


def test_change_during_a_read_causes_another() -> None:
    queue = Queue()
    changes = queue.changes
    queue.changed()
    queue.was_read(read(), changes)
    assert claimed(queue) is None


def test_next_of_key_that_a_read_skipped_is_not_lost() -> None:
    """The read began while the one before was claimed, and saw the file after its end."""
    queue, one = Queue(), notification(1)
    queue.was_read(read(one, last_seq=1), queue.changes)
    changes = queue.changes
    queue.end(1, one.ordering_key)
    queue.was_read(read(last_seq=2), changes)
    queue.committed(notification(2)._replace(ordering_key=one.ordering_key))
    assert claimed(queue) is None


def test_next_of_a_dropped_one_waits_until_it_is_sent() -> None:
    """An operator drops a notification that is being sent: then the next one of its key is committed as ready."""
    queue, one = Queue(), notification(1)
    queue.was_read(read(one, last_seq=1), queue.changes)
    queue.committed(notification(2)._replace(ordering_key=one.ordering_key))
    assert claimed(queue) is None


@pytest.mark.parametrize(("found", "now"), [(read(full=True), 0.0), (read(next_at=5.0), 5.0)])
def test_unread_and_due_ones_are_read(found: Read, now: float) -> None:
    queue = Queue()
    queue.was_read(found, queue.changes)
    assert claimed(queue, now) is None


def test_timed_commit_and_long_queue_are_read() -> None:
    """Memory holds 10,000 at most."""
    for many in ([notification(1)._replace(not_before=9.0)], [notification(seq) for seq in range(1, 10_002)]):
        queue = Queue()
        queue.was_read(read(), queue.changes)
        for one in many:
            queue.committed(one)
        assert claimed(queue) is None
        assert not queue.ready


async def test_inherits_although_the_ledger_failed_once(harness: DispatcherHarness) -> None:
    """Otherwise what a process that ended had claimed would wait until another one ends."""
    ledger = FaultyLedger(harness.ledger)
    dispatcher = harness.start(FakeChannel(), ledger=ledger)
    await harness.until(lambda: ledger.count("claim"))
    ledger.failures["inherit"] = 1
    dispatcher.inherit()
    await harness.until(lambda: ledger.count("inherit") == 1)
    await harness.advance(10)
    assert ledger.count("inherit") == 2
