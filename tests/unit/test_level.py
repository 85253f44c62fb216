"""The loop of a level output, between alerts that change and receivers that answer well or badly."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from support.levels import DOWN, OK, LevelHarness
from support.messages import transition
from support.waiting import until
from tocsin.channels.base import Paused, Rejected, Retry
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason

BAD_LABEL = Rejected(Reason.REJECTED, "bad label")


@pytest.fixture
async def levels() -> AsyncIterator[LevelHarness]:
    made = LevelHarness("a", "b")
    await made.quiet()
    yield made
    await made.close()


async def test_sends_changes_together_to_every_receiver(levels: LevelHarness) -> None:
    await levels.fires("1", wait=0)
    await levels.fires("1", "2", wait=0)
    assert levels.level.pushes == []
    await levels.advance(0.3)
    assert levels.level.sent("a") == levels.level.sent("b") == [["1", "2"]]
    loop = levels.loop
    assert (loop.status, loop.message, loop.pending) == (ChannelStatus.UP, "", 0)
    assert (loop.delivered, loop.failed) == (4, 0)
    assert loop.last_delivery == pytest.approx(levels.clock.now)
    assert levels.metric("tocsin_channel_attempts_total") == levels.metric("tocsin_channel_delivered_total") == 4


async def test_receivers_that_accepted_a_firing_are_known(levels: LevelHarness) -> None:
    levels.level.answers["b"] = DOWN
    await levels.fires("1")
    fingerprint = transition(key="1").fingerprint
    assert levels.loop.accepted("late", fingerprint) == {"a": True, "b": False}
    assert levels.loop.accepted("late", "nosuch") == {"a": False, "b": False}
    await levels.fires()
    assert levels.loop.accepted("late", fingerprint) == {"a": False, "b": False}


async def test_receiver_that_is_down_delays_no_other(levels: LevelHarness) -> None:
    """Once it is back, it gets everything, which it may have forgotten."""
    await levels.fires("1")
    levels.level.answers["a"] = DOWN
    with capture_logs() as logged:
        await levels.fires("1", "2")
        await levels.fires("1", "2", "3")
        assert levels.level.sent("b") == [["1"], ["2"], ["3"]]
        assert (levels.loop.status, levels.loop.pending) == (ChannelStatus.FAILING, 3)
        assert levels.loop.message == "a: connection: refused"
        levels.level.answers["a"] = OK
        await levels.advance(5)
    assert levels.level.sent("a") == [["1"], ["2"], ["1", "2", "3"]]
    assert (levels.loop.status, levels.loop.message, levels.loop.pending) == (ChannelStatus.UP, "", 0)
    assert [line["event"] for line in logged] == ["receiver failing, trying again", "receiver accepts alerts again"]
    assert levels.metric("tocsin_channel_failures_total", reason="connection") == levels.loop.failed == 1


async def test_receiver_that_hangs_delays_no_other(levels: LevelHarness) -> None:
    levels.level.hanging.add("a")
    await levels.fires("1")
    await levels.fires("2")
    assert (levels.level.sent("a"), levels.level.sent("b")) == ([["1"]], [["1"], ["-1", "2"]])


async def test_backoff_doubles_and_honours_retry_after(levels: LevelHarness) -> None:
    levels.level.answers["a"] = DOWN
    await levels.fires("1")
    for passed, pushes in ((0.9, 1), (0.2, 2), (1.7, 2), (0.4, 3), (3.5, 3)):
        await levels.advance(passed)
        assert len(levels.level.sent("a")) == pushes
    levels.level.answers["a"] = Retry(Reason.RATE_LIMITED, "slowly", after=20.0)
    await levels.advance(0.6)
    await levels.advance(19)
    assert len(levels.level.sent("a")) == 4
    await levels.advance(4)
    assert len(levels.level.sent("a")) == 5


async def test_pauses_when_every_receiver_refuses_credentials(levels: LevelHarness) -> None:
    levels.level.answers = dict.fromkeys("ab", Paused(Reason.UNAUTHORIZED, "401"))
    await levels.fires("1")
    assert (levels.loop.status, levels.loop.delivers) == (ChannelStatus.PAUSED, False)
    assert levels.loop.message == "a: unauthorized: 401; b: unauthorized: 401"
    await levels.advance(29)
    assert len(levels.level.sent("a")) == 1
    levels.level.answers = dict.fromkeys("ab", OK)
    await levels.advance(2)
    assert levels.loop.status is ChannelStatus.UP


async def test_refused_alert_shows_and_is_sent_again(levels: LevelHarness) -> None:
    levels.level.answers["a"] = BAD_LABEL
    with capture_logs() as logged:
        await levels.fires("1")
        await levels.advance(61)
    assert levels.level.sent("a") == [["1"], ["1"]]
    assert (levels.loop.status, levels.loop.delivers) == (ChannelStatus.UP, True)
    assert levels.loop.message == "a: 1 alerts refused, for example: rejected: bad label"
    assert [line["event"] for line in logged] == ["receiver refuses an alert"]
    levels.level.answers["a"] = OK
    await levels.advance(61)
    assert levels.loop.message == ""


async def test_output_is_refusing_when_every_alert_is_refused(levels: LevelHarness) -> None:
    """Alertmanager is reachable and answers 400 to everything: no one is notified."""
    levels.level.answers = dict.fromkeys("ab", DOWN)
    with capture_logs() as logged:
        await levels.fires(*map(str, range(50)))
        levels.level.answers = dict.fromkeys("ab", BAD_LABEL)
        await levels.advance(2)
        assert (levels.loop.status, levels.loop.delivers) == (ChannelStatus.REFUSING, False)
        levels.level.answers["b"] = OK
        await levels.advance(61)
        assert (levels.loop.status, levels.loop.delivers) == (ChannelStatus.FAILING, True)
        levels.level.answers["a"] = OK
        await levels.advance(61)
    assert (levels.loop.status, levels.loop.message) == (ChannelStatus.UP, "")
    events = [line["event"] for line in logged if line["log_level"] != "warning"]
    assert events == [*["receiver refusing"] * 2, *["receiver accepts alerts again"] * 2]
    refused = [line for line in logged if line["event"] == "receiver refuses an alert"]
    assert sorted(line.get("repeats", 0) for line in refused) == [0, 0, 49, 49]


async def test_exception_of_the_output_is_a_failed_attempt(levels: LevelHarness) -> None:
    levels.level.answers["a"] = asyncio.CancelledError()
    with capture_logs():
        await levels.fires("1")
    assert levels.loop.message == "a: internal: the output raised CancelledError"
    levels.level.answers["a"] = OK
    await levels.advance(2)
    assert levels.level.sent("a") == [["1"], ["1"]]
    assert levels.loop.status is ChannelStatus.UP


async def test_unrenderable_or_excluded_row_hides_no_other(levels: LevelHarness) -> None:
    excluded = transition(key="2")._replace(row=("2", "skip", "3"))
    levels.firing["late"] = [transition(key="666"), excluded, transition(key="1")]
    levels.loop.changed("late")
    with capture_logs() as logged:
        await levels.advance(0.3)
    assert levels.level.sent("a") == [["1"]]
    assert [line["event"] for line in logged] == ["cannot render a firing"]


async def test_renders_only_what_is_new_or_changed(levels: LevelHarness) -> None:
    await levels.fires("1", "2")
    levels.firing["late"] = [transition(key="1"), transition(key="2")._replace(row=("2", "Bob", "3"))]
    levels.loop.changed("late")
    await levels.advance(0.3)
    assert levels.level.rendered == ["1", "2", "2"]
    assert levels.level.sent("a") == [["1", "2"], ["2"]]


async def test_alerts_beyond_the_limit_are_reported(levels: LevelHarness) -> None:
    with capture_logs() as logged:
        await levels.fires(*map(str, range(2000, 3001)))
        await until(lambda: levels.loop.delivered == 2000)
    assert levels.loop.message == "1 firing alerts are not sent: more fire than max_alerts allows"
    assert [line["event"] for line in logged] == ["more alerts fire than max_alerts allows"]


async def test_alerts_unknown_twice_in_succession_are_missing(levels: LevelHarness) -> None:
    """Once may be a restart. What ended meanwhile does not count, nor does what was refused."""
    await levels.fires("1", "2", "3")
    levels.level.known_of = {"a": frozenset("1"), "b": frozenset("123")}
    with capture_logs() as logged:
        await levels.advance(301)
        assert (levels.loop.missing, levels.loop.message) == (0, "")
        await levels.fires("1", "2", "4")
        await levels.advance(300)
    assert levels.loop.missing == 1
    assert levels.loop.message == "a: 1 firing alerts were accepted, and are not known there"
    assert levels.loop.status is ChannelStatus.UP
    assert [line["event"] for line in logged] == ["receiver accepted alerts that it does not know"]
    levels.level.known_of = {"a": frozenset("124")}
    await levels.advance(300)
    assert (levels.loop.missing, levels.loop.message) == (0, "")


async def test_refused_alerts_are_not_missing(levels: LevelHarness) -> None:
    levels.level.answers["a"] = BAD_LABEL
    levels.level.known_of = dict.fromkeys("ab", frozenset())
    await levels.fires("1")
    levels.level.known_of["b"] = frozenset("1")
    for _ in range(3):
        await levels.advance(301)
    assert levels.loop.missing == 0
    assert levels.loop.message == "a: 1 alerts refused, for example: rejected: bad label"


@pytest.mark.parametrize("answer", [None, RuntimeError("a defect")])
async def test_receiver_that_cannot_be_asked_is_not_disturbed(
    levels: LevelHarness, answer: BaseException | None
) -> None:
    levels.level.known_of = dict.fromkeys("ab", answer)
    await levels.fires("1")
    for _ in range(3):
        await levels.advance(301)
    assert (levels.loop.status, levels.loop.message, levels.loop.missing) == (ChannelStatus.UP, "", 0)
    assert levels.loop.failed == 0
    await levels.fires("2")
    assert levels.level.sent("a")[-1] == ["-1", "2"]


async def test_alert_of_silent_source_expires_until_known(levels: LevelHarness) -> None:
    """No resend and no end while the source is silent; a resend as soon as it answers, changed or not."""
    await levels.fires("1")
    levels.firing["late"] = None
    for _ in range(10):
        await levels.advance(60)
    assert levels.level.sent("a") == [["1"]]
    levels.firing["late"] = [transition(key="1")]
    levels.loop.changed("late", news=False)
    await levels.advance(0.3)
    assert levels.level.sent("a") == [["1"], ["1"]]
    levels.firing["late"] = []
    levels.loop.changed("late", news=False)
    await levels.advance(0.3)
    assert levels.level.sent("a") == [["1"], ["1"]]


async def test_shutdown_sends_changes_only(levels: LevelHarness) -> None:
    await levels.fires("1", "2")
    levels.level.answers["b"] = DOWN
    levels.firing["late"] = [transition(key="2")]
    await levels.loop.caught_up()
    assert levels.level.sent("a") == [["1", "2"], ["-1"]]
    await levels.close()
    assert (levels.level.closed, levels.level.sent("a")[2:]) == (1, [])


# A loop after another, as the configuration changes.


async def test_restart_sends_missed_ends(levels: LevelHarness) -> None:
    """Also of a removed alert, and those that a receiver missed. An alert of unknown state waits until it is known."""
    levels.level.answers["b"] = DOWN
    await levels.fires("1", "2")
    await levels.fires("3", "4", alert="early")
    await levels.fires("2")
    await levels.close()
    levels.level.answers["b"] = OK
    levels.firing = {"early": None}
    levels.start()
    await levels.quiet()
    assert levels.level.sent("a")[-1] == levels.level.sent("b")[-1] == ["-1", "-2"]
    await levels.fires("4", alert="early")
    assert levels.level.sent("a")[-1] == levels.level.sent("b")[-1] == ["-3", "4"]


async def test_removed_output_ends_everything_it_reported(levels: LevelHarness) -> None:
    await levels.fires("1")
    await levels.fires("2", alert="early")
    levels.firing["early"] = None
    levels.level.answers["b"] = DOWN
    await levels.loop.retired()
    assert levels.level.sent("a")[-1] == ["-1", "-2"]
