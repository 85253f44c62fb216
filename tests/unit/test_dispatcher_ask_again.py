"""A notification that is not finished: asked again at its time, while later episodes go on; with a real ledger and a
scripted channel."""

import pytest

from support.channels import FakeChannel
from support.dispatching import Desk
from support.ledger import transition
from tocsin.backoff import Backoff
from tocsin.channels.base import Delivered, Message, Reschedule, Result
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Kind

UNFINISHED = Reschedule(Reason.TOO_EARLY, "asked once", 2.0, free=True)


def unfinished(*ids: str) -> FakeChannel:
    """A channel that is never finished with these."""

    def answer(message: Message) -> Result:
        return UNFINISHED if message.id in ids else Delivered()

    return FakeChannel(answer)


async def test_asks_again_exactly_when_the_channel_said(desk: Desk) -> None:
    """A long backoff is for failures, and this is none: a cancel that comes later finds the message delivered."""
    _, resolved = await desk.episode(length=2)
    channel = unfinished(resolved)
    desk.start(channel, backoff=Backoff(initial=60.0, maximum=600.0), max_attempts=1)
    await desk.until(lambda: channel.attempts(resolved) == 1)
    for number in range(2, 6):
        await desk.advance(1.9)
        assert channel.attempts(resolved) == number - 1
        await desk.advance(0.11)
        await desk.until(lambda number=number: channel.attempts(resolved) == number)  # type: ignore[misc]
    await desk.quiet()
    record = await desk.record(resolved)
    assert (record.status, record.attempts, record.detail) == (Status.PENDING, 0, "asked once")
    assert record.not_before == pytest.approx(desk.clock.now + 2.0, abs=0.05)


async def test_the_next_episode_does_not_wait_for_it(desk: Desk) -> None:
    """A row that fires again meanwhile: its notifications keep their own order."""
    fired, resolved = await desk.episode(length=2)
    channel = unfinished(resolved)
    desk.start(channel)
    await desk.until(lambda: channel.attempts(resolved) == 1)
    again = await desk.tell_of(
        [
            transition("1", Kind.FIRED, at=3000, started_at=3000),
            transition("1", Kind.UPDATED, at=3001, started_at=3000),
        ]
    )
    await desk.delivered(fired, *again)
    assert [message.id for message in channel.delivered] == [fired, *again]
    await desk.advance(2.0)
    await desk.until(lambda: channel.attempts(resolved) == 2)
    channel.answer = lambda _message: Delivered()
    await desk.advance(2.0)
    await desk.delivered(resolved)
    assert not channel.broken


async def test_what_already_waits_behind_it_goes_on(desk: Desk) -> None:
    """The next episode was in the outbox before the first answer came."""
    fired, resolved = await desk.episode(length=2)
    (again,) = await desk.tell_of([transition("1", Kind.FIRED, at=3000, started_at=3000)])
    channel = unfinished(resolved)
    desk.start(channel)
    await desk.delivered(fired, again)
    assert (await desk.record(resolved)).status is Status.PENDING


async def test_a_restart_goes_on_asking(desk: Desk) -> None:
    """What is not finished is still pending in the ledger."""
    fired, resolved = await desk.episode(length=2)
    channel = unfinished(resolved)
    desk.start(channel)
    await desk.until(lambda: channel.attempts(resolved) == 1)
    await desk.quiet()
    await desk.stop()
    after = FakeChannel()
    desk.start(after)
    await desk.advance(2.1)
    await desk.delivered(fired, resolved)
    assert after.ids == [resolved]
