"""A channel that is refused everything, with a real ledger and a scripted channel: it is not up."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from support.channels import FakeChannel, deliver, script
from support.dispatching import DOWN, REFUSED, Desk, compose
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Notification

GONE = Rejected(Reason.NOT_FOUND, "404 no such hook")


async def test_a_channel_that_is_refused_everything_is_refusing(desk: Desk) -> None:
    """Until the first delivery, and with the reason."""
    channel = FakeChannel(lambda _message: GONE)
    dispatcher = desk.start(channel)
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.UP, True)
    await desk.tell("1", "2")
    await desk.quiet()
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.UP, True)
    await desk.tell("3")
    await desk.quiet()
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.REFUSING, False)
    assert dispatcher.message == (
        "the last 3 notifications were given up on, the latest for: not_found: 404 no such hook"
    )
    channel.answer = deliver
    (id_,) = await desk.tell("4")
    await desk.delivered(id_)
    assert (dispatcher.status, dispatcher.delivers, dispatcher.message) == (ChannelStatus.UP, True, "")


@pytest.mark.parametrize("reason", list(Reason))
async def test_every_reason_for_a_dead_letter_counts(desk: Desk, reason: Reason) -> None:
    """Whoever is at fault, no one gets anything: a template that fails, no recipient, a body that is too large."""

    def refused(_together: Sequence[Notification]) -> Message | Rejected:
        return Rejected(reason, "why")

    dispatcher = desk.start(FakeChannel(), compose=refused)
    await desk.tell("1", "2", "3")
    await desk.quiet()
    assert dispatcher.status is ChannelStatus.REFUSING
    assert f"{reason}: why" in dispatcher.message


async def test_bad_rows_among_good_ones_leave_it_up(desk: Desk) -> None:
    """Two dead letters in a row, then a delivery, for ever: single rows are wrong, and not the channel."""
    answers: list[Result] = [GONE, GONE, Delivered()]
    dispatcher = desk.start(FakeChannel(script(*answers * 10)), concurrency=1)
    for number in range(30):
        await desk.tell(str(number))
        await desk.quiet()
        assert dispatcher.status is ChannelStatus.UP


async def test_a_digest_that_is_refused_counts_each_notification(desk: Desk) -> None:
    """Many notifications in one message are lost together."""
    dispatcher = desk.start(FakeChannel(lambda _message: GONE, bulk=5), concurrency=1)
    await desk.tell("1", "2", "3", "4", "5")
    await desk.quiet()
    assert dispatcher.status is ChannelStatus.REFUSING


async def test_a_delivery_of_nothing_does_not_end_it(desk: Desk) -> None:
    """A resolve for which nothing is sent reached no one."""
    silent = Delivered("nothing is sent on resolve", sent=False)
    dispatcher = desk.start(FakeChannel(script(GONE, GONE, GONE, silent)), concurrency=1)
    for number in range(4):
        await desk.tell(str(number))
        await desk.quiet()
    assert dispatcher.status is ChannelStatus.REFUSING


async def test_a_pause_comes_before_it_and_ends_in_it(desk: Desk) -> None:
    """While the key is wrong the channel is paused; a probe that is refused for good leaves it refusing."""
    channel = FakeChannel(script(GONE, GONE, GONE, REFUSED, GONE))
    dispatcher = desk.start(channel, concurrency=1)
    for number in range(4):
        await desk.tell(str(number))
        await desk.quiet()
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.PAUSED, False)
    await desk.advance(31)
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.REFUSING, False)


async def test_an_outage_that_ends_in_dead_letters_delivers_nothing(desk: Desk) -> None:
    """A receiver that is down for longer than the attempts last: failing, and not up either."""
    dispatcher = desk.start(FakeChannel(lambda _message: DOWN), max_attempts=1)
    await desk.tell(*map(str, range(8)))
    await desk.advance(120)
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.FAILING, False)


async def test_an_outage_does_not_replace_why_it_refuses(desk: Desk) -> None:
    """An attempt that failed and is tried again is not given up on."""
    dispatcher = desk.start(FakeChannel(script(GONE, GONE, GONE, DOWN)), concurrency=1)
    for number in range(4):
        await desk.tell(str(number))
        await desk.quiet()
    assert dispatcher.status is ChannelStatus.REFUSING
    assert dispatcher.message == (
        "the last 3 notifications were given up on, the latest for: not_found: 404 no such hook"
    )


@pytest.mark.parametrize("trouble", [DOWN, REFUSED])
async def test_a_refusal_after_an_outage_is_no_delivery(desk: Desk, trouble: Result) -> None:
    """The log says that the channel delivers again at the first delivery, once."""
    channel = FakeChannel(script(trouble, GONE, GONE, GONE, GONE))
    with capture_logs() as logged:
        desk.start(channel, concurrency=1)
        for number in range(4):
            await desk.tell(str(number))
            await desk.advance(31)
        assert len(channel.sends) >= 5
        before = [line["event"] for line in logged]
        channel.answer = deliver
        (last,) = await desk.tell("again")
        await desk.delivered(last)
    assert "channel refusing" in before
    assert "channel delivers again" not in before
    assert [line["event"] for line in logged].count("channel delivers again") == 1


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.IN_PROGRESS, Reason.RATE_LIMITED, Reason.NOT_PROCESSED])
async def test_a_channel_whose_attempts_all_fail_is_failing(desk: Desk, reason: Reason) -> None:
    """Also where the failures are no outage of the receiver, such as a defect of a handler."""
    channel = FakeChannel(lambda _message: Retry(reason, "why"))
    dispatcher = desk.start(channel, max_attempts=None)
    (id_,) = await desk.tell("1")
    for _ in range(8):
        await desk.advance(100)
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.FAILING, True)
    assert f"{reason}: why" in dispatcher.message
    channel.answer = deliver
    await desk.advance(100)
    await desk.delivered(id_)
    assert (dispatcher.status, dispatcher.message) == (ChannelStatus.UP, "")


async def test_five_hundred_refusals_are_two_lines(desk: Desk) -> None:
    """The first in full, and a count at the end of the streak; the state changes are lines of their own."""
    channel = FakeChannel(lambda _message: GONE, bulk=10)
    with capture_logs() as logged:
        desk.start(channel)
        ids = await desk.tell(*map(str, range(500)))
        await desk.quiet()
        channel.answer = deliver
        (last,) = await desk.tell("again")
        await desk.delivered(last)
    parked = [line for line in logged if line["event"] == "notification parked"]
    assert [line.get("repeats") for line in parked] == [None, 499]
    assert (parked[0]["notification"], parked[0]["reason"]) == (ids[0], "not_found")
    others = [line["event"] for line in logged if line["event"] != "notification parked"]
    assert others == ["channel refusing", "channel delivers again"]


async def test_each_reason_and_alert_has_its_line(desk: Desk) -> None:
    """A second reason is not hidden by the flood of the first."""

    def choosy(together: Sequence[Notification]) -> Message | Rejected:
        odd = int(together[0].transition.row[0] or 0) % 2
        return Rejected(Reason.TEMPLATE, "bad") if odd else compose(together)

    with capture_logs() as logged:
        desk.start(FakeChannel(lambda _message: GONE), compose=choosy)
        await desk.tell(*map(str, range(100)))
        await desk.quiet()
        await desk.stop()
    parked = [(line["reason"], line.get("repeats")) for line in logged if line["event"] == "notification parked"]
    assert sorted(parked, key=str) == [("not_found", 49), ("not_found", None), ("template", 49), ("template", None)]


async def test_a_refused_notification_is_still_a_dead_letter(desk: Desk) -> None:
    """What is summarised in the log is kept one by one in the ledger."""
    desk.start(FakeChannel(lambda _message: GONE))
    ids = await desk.tell(*map(str, range(50)))
    await desk.quiet()
    assert {record.status for record in await desk.records(*ids)} == {Status.DEAD}
