"""The timelines of alerts and channels: minutes in memory, and what the ledger knows of the time before the start."""

from typing import Any

from support.web import FIRED, LATE, PEOPLE
from tocsin.web.timeline import SLOTS, STEP, Mark, Timelines

BEGAN = 1_700_000_040.0
"""The beginning of a minute."""


def alert(**more: Any) -> dict[str, Any]:
    return {**LATE, "firing": 0, "pending": 0, **more}


def sampled(timelines: Timelines, now: float, **more: Any) -> None:
    timelines.sample(now, [alert(**more)], [PEOPLE], {})


def late(timelines: Timelines, now: float, hours: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = timelines.shown(now, hours)["alerts"]["late"]
    return found


def test_minute_has_its_worst_state_and_largest_counts() -> None:
    timelines = Timelines(BEGAN)
    for seconds, more in (
        (0, {}),
        (20, {"firing": 7}),
        (40, {"firing": 2}),
        (60, {"pending": 3}),
        (120, {"state": "stale"}),
        (180, {}),
    ):
        sampled(timelines, BEGAN + seconds, **more)
    shown = late(timelines, BEGAN + 180)
    assert shown["marks"] == "0" * 56 + "4231"
    assert shown["firing"] == [*[None] * 56, 7, 0, 0, 0]
    assert shown["pending"][-4:] == [0, 3, 0, 0]


def test_minute_without_a_sample_is_unknown() -> None:
    """As on a machine that slept."""
    timelines = Timelines(BEGAN)
    sampled(timelines, BEGAN)
    sampled(timelines, BEGAN + 3 * STEP)
    assert late(timelines, BEGAN + 3 * STEP)["marks"][-4:] == "1001"


def test_firing_between_two_samples_is_seen() -> None:
    timelines = Timelines(BEGAN)
    sampled(timelines, BEGAN)
    timelines.changed(FIRED.at / 1000 + 45.5, [FIRED])
    shown = late(timelines, BEGAN + 5)
    assert shown["marks"].endswith("4")
    assert shown["firing"][-1] == 1
    assert shown["delay"][-1] == 45.5


def test_day_is_kept_and_no_more() -> None:
    timelines = Timelines(BEGAN)
    sampled(timelines, BEGAN)
    sampled(timelines, BEGAN + 20 * STEP, firing=1)
    almost = BEGAN + (SLOTS - 1) * STEP
    assert late(timelines, almost, 24)["marks"].count("4") == 1
    after = almost + 21 * STEP
    assert late(timelines, after, 24)["marks"] == 120 * "0"


def test_clock_that_is_set_back_stays_in_its_minute() -> None:
    timelines = Timelines(BEGAN)
    sampled(timelines, BEGAN + 600)
    sampled(timelines, BEGAN, firing=1)
    assert late(timelines, BEGAN)["marks"][-1] == "4"


def test_time_before_the_start_comes_from_spans() -> None:
    """How many fired in each minute; the time since the start is that of the samples."""
    timelines = Timelines(BEGAN)
    sampled(timelines, BEGAN)
    assert timelines.lacking() == ["late"]
    spans = [
        (BEGAN - 300, BEGAN - 200),
        (BEGAN - 190, BEGAN - 190),
        (BEGAN - 230, BEGAN),
        (BEGAN - 10**9, BEGAN - 10**8),
    ]
    timelines.restore("late", spans)
    timelines.restore("gone", spans)
    assert timelines.lacking() == []
    shown = late(timelines, BEGAN + 1)
    assert shown["marks"][-7:] == "0444441"
    assert shown["firing"][-7:] == [None, 1, 3, 1, 1, 1, 0]


def test_events_are_counted_by_minute() -> None:
    timelines = Timelines(BEGAN)
    for seconds, events in ((0, 0), (10, 4), (70, 4), (130, 9)):
        sampled(timelines, BEGAN + seconds, events=events)
    shown = late(timelines, BEGAN + 130)
    assert shown["marks"][-3:] == "414"
    assert shown["firing"][-3:] == [4, 0, 5]


def test_channel_has_pending_and_mean_delay() -> None:
    """Of the deliveries since the sample before; a dispatcher that began again counts from zero."""
    timelines = Timelines(BEGAN)
    for seconds, delays in ((0, (2, 100.0)), (10, (4, 101.0)), (70, (1, 50.0)), (80, (2, 53.0))):
        timelines.sample(BEGAN + seconds, [], [{**PEOPLE, "state": "paused", "pending": 5}], {"people": delays})
    shown = timelines.shown(BEGAN + 80, 1)["channels"]["people"]
    assert shown["marks"][-3:] == f"0{Mark.FIRING}{Mark.FIRING}"
    assert shown["pending"][-2:] == [5, 5]
    assert shown["delay"][-2:] == [0.5, 3.0]
