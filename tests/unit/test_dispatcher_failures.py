"""Failed attempts: waits, dead letters, outages, pauses, and the status of the channel."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from support.channels import FakeChannel, deliver, script
from support.config import load_text
from support.dispatching import BUSY, DOWN, GONE, REFUSED, DispatcherHarness, compose
from support.pipelines import CONFIG
from tocsin.app.build import policy
from tocsin.backoff import Backoff
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason
from tocsin.ledger.base import Filter, Status
from tocsin.ledger.sharing import Held
from tocsin.model import Notification


def refuse_odd(together: Sequence[Notification]) -> Message | Rejected:
    """A template that fails for odd keys."""
    odd = int(together[0].transition.row[0] or 0) % 2
    return Rejected(Reason.TEMPLATE, "bad") if odd else compose(together)


async def fire_each(harness: DispatcherHarness, count: int) -> None:
    """Fire one after another."""
    for number in range(count):
        await harness.fire(str(number))
        await harness.quiet()


# Retries and dead letters.


async def test_backoff_doubles_up_to_maximum(harness: DispatcherHarness) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    harness.start(channel, max_attempts=None, max_age=1e9)
    (id_,) = await harness.fire("1")
    for number, ceiling in enumerate([1, 2, 4, 8, 16, 32, 60, 60], 1):
        await harness.quiet()
        assert channel.attempts(id_) == number
        assert (await harness.record(id_)).not_before - harness.clock.now == pytest.approx(ceiling * harness.chance)
        await harness.advance(ceiling * harness.chance - 0.01)
        assert channel.attempts(id_) == number
        await harness.advance(0.02)
    assert [message.attempts for messages in channel.sends for message in messages] == [*range(len(channel.sends))]


async def test_rejection_is_dead_and_episode_continues(harness: DispatcherHarness) -> None:
    harness.start(FakeChannel(script(GONE)))
    first, *rest = await harness.episode()
    await harness.delivered(*rest)
    record = await harness.record(first)
    assert (record.status, record.reason, record.detail) == (Status.DEAD, "not_found", "404 no such hook")


async def test_notification_failing_composition_is_dead(harness: DispatcherHarness) -> None:
    def compose_or_fail(together: Sequence[Notification]) -> Message | Rejected:
        match together[0].transition.row[0]:
            case "1":
                return Rejected(Reason.UNROUTED, "no longer notifies")
            case "2":
                raise ZeroDivisionError
        return compose(together)

    channel = FakeChannel(bulk=10)
    ids = await harness.fire("1", "2", "3")
    harness.start(channel, compose=compose_or_fail)
    await harness.delivered(ids[2])
    await harness.quiet()
    assert channel.ids == [ids[2]]
    assert [record.reason for record in await harness.records(*ids[:2])] == ["unrouted", "internal"]


async def test_retry_after_is_kept(harness: DispatcherHarness) -> None:
    """Free ones count as no attempt."""
    waits = [Retry(Reason.RATE_LIMITED, "slow down", after=5.0, free=True)] * 5
    channel = FakeChannel(script(*waits, Retry(Reason.SERVER_ERROR, after=45.0)))
    harness.start(channel, max_attempts=2)
    (id_,) = await harness.fire("1")
    for _ in waits:
        await harness.advance(6)
    assert channel.attempts(id_) == 6
    await harness.advance(44.9)
    assert channel.attempts(id_) == 6
    await harness.advance(6)
    await harness.delivered(id_)


async def test_rate_limit_of_receiver_stops_the_channel(harness: DispatcherHarness) -> None:
    channel = FakeChannel(script(Retry(Reason.RATE_LIMITED, after=30.0, free=True)))
    dispatcher = harness.start(channel, concurrency=1)
    ids = await harness.fire("1", "2", "3")
    await harness.advance(29.9)
    assert (len(channel.ids), dispatcher.status) == (1, ChannelStatus.UP)
    await harness.advance(4)
    await harness.delivered(*ids)


async def test_rate_limit_without_a_time_has_growing_waits(harness: DispatcherHarness) -> None:
    """Such attempts do not count, so nothing else makes the waits longer."""
    channel = FakeChannel(lambda _message: Retry(Reason.RATE_LIMITED, free=True))
    harness.start(channel, rate_limit=100.0)
    (id_,) = await harness.fire("1")
    for _ in range(120):
        await harness.advance(1)
    assert 6 <= channel.attempts(id_) <= 8  # after 1, 2, 4, ... 60 seconds
    channel.answer = deliver
    await harness.advance(60)
    await harness.delivered(id_)


# Pauses and outages.


async def test_refusal_pauses_channel_until_a_probe_succeeds(harness: DispatcherHarness) -> None:
    channel = FakeChannel(lambda _message: REFUSED, bulk=5)
    dispatcher = harness.start(channel, concurrency=1, max_attempts=1)
    ids = await harness.fire(*map(str, range(20)))
    await harness.advance(29)
    assert len(channel.sends) == 1
    assert (dispatcher.status, dispatcher.message) == (ChannelStatus.PAUSED, "unauthorized: wrong key")
    await harness.advance(2)
    assert [len(messages) for messages in channel.sends] == [5, 1]
    await harness.advance(58)
    assert len(channel.sends) == 2
    channel.answer = deliver
    await harness.advance(3)
    await harness.delivered(*ids)
    assert (dispatcher.status, dispatcher.message) == (ChannelStatus.UP, "")
    assert len(channel.sends[2]) == 1


@pytest.mark.parametrize(("answer", "wait"), [(REFUSED, 30), (DOWN, 1)])
async def test_sends_that_fail_together_are_one_failure(harness: DispatcherHarness, answer: Result, wait: int) -> None:
    channel = FakeChannel(lambda _message: answer)
    channel.gate.clear()
    harness.start(channel, concurrency=20)
    await harness.fire(*map(str, range(40)))
    await harness.until(lambda: channel.under_way == 20)
    channel.gate.set()
    await harness.advance(wait - 0.5)
    assert len(channel.sends) == 20
    await harness.advance(0.6)
    assert len(channel.sends) == 21


async def test_single_sends_probe_receiver_while_down(harness: DispatcherHarness) -> None:
    channel = FakeChannel(lambda _message: DOWN, bulk=10)
    dispatcher = harness.start(channel, concurrency=1, max_attempts=None)
    ids = await harness.fire(*map(str, range(200)))
    await harness.quiet()
    assert (str(dispatcher.status), dispatcher.message, len(channel.sends)) == ("failing", "connection: refused", 5)
    for wait in (1, 2, 4):
        before = len(channel.sends)
        await harness.advance(wait - 0.1)
        assert len(channel.sends) == before
        await harness.advance(0.2)
        assert len(channel.sends) == before + 1
    channel.answer = deliver
    for _ in range(3):
        await harness.advance(60)
    await harness.delivered(*ids)
    assert dispatcher.status is ChannelStatus.UP


@pytest.mark.parametrize("by_channel", [False, True])
async def test_unsent_notification_does_not_end_pause(harness: DispatcherHarness, by_channel: bool) -> None:
    """Whether a template or the channel itself rejects it."""
    rejected = Rejected(Reason.NO_RECIPIENTS, "no one")
    channel = FakeChannel(script(REFUSED, rejected, rejected, *[REFUSED] * 9) if by_channel else lambda _: REFUSED)
    dispatcher = harness.start(channel, compose=compose if by_channel else refuse_odd)
    await harness.fire("0")
    await harness.until(lambda: dispatcher.status is ChannelStatus.PAUSED)
    await harness.fire(*map(str, range(1, 40)))
    for probes in (4, 5) if by_channel else (2, 3):
        await harness.advance(301)
        assert (dispatcher.status, len(channel.sends)) == (ChannelStatus.PAUSED, probes)


async def test_default_policy_survives_an_outage_of_a_day(harness: DispatcherHarness, tmp_path: Path) -> None:
    """A longer one ends in dead letters."""
    config = load_text(tmp_path, CONFIG)
    settings = policy(config.channels["out"])
    harness.chance = 0.5
    channel = FakeChannel(lambda _message: DOWN)
    harness.start(channel, **{field: getattr(settings, field) for field in type(settings).__slots__})
    (first,) = await harness.fire("1")
    for _ in range(23 * 2):
        await harness.advance(1800)
    assert (await harness.record(first)).status is Status.PENDING
    assert channel.attempts(first) > 40
    channel.answer = deliver
    await harness.advance(1800)
    await harness.delivered(first)
    channel.answer = lambda _message: DOWN
    (second,) = await harness.fire("2")
    for _ in range(25 * 2):
        await harness.advance(1800)
    assert ((await harness.record(second)).status, (await harness.record(second)).reason) == (Status.DEAD, "expired")


# The status.


ANSWERS: dict[str, Result] = {
    "delivered": Delivered(),
    "nothing sent": Delivered("nothing to take back", sent=False),
    "gone": GONE,
    "template": Rejected(Reason.TEMPLATE, "bad"),
    "down": DOWN,
    "refused": REFUSED,
    "busy": BUSY,
    "defect": Retry(Reason.INTERNAL, "why"),
}
REFUSING = "the last 3 notifications were given up on, the latest for: not_found: 404 no such hook"


@pytest.mark.parametrize(
    ("answers", "status", "delivers", "message"),
    [
        (["gone"] * 2, "up", True, ""),
        (["gone"] * 3, "refusing", False, REFUSING),
        (["template"] * 3, "refusing", False, "the latest for: template: bad"),
        ([*["gone"] * 3, "nothing sent"], "refusing", False, REFUSING),
        ([*["gone"] * 3, "down"], "refusing", False, REFUSING),
        ([*["gone"] * 3, "refused"], "paused", False, "unauthorized: wrong key"),
        ([*["gone"] * 3, "delivered"], "up", True, ""),
        ([*["gone"] * 3, "delivered", *["gone"] * 2], "up", True, ""),
        (["down"] * 4, "up", True, "connection: refused"),
        (["down"] * 5, "failing", True, "connection: refused"),
        (["down", "delivered"] * 5, "up", True, ""),
        (["busy"] * 5, "failing", True, "the last 5 attempts failed, the latest for: in_progress: later"),
        (["defect"] * 5, "failing", True, "internal: why"),
        ([*["defect"] * 5, "delivered"], "up", True, ""),
    ],
)
async def test_answers_decide_the_status(
    harness: DispatcherHarness, answers: list[str], status: str, delivers: bool, message: str
) -> None:
    """One notification after another gets these answers. Only a delivery shows that the channel works."""
    dispatcher = harness.start(FakeChannel(script(*(ANSWERS[name] for name in answers))), concurrency=1)
    await fire_each(harness, len(answers))
    assert (dispatcher.status, dispatcher.delivers) == (status, delivers)
    assert message in dispatcher.message
    assert message or not dispatcher.message


# The log.


@pytest.mark.parametrize("trouble", [DOWN, REFUSED])
async def test_log_says_once_that_channel_delivers_again(harness: DispatcherHarness, trouble: Result) -> None:
    channel = FakeChannel(script(trouble, GONE, GONE, GONE, GONE))
    with capture_logs() as logged:
        harness.start(channel, concurrency=1)
        for number in range(4):
            await harness.fire(str(number))
            await harness.advance(31)
        before = [line["event"] for line in logged]
        (last,) = await harness.fire("again")
        await harness.delivered(last)
    assert "channel refusing" in before
    assert "channel delivers again" not in before
    assert [line["event"] for line in logged].count("channel delivers again") == 1


async def test_many_dead_letters_are_two_lines_a_reason(harness: DispatcherHarness) -> None:
    """The first in full, and a count at the end. In the ledger each is a dead letter of its own."""
    with capture_logs() as logged:
        harness.start(FakeChannel(lambda _message: GONE, bulk=10), compose=refuse_odd)
        ids = await harness.fire(*map(str, range(500)))
        await harness.quiet()
        await harness.stop()
    assert {*await harness.statuses(*ids)} == {Status.DEAD}
    lines = [(line["reason"], line.get("repeats")) for line in logged if line["event"] == "notification dead-lettered"]
    expected = [("not_found", None), ("not_found", 249), ("template", None), ("template", 249)]
    assert sorted(lines, key=str) == sorted(expected, key=str)
    assert [line["event"] for line in logged if line["event"] != "notification dead-lettered"] == ["channel refusing"]


# How long to wait: bounds for every attempt and any chance.


BACKOFF = Backoff(initial=1.0, maximum=300.0)
CHANCE = st.floats(0, 1, exclude_max=True)


def test_ceiling_doubles_up_to_maximum() -> None:
    attempts = [*range(9), 10_000_000]
    assert [BACKOFF.ceiling(attempt) for attempt in attempts] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


@given(st.integers(0, 100), CHANCE)
def test_delay_is_between_zero_and_ceiling(attempt: int, chance: float) -> None:
    assert 0 <= BACKOFF.delay(attempt, lambda: chance) <= BACKOFF.ceiling(attempt)


@given(st.integers(0, 100), CHANCE, st.floats(0, 1000))
def test_retry_after_is_lengthened_a_little(attempt: int, chance: float, asked: float) -> None:
    delay = BACKOFF.delay(attempt, lambda: chance, at_least=asked)
    assert asked <= delay <= max(1.1 * asked, BACKOFF.ceiling(attempt))


def test_same_retry_after_gives_different_delays() -> None:
    delays = {BACKOFF.delay(2, iter([chance]).__next__, at_least=60.0) for chance in (0.0, 0.2, 0.4, 0.6, 0.8)}
    assert len(delays) == 5
    assert all(60 <= delay <= 66 for delay in delays)


@given(st.integers(0, 100), CHANCE)
def test_retry_after_zero_keeps_the_backoff(attempt: int, chance: float) -> None:
    # Some servers answer `Retry-After: 0`: without a wait of our own that would be a busy loop.
    assert BACKOFF.delay(attempt, lambda: chance, at_least=0.0) == BACKOFF.delay(attempt, lambda: chance)


def test_short_retry_after_still_backs_off() -> None:
    assert BACKOFF.delay(8, lambda: 0.5, at_least=1.0) == 128.0


# With other processes.


async def test_refusal_of_another_process_pauses_channel_until_after_its_probe(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    dispatcher = harness.start(channel)
    dispatcher.held(Held(harness.clock() + 30, "unauthorized: wrong key"))
    assert (dispatcher.status, dispatcher.message) == (ChannelStatus.PAUSED, "unauthorized: wrong key")
    ids = await harness.fire("1", "2")
    await harness.advance(31)
    assert channel.ids == []
    await harness.advance(2)
    await harness.delivered(*ids)


async def test_channel_goes_on_once_the_other_process_is_accepted(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    dispatcher = harness.start(channel)
    dispatcher.held(Held(harness.clock() + 30, "unauthorized: wrong key"))
    ids = await harness.fire("1")
    await harness.quiet()
    dispatcher.held(None)
    await harness.quiet()
    await harness.delivered(*ids)
    assert dispatcher.status is ChannelStatus.UP


async def test_rate_limit_that_another_process_met_is_no_pause(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    dispatcher = harness.start(channel)
    dispatcher.held(Held(harness.clock() + 5, ""))
    assert dispatcher.status is ChannelStatus.UP
    ids = await harness.fire("1")
    await harness.advance(4)
    assert channel.ids == []
    await harness.advance(2)
    await harness.delivered(*ids)


# What people are shown of them.


async def test_latest_failures_are_shown_those_alike_as_one(harness: DispatcherHarness) -> None:
    """The newest first, five at most, with the notification that it happened to last."""
    dispatcher = harness.start(FakeChannel(script(GONE, GONE, *(Rejected(Reason.REJECTED, str(n)) for n in range(5)))))
    await fire_each(harness, 7)
    shown = [(one.reason, one.detail, one.count) for one in dispatcher.failures]
    assert shown == [(Reason.REJECTED, str(n), 1) for n in (4, 3, 2, 1, 0)]


async def test_failures_that_are_alike_count_as_one(harness: DispatcherHarness) -> None:
    dispatcher = harness.start(FakeChannel(lambda _message: GONE))
    await fire_each(harness, 2)
    [failure] = dispatcher.failures
    dead = await harness.ledger.find(Filter(status=Status.DEAD))
    assert (failure.count, failure.alert, failure.notification) == (2, "late", dead[0].id)


async def test_delays_of_deliveries_are_counted(harness: DispatcherHarness) -> None:
    dispatcher = harness.start(FakeChannel())
    await harness.fire("1", "2")
    await harness.quiet()
    count, seconds = dispatcher.delays
    assert count == 2
    assert seconds >= 0
