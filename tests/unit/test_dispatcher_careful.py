"""Channels whose code may end the process: what did not end before is sent alone."""

from support.channels import FakeChannel
from support.dispatching import DispatcherHarness
from support.waiting import until_some
from tocsin.channels.base import Delivered, Message, Result
from tocsin.dispatch.careful import MOST, Careful
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Status


async def test_doubtful_notification_is_sent_alone(harness: DispatcherHarness) -> None:
    beside: dict[str, int] = {}

    def answer(message: Message) -> Result:
        beside[message.id] = channel.under_way
        return Delivered()

    channel = FakeChannel(answer)
    channel.gate.clear()
    ids = await harness.fire(*"12345678")
    await harness.ledger.begin(ids[3])  # by a process that has ended
    harness.start(Careful(channel, harness.ledger), concurrency=8)
    await harness.until(lambda: channel.under_way == 7, "all others are under way")
    assert ids[3] not in channel.ids
    channel.gate.set()
    await harness.delivered(*ids)
    assert beside[ids[3]] == 1
    assert not channel.broken


async def test_ended_attempts_leave_no_note(harness: DispatcherHarness) -> None:
    """Also those that were cancelled at the end of the process."""
    channel = FakeChannel()
    channel.gate.clear()
    harness.start(Careful(channel, harness.ledger), concurrency=8)
    (id_,) = await harness.fire("1")
    await harness.until(lambda: channel.under_way == 1, "it is under way")
    assert [one.reason for one in await harness.ledger.attempts(id_)] == ["unfinished"]
    await harness.stop()
    assert await harness.ledger.attempts(id_) == []


async def test_attempts_that_ended_no_process_are_not_counted(harness: DispatcherHarness) -> None:
    (id_,) = await harness.fire("1")
    for _ in range(MOST):
        await harness.ledger.begin(id_)
        await harness.ledger.end(id_)
    harness.start(Careful(FakeChannel(), harness.ledger))
    await harness.delivered(id_)


async def test_most_attempts_are_the_end(harness: DispatcherHarness) -> None:
    (id_,) = await harness.fire("1")
    for _ in range(MOST):
        await harness.ledger.begin(id_)
    channel = FakeChannel()
    harness.start(Careful(channel, harness.ledger))

    async def given_up() -> bool:
        return (await harness.record(id_)).status is Status.DEAD

    await until_some(given_up, "it is given up on")
    assert ((await harness.record(id_)).reason, channel.ids) == ("crashed", [])


async def test_nothing_is_sent_without_a_note(harness: DispatcherHarness) -> None:
    class Full:
        async def begin(self, _: str) -> int:
            raise LedgerError("the disk is full", LedgerReason.FULL)

    channel = FakeChannel()
    harness.start(Careful(channel, Full()))  # type: ignore[arg-type]
    (id_,) = await harness.fire("1")

    async def failed() -> bool:
        return bool((await harness.record(id_)).reason)

    await until_some(failed, "an attempt has failed")
    record = await harness.record(id_)
    assert (record.status, record.reason, record.attempts, channel.ids) == (Status.PENDING, "internal", 0, [])
