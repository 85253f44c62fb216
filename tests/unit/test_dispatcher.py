"""Which notifications of a channel are sent when, how they are recorded, and how a dispatcher ends."""

import asyncio
from collections.abc import Sequence

import pytest

from support.channels import FakeChannel, script
from support.dispatching import BUSY, REFUSED, DispatcherHarness, FaultyLedger
from support.ledger import transition
from tocsin.backoff import Backoff
from tocsin.channels.base import Delivered, Message, Rejected, Reschedule, Result
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Kind


def key(message: Message) -> int:
    """The key of the row that a message is about."""
    return int(message.envelope["row"]["order_id"])


# Sending.


async def test_sends_once_and_records(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    dispatcher = harness.start(channel)
    ids = await harness.fire("1", "2", "3")
    await harness.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)
    assert {(record.attempts, record.settled_at) for record in await harness.records()} == {(1, harness.clock.now)}
    assert (dispatcher.delivered, dispatcher.failed, dispatcher.last_delivery) == (3, 0, harness.clock.now)


async def test_episodes_are_sent_in_order(harness: DispatcherHarness) -> None:
    """One at a time, and each with the ids of those before where the channel needs them."""
    channel = FakeChannel(bulk=10, needs_previous_ids={Kind.RESOLVED})
    harness.start(channel)
    episodes = [await harness.episode(name, 5) for name in "abc"]
    for ids in episodes:
        await harness.delivered(*ids)
        sent = [message for message in channel.delivered if message.id in ids]
        assert [message.id for message in sent] == ids
        assert [message.previous_ids for message in sent] == [(), (), (), (), tuple(ids[:4])]
    assert channel.broken == []


async def test_sends_run_side_by_side_up_to_concurrency(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    harness.start(channel, concurrency=3)
    ids = await harness.fire(*map(str, range(8)))
    await harness.until(lambda: channel.under_way == 3)
    await harness.quiet()
    assert len(channel.sends) == 3
    channel.gate.set()
    await harness.delivered(*ids)
    assert channel.most_under_way == 3


@pytest.mark.parametrize(("size", "sends"), [(4, [4, 4, 2]), (0, [1] * 10)])
async def test_channel_sets_batch_size(harness: DispatcherHarness, size: int, sends: list[int]) -> None:
    channel = FakeChannel(bulk=size)
    ids = await harness.fire(*map(str, range(10)))
    harness.start(channel, concurrency=1)
    await harness.delivered(*ids)
    assert [len(messages) for messages in channel.sends] == sends


async def test_results_of_a_batch_are_separate(harness: DispatcherHarness) -> None:
    answers: dict[int, Result] = {1: Delivered("accepted"), 2: BUSY, 3: Rejected(Reason.TOO_LARGE, "51 kB")}
    ids = await harness.fire("1", "2", "3")
    harness.start(FakeChannel(lambda message: answers[key(message)], bulk=10))
    await harness.until(lambda: harness.dispatchers[0].failed == 2)
    await harness.quiet()
    found = [(one.status, one.reason, one.detail, one.attempts) for one in await harness.records(*ids)]
    assert found == [
        (Status.DELIVERED, "", "accepted", 1),
        (Status.PENDING, "in_progress", "later", 1),
        (Status.DEAD, "too_large", "51 kB", 1),
    ]


@pytest.mark.parametrize("seconds", [0.0, -86400.0, 86400.0])
async def test_rate_limit_spreads_sends(harness: DispatcherHarness, seconds: float) -> None:
    """Also when the wall clock is set meanwhile."""
    channel = FakeChannel()
    harness.start(channel, rate_limit=2.0)
    await harness.fire("1", "2", "3")
    await harness.quiet()
    harness.set_clock(seconds)
    for wait, count in [(0.0, 1), (0.4, 1), (0.11, 2), (0.51, 3)]:
        await harness.advance(wait)
        assert len(channel.ids) == count


async def test_hanging_channel_does_not_delay_others(harness: DispatcherHarness) -> None:
    hanging, other = FakeChannel(), FakeChannel()
    hanging.gate.clear()
    harness.start(hanging, concurrency=1, limit=4)
    harness.start(other, name="mail")
    for number in range(20):
        await harness.fire(f"a{number}", f"b{number}", to=("hook", "mail"))
    await harness.delivered(*[record.id for record in await harness.records() if record.channel == "mail"])
    assert len(hanging.sends) == 1
    hanging.gate.set()
    await harness.delivered()


# Notifications with more to do.


async def test_rescheduled_one_is_sent_exactly_then(harness: DispatcherHarness) -> None:
    """Without backoff or attempt. Later notifications of the same row do not wait, in the outbox already or not."""
    fired, resolved = await harness.episode(length=2)
    (queued,) = await harness.commit([transition("1", at=3000)])
    unfinished = Reschedule(Reason.TOO_EARLY, "asked once", 2.0, free=True)
    channel = FakeChannel(lambda message: unfinished if message.id == resolved else Delivered())
    harness.start(channel, backoff=Backoff(initial=60.0, maximum=600.0), max_attempts=1)
    await harness.delivered(fired, queued)
    for number in range(1, 4):
        assert channel.attempts(resolved) == number
        await harness.advance(1.9)
        assert channel.attempts(resolved) == number
        await harness.advance(0.11)
    record = await harness.record(resolved)
    assert (record.status, record.attempts, record.detail) == (Status.PENDING, 0, "asked once")
    assert record.not_before == pytest.approx(harness.clock.now + 2.0, abs=0.05)
    later = await harness.commit([transition("1", Kind.UPDATED, at=3000 + number) for number in (1, 2)])
    await harness.delivered(*later)
    assert [message.id for message in channel.delivered] == [fired, queued, *later]
    await harness.stop()
    again = FakeChannel()
    harness.start(again)
    await harness.advance(2.1)
    await harness.delivered(resolved)
    assert (again.ids, channel.broken) == ([resolved], [])


# Recording.


async def test_sending_goes_on_while_outcomes_are_recorded(harness: DispatcherHarness) -> None:
    """Outcomes that accumulate meanwhile are recorded together. Only the next of an episode waits."""
    channel, ledger = FakeChannel(), FaultyLedger(harness.ledger)
    gate = ledger.close_gate("settle")
    harness.start(channel, ledger=ledger, concurrency=1)
    first, *rest = await harness.episode("episode")
    others = await harness.fire(*map(str, range(50)))
    await harness.until(lambda: len(channel.delivered) == 51)
    assert {*channel.ids} == {first, *others}
    assert ledger.count("settle") == 1, "one write at a time"
    gate.set()
    await harness.delivered(first, *rest, *others)
    sizes = [len(settlements) for name, settlements in ledger.calls if name == "settle"]
    assert sizes[:2] == [sizes[0], 51 - sizes[0]]


@pytest.mark.parametrize("failures", [0, 1])
async def test_outcomes_are_recorded_at_shutdown(harness: DispatcherHarness, failures: int) -> None:
    channel, ledger = FakeChannel(), FaultyLedger(harness.ledger)
    gate = ledger.close_gate("settle")
    ledger.failures["settle"] = failures
    harness.start(channel, ledger=ledger, concurrency=1)
    ids = await harness.fire("1", "2", "3")
    await harness.until(lambda: len(channel.delivered) == 3)
    if failures:
        gate.set()
        await harness.until(lambda: not ledger.failures["settle"])
    harness.task.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait([harness.task])
    assert await harness.statuses(*ids) == [Status.DELIVERED] * 3


async def test_intended_wait_is_not_slow_delivery(harness: DispatcherHarness) -> None:
    """Nor is a delivery without a request."""
    harness.start(FakeChannel(script(Delivered("nothing to take back", sent=False))))
    await harness.advance(100)
    await harness.fire("1")
    await harness.fire("2", at=round(harness.clock() * 1000))
    await harness.delivered()
    samples = {one.name: one.value for family in harness.metrics.delivery_seconds.collect() for one in family.samples}
    assert samples["tocsin_channel_delivery_seconds_count"] == 1
    assert samples["tocsin_channel_delivery_seconds_sum"] < 1


# The end.


@pytest.mark.parametrize("hangs", [False, True])
async def test_channel_failing_to_close_does_not_block_shutdown(harness: DispatcherHarness, hangs: bool) -> None:
    class Stubborn(FakeChannel):
        async def close(self) -> None:
            await super().close()
            if hangs:
                await asyncio.Event().wait()
            raise ZeroDivisionError

    channel = Stubborn()
    harness.start(channel)
    task = harness.task
    await harness.quiet()
    task.cancel()
    await harness.until(lambda: channel.closed)
    harness.clock.advance(60)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_drained_waits_for_sendable_notifications(harness: DispatcherHarness) -> None:
    """Right from the start, and not for notifications that wait for a retry."""
    channel = FakeChannel(lambda message: BUSY if key(message) == 0 else Delivered())
    channel.gate.clear()
    waiting, *ids = await harness.fire(*map(str, range(9)))
    dispatcher = harness.start(channel, concurrency=2)
    draining = asyncio.create_task(dispatcher.drained())
    await harness.until(lambda: channel.under_way == 2)
    await harness.quiet()
    assert not draining.done()
    channel.gate.set()
    await draining
    assert {*await harness.statuses(*ids)} == {Status.DELIVERED}
    assert await harness.statuses(waiting) == [Status.PENDING]


async def test_drained_does_not_wait_for_paused_channel(harness: DispatcherHarness) -> None:
    dispatcher = harness.start(FakeChannel(lambda _message: REFUSED))
    await harness.fire("1", "2")
    await harness.until(lambda: dispatcher.status is ChannelStatus.PAUSED)
    await dispatcher.drained()


async def test_settled_starts_no_new_send(harness: DispatcherHarness) -> None:
    """It waits for running sends, then sends nothing, whatever becomes due."""
    channel = FakeChannel(lambda message: BUSY if key(message) == 0 else Delivered())
    channel.gate.clear()
    dispatcher = harness.start(channel, concurrency=2)
    await harness.fire(*map(str, range(6)))
    await harness.until(lambda: channel.under_way == 2)
    settling = asyncio.create_task(dispatcher.finish())
    await harness.quiet()
    assert not settling.done()
    channel.gate.set()
    await settling
    await harness.advance(1000)  # ends once the dispatcher sleeps
    assert len(channel.ids) == 2
    assert sorted(await harness.statuses()) == [Status.DELIVERED, *[Status.PENDING] * 5]


# Channels that break their contract.


class Defective(FakeChannel):
    """Raises `error`, or returns `results`, instead of a valid outcome."""

    error: BaseException | None = None
    results: object = ()

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        answers = await super().send(messages)
        if self.error is not None:
            raise self.error
        return answers if self.results == () else self.results  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "results"),
    [
        (ZeroDivisionError(), ()),
        (asyncio.CancelledError(), ()),
        *[(None, wrong) for wrong in ([], [Delivered()] * 3, None, [None, None], "ok")],
    ],
    ids=repr,
)
async def test_defect_of_channel_is_a_failed_attempt(
    harness: DispatcherHarness, error: BaseException | None, results: object
) -> None:
    channel = Defective(bulk=2)
    channel.error, channel.results = error, results
    ids = await harness.fire("1", "2")
    harness.start(channel)
    await harness.until(lambda: channel.sends)
    await harness.quiet()
    found = {(record.status, record.reason, record.attempts) for record in await harness.records(*ids)}
    assert found == {(Status.PENDING, "internal", 1)}
    channel.error, channel.results = None, ()
    await harness.advance(2)
    await harness.delivered(*ids)


async def test_hanging_send_is_given_up_after_the_timeout(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    harness.start(channel, timeout=10.0)
    (id_,) = await harness.fire("1")
    await harness.until(lambda: channel.under_way)
    await harness.advance(16)
    assert ((await harness.record(id_)).status, (await harness.record(id_)).reason) == (Status.PENDING, "timeout")
    channel.gate.set()
    await harness.advance(1)
    await harness.delivered(id_)
