"""The loop of a level output, between firings that change and receivers that answer as they are told."""

import asyncio
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.levels import DAY, DOWN, OK, Stage
from support.messages import transition
from support.waiting import until
from tocsin.channels.base import Paused, Rejected, Retry, Standing
from tocsin.dispatch import Condition
from tocsin.envelope import Envelope
from tocsin.errors import Reason
from tocsin.model import Transition


async def test_what_fires_is_told_to_all_once_changes_have_settled(stage: Stage) -> None:
    stage.fires("1")
    stage.fires("1", "2")
    await stage.quiet()
    assert stage.level.pushes == []
    await stage.advance(0.3)
    assert stage.level.told("a") == stage.level.told("b") == [["1", "2"]]
    assert (stage.loop.condition, stage.loop.message, stage.loop.pending) == (Condition.UP, "", 0)
    assert (stage.loop.delivered, stage.loop.failed) == (4, 0)
    assert stage.loop.last_delivery == pytest.approx(stage.clock.now)
    assert stage.metric("tocsin_channel_attempts_total") == stage.metric("tocsin_channel_delivered_total") == 4


async def test_what_ends_is_told_and_told_again(stage: Stage) -> None:
    stage.fires("1", "2")
    await stage.advance(0.3)
    stage.fires("2")
    await stage.advance(0.3)
    assert stage.level.told("a") == [["1", "2"], ["-1"]]
    await stage.advance(60)
    assert stage.level.told("a")[2:] == [["-1", "2"]]


async def test_what_fires_is_told_again_before_it_expires(stage: Stage) -> None:
    stage.fires("1")
    await stage.advance(0.3)
    for _ in range(3):
        await stage.advance(60)
    assert stage.level.told("a") == [["1"]] * 4


async def test_a_receiver_that_is_down_does_not_delay_the_others_and_gets_everything_later(stage: Stage) -> None:
    stage.level.answers["a"] = DOWN
    with capture_logs() as logged:
        stage.fires("1")
        await stage.advance(0.3)
        stage.fires("1", "2")
        await stage.advance(0.3)
        assert stage.level.told("b") == [["1"], ["2"]]
        assert (stage.loop.condition, stage.loop.pending) == (Condition.FAILING, 2)
        assert stage.loop.message == "a: connection: refused"
        await stage.advance(5)
        stage.level.answers["a"] = OK
        await stage.advance(30)
    assert stage.level.told("a")[-1] == ["1", "2"]
    assert (stage.loop.condition, stage.loop.message, stage.loop.pending) == (Condition.UP, "", 0)
    assert [line["event"] for line in logged] == [
        "receiver cannot be told what fires, trying again",
        "receiver takes alerts again",
    ]
    assert stage.metric("tocsin_channel_failures_total", reason="connection") == stage.loop.failed


async def test_a_receiver_that_could_not_be_reached_may_have_restarted_and_is_told_everything_again(
    stage: Stage,
) -> None:
    stage.fires("1")
    await stage.advance(0.3)
    stage.level.answers["a"] = DOWN
    stage.fires("1", "2")
    await stage.advance(0.3)
    stage.level.answers["a"] = OK
    await stage.advance(2)
    assert stage.level.told("a") == [["1"], ["2"], ["1", "2"]]
    assert stage.level.told("b") == [["1"], ["2"]]


async def test_a_receiver_that_hangs_does_not_delay_the_others(stage: Stage) -> None:
    stage.level.gates["a"].clear()
    stage.fires("1")
    await stage.advance(0.3)
    stage.fires("2")
    await stage.advance(0.3)
    assert (stage.level.told("a"), stage.level.told("b")) == ([["1"]], [["1"], ["-1", "2"]])


async def test_waits_grow_from_failure_to_failure_and_a_retry_after_is_kept(stage: Stage) -> None:
    stage.level.answers["a"] = DOWN
    stage.fires("1")
    await stage.advance(0.3)
    for passed, pushes in ((0.9, 1), (0.2, 2), (1.7, 2), (0.4, 3)):
        await stage.advance(passed)
        assert len(stage.level.told("a")) == pushes
    stage.level.answers["a"] = Retry(Reason.RATE_LIMITED, "slowly", after=20.0)
    await stage.advance(4)
    await stage.advance(19)
    assert len(stage.level.told("a")) == 4
    await stage.advance(4)
    assert len(stage.level.told("a")) == 5


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_wall_clock_that_is_set_neither_floods_nor_silences(stage: Stage, jump: float) -> None:
    stage.level.answers["b"] = Retry(Reason.RATE_LIMITED, "slowly", after=20.0)
    stage.fires("1", "2")
    await stage.advance(0.3)
    stage.fires("2")
    await stage.advance(0.3)
    stage.clock.now += jump
    await stage.advance(1)
    stage.fires("2", "3")
    await stage.advance(0.3)
    assert stage.level.told("a") == [["1", "2"], ["-1"], ["3"]]
    assert stage.level.told("b") == [["1", "2"]]
    assert stage.loop.last_delivery == pytest.approx(stage.clock.now, abs=5)
    stage.level.answers["b"] = OK
    await stage.advance(22)
    assert stage.level.told("b") == [["1", "2"], ["-1", "2", "3"]]
    await stage.advance(40)
    assert stage.level.told("a")[3:] == [["-1", "2", "3"]]


async def test_an_output_whose_receivers_all_refuse_us_is_paused(stage: Stage) -> None:
    stage.level.answers = dict.fromkeys("ab", Paused(Reason.UNAUTHORIZED, "401"))
    stage.fires("1")
    await stage.advance(0.3)
    assert (stage.loop.condition, stage.loop.message) == (
        Condition.PAUSED,
        "a: unauthorized: 401; b: unauthorized: 401",
    )
    await stage.advance(29)
    assert len(stage.level.told("a")) == 1
    stage.level.answers = dict.fromkeys("ab", OK)
    await stage.advance(2)
    assert stage.loop.condition is Condition.UP


async def test_a_refused_alert_shows_and_is_tried_again_with_the_others(stage: Stage) -> None:
    stage.level.answers["a"] = Rejected(Reason.REJECTED, "bad label")
    with capture_logs() as logged:
        stage.fires("1")
        await stage.advance(0.3)
        await stage.advance(61)
    assert stage.level.told("a") == [["1"], ["1"]]
    assert (stage.loop.condition, stage.loop.message) == (Condition.UP, "a: 1 alerts refused; one: rejected: bad label")
    assert [line["event"] for line in logged] == ["a receiver refuses an alert"]
    stage.level.answers["a"] = OK
    await stage.advance(61)
    assert stage.loop.message == ""


@pytest.mark.parametrize("defect", [RuntimeError("x"), asyncio.CancelledError()])
async def test_a_defect_of_the_output_is_a_failed_attempt(stage: Stage, defect: BaseException) -> None:
    stage.level.answers["a"] = defect
    with capture_logs():
        stage.fires("1")
        await stage.advance(0.3)
    assert stage.loop.message == f"a: internal: the output raised {type(defect).__name__}"
    stage.level.answers["a"] = OK
    await stage.advance(2)
    assert stage.level.told("a") == [["1"], ["1"]]
    assert stage.loop.condition is Condition.UP


async def test_a_row_that_cannot_be_put_into_shape_hides_no_other(stage: Stage) -> None:
    with capture_logs() as logged:
        stage.fires("666", "1")
        await stage.advance(0.3)
    assert stage.level.told("a") == [["1"]]
    assert [line["event"] for line in logged] == ["cannot put a firing into shape"]


async def test_what_the_output_is_not_to_be_told_of_is_left_out(stage: Stage) -> None:
    stage.firing["late"] = [
        transition(key="1"),
        Transition(**{**_fields(transition(key="2")), "row": ("2", "skip", "3")}),
    ]
    stage.loop.changed("late")
    await stage.advance(0.3)
    assert stage.level.told("a") == [["1"]]


def _fields(of: Transition) -> dict[str, Any]:
    return {name: getattr(of, name) for name in Transition.__slots__}


async def test_an_alert_that_becomes_known_is_told_at_once_though_nothing_is_new(stage: Stage) -> None:
    stage.firing["late"] = None
    stage.loop.changed("late")
    await stage.advance(0.3)
    stage.firing["late"] = [transition(key="1")]
    stage.loop.changed("late", news=False)
    await stage.advance(0.3)
    assert stage.level.told("a") == [["1"]]
    stage.firing["late"] = [transition(key="1"), transition(key="2")]
    stage.loop.changed("late", news=False)
    await stage.advance(0.3)
    assert stage.level.told("a") == [["1"]]


async def test_an_alert_whose_source_is_silent_for_too_long_is_left_to_expire(stage: Stage) -> None:
    stage.fires("1")
    await stage.advance(0.3)
    stage.firing["late"] = None
    for _ in range(10):
        await stage.advance(60)
    assert stage.level.told("a") == [["1"]]


async def test_many_firings_are_put_into_shape_beside_the_event_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    plain = stage.level.standing

    def noted(envelope: Envelope, now: float) -> Standing:
        threads.add(threading.current_thread())
        return plain(envelope, now)

    monkeypatch.setattr(stage.level, "standing", noted)
    stage.fires(*map(str, range(1000, 1300)))
    await stage.advance(0.3)
    await until(lambda: stage.loop.delivered == 600)
    assert threading.main_thread() not in threads
    threads.clear()
    stage.fires(*map(str, range(1000, 1301)))
    await stage.advance(0.3)
    await until(lambda: stage.loop.delivered == 602)
    assert threads == {threading.main_thread()}


async def test_a_firing_is_put_into_shape_when_it_is_new_or_different_and_not_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaped = []
    plain = stage.level.standing

    def noted(envelope: Envelope, now: float) -> Standing:
        shaped.append(envelope["row"]["order_id"])
        return plain(envelope, now)

    monkeypatch.setattr(stage.level, "standing", noted)
    stage.fires("1", "2")
    await stage.advance(0.3)
    changed = Transition(**{**_fields(transition(key="2")), "row": ("2", "Bob", "3")})
    for firing in ([transition(key="1"), changed, transition(key="3")], None, [transition(key="1"), changed]):
        stage.firing["late"] = firing
        stage.loop.changed("late")
        await stage.advance(0.3)
    assert shaped == [1, 2, 2, 3]


async def test_a_firing_is_compared_once_in_a_look(stage: Stage) -> None:
    class Counted(Transition):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return super().__eq__(other)

        __hash__ = Transition.__hash__

    def look() -> list[Transition]:
        return [Counted(**_fields(transition(key=key))) for key in "123"]

    stage.firing["late"] = look()
    stage.loop.changed("late")
    await stage.advance(0.3)
    assert Counted.compared == 0
    stage.firing["late"] = look()
    stage.loop.changed("late")
    await stage.advance(0.3)
    assert Counted.compared == 3
    assert stage.level.told("a") == [["1", "2", "3"]]


async def test_more_than_the_limit_is_told_to_people(stage: Stage) -> None:
    with capture_logs() as logged:
        stage.fires(*map(str, range(2000, 3001)))
        await stage.advance(0.3)
        await until(lambda: stage.loop.delivered == 2000)
    assert stage.loop.message == "1 firings more than max_alerts are not told"
    assert [line["event"] for line in logged] == ["more fires than max_alerts; the rest is not told"]


async def test_at_the_end_what_is_new_is_told_and_what_fires_is_left_to_expire(stage: Stage) -> None:
    stage.fires("1", "2")
    await stage.advance(0.3)
    stage.firing["late"] = [transition(key="2")]
    await stage.loop.settled()
    assert stage.level.told("a") == stage.level.told("b") == [["1", "2"], ["-1"]]
    await stage.close()
    assert (stage.level.closed, stage.level.told("a")[2:]) == (1, [])


async def test_the_end_does_not_wait_for_a_receiver_that_is_down(stage: Stage) -> None:
    stage.level.answers["a"] = DOWN
    stage.fires("1")
    await stage.advance(0.3)
    stage.firing["late"] = []
    await stage.loop.settled()
    assert stage.level.told("b") == [["1"], ["-1"]]


async def test_an_output_that_is_refused_every_alert_is_refusing(stage: Stage) -> None:
    """Alertmanager answers 400 for every alert: reachable, and no one hears of anything."""
    stage.level.answers = dict.fromkeys("ab", Rejected(Reason.REJECTED, "bad label"))
    with capture_logs() as logged:
        stage.fires(*map(str, range(50)))
        await stage.advance(0.3)
        assert (stage.loop.condition, stage.loop.delivers) == (Condition.REFUSING, False)
        assert "50 alerts refused; one: rejected: bad label" in stage.loop.message
        stage.level.answers = dict.fromkeys("ab", OK)
        await stage.advance(61)
    assert (stage.loop.condition, stage.loop.delivers, stage.loop.message) == (Condition.UP, True, "")
    assert [line["event"] for line in logged if line["log_level"] != "warning"] == [
        *["receiver refusing"] * 2,
        *["receiver takes alerts again"] * 2,
    ]
    refused = [line for line in logged if line["event"] == "a receiver refuses an alert"]
    assert sorted(line.get("repeats", 0) for line in refused) == [0, 0, 49, 49]


async def test_a_refusal_by_one_of_two_receivers_leaves_the_other_delivering(stage: Stage) -> None:
    """What one Alertmanager refuses the other has: failing, as one is not told."""
    stage.level.answers["a"] = Rejected(Reason.REJECTED, "bad label")
    stage.fires("1", "2", "3")
    await stage.advance(0.3)
    assert (stage.loop.condition, stage.loop.delivers) == (Condition.FAILING, True)


async def test_a_receiver_that_is_back_and_refuses_takes_nothing(stage: Stage) -> None:
    """After an outage it answers, with a refusal of every alert: the log does not say that it takes alerts."""
    stage.level.answers = dict.fromkeys("ab", DOWN)
    with capture_logs() as logged:
        stage.fires("1", "2", "3")
        await stage.advance(0.3)
        stage.level.answers = dict.fromkeys("ab", Rejected(Reason.REJECTED, "bad label"))
        await stage.advance(2)
    assert stage.loop.condition is Condition.REFUSING
    assert not [line for line in logged if line["event"] == "receiver takes alerts again"]
