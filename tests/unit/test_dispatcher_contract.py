"""Channels that break their contract, with a real ledger and a scripted channel."""

import asyncio
from collections.abc import Sequence

import pytest

from support.channels import FakeChannel
from support.dispatching import REFUSED, Desk
from tocsin.channels.base import Delivered, Message, Result
from tocsin.dispatch import ChannelStatus
from tocsin.ledger.base import Status


class _Raising(FakeChannel):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        results = await super().send(messages)
        if self.error is not None:
            raise self.error
        return results


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), asyncio.CancelledError()], ids=lambda error: type(error).__name__
)
async def test_a_channel_that_raises_is_tried_again(desk: Desk, error: BaseException) -> None:
    channel = _Raising(error)
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.until(lambda: channel.attempts(id_) == 1)
    await desk.quiet()
    record = await desk.record(id_)
    assert (record.status, record.reason, record.attempts) == (Status.PENDING, "internal", 1)
    channel.error = None
    await desk.advance(1)
    await desk.delivered(id_)


@pytest.mark.parametrize("results", [[], [Delivered()] * 3, None, [None, None], "ok"], ids=repr)
async def test_a_channel_that_answers_nonsense_is_tried_again(desk: Desk, results: Sequence[Result]) -> None:
    class Confused(FakeChannel):
        confused = True

        async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
            answers = await super().send(messages)
            return results if self.confused else answers

    channel = Confused(bulk=2)
    ids = await desk.tell("1", "2")
    desk.start(channel)
    await desk.until(lambda: channel.sends)
    await desk.quiet()
    assert {(record.status, record.reason) for record in await desk.records()} == {(Status.PENDING, "internal")}
    channel.confused = False
    await desk.advance(2)
    await desk.delivered(*ids)


async def test_a_channel_that_hangs_is_given_up_on_and_tried_again(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel, timeout=10.0)
    (id_,) = await desk.tell("1")
    await desk.until(lambda: channel.under_way)
    await desk.advance(16)
    record = await desk.record(id_)
    assert (record.status, record.reason) == (Status.PENDING, "timeout")
    channel.gate.set()
    await desk.advance(1)
    await desk.delivered(id_)


async def test_a_broken_channel_does_not_end_a_pause(desk: Desk) -> None:
    channel = _Raising(ZeroDivisionError())
    channel.error = None
    channel.answer = lambda _message: REFUSED
    dispatcher = desk.start(channel)
    await desk.tell("1", "2")
    await desk.until(lambda: dispatcher.status is ChannelStatus.PAUSED)
    channel.error = ZeroDivisionError()
    await desk.advance(31)
    assert dispatcher.status is ChannelStatus.PAUSED
