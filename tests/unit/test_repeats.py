"""Log lines that come in floods: the first in full, then a count. Outages: once, and while they last. Rows that
change at each reading."""

import threading
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from support.clock import Clock
from tocsin.exposition import State
from tocsin.model import Column, Kind, Transition
from tocsin.pipeline.numbers import ValueColumn
from tocsin.pipeline.reporter import Reporter
from tocsin.pipeline.restless import Restless
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def test_five_thousand_lines_become_two(clock: Clock) -> None:
    """The first has all fields; the second has the number of repeats and the latest fields."""
    line = Repeats(log, "dead letter", monotonic=clock)
    with capture_logs() as logged:
        for number in range(5000):
            line.add("rejected", channel="hook", notification=number)
        clock.now = 60.0
        line.report()
    assert logged == [
        {"event": "dead letter", "log_level": "warning", "channel": "hook", "notification": 0},
        {"event": "dead letter", "log_level": "warning", "channel": "hook", "notification": 4999, "repeats": 4999},
    ]


def test_flood_is_counted_every_minute(clock: Clock) -> None:
    """The counts add up, also where no one asks for a report."""
    line = Repeats(log, "dead letter", monotonic=clock)
    with capture_logs() as logged:
        for second in range(301):
            clock.now = float(second)
            line.add()
        line.flush()
    assert [entry.get("repeats") for entry in logged] == [None, 60, 60, 60, 60, 60]


def test_each_kind_has_its_first_line(clock: Clock) -> None:
    """One reason does not hide another."""
    line = Repeats(log, "dead letter", level="error", monotonic=clock)
    with capture_logs() as logged:
        for reason in ("rejected", "template", "rejected", "template"):
            line.add(reason, reason=reason)
        line.flush()
    assert [(entry["reason"], entry.get("repeats")) for entry in logged] == [
        ("rejected", None),
        ("template", None),
        ("rejected", 1),
        ("template", 1),
    ]
    assert {entry["log_level"] for entry in logged} == {"error"}


def test_line_after_quiet_minute_is_complete(clock: Clock) -> None:
    """A kind that ended starts again, with its details and its traceback."""
    line = Repeats(log, "failed", monotonic=clock)
    with capture_logs() as logged:
        for now in (0.0, 1.0, 60.0, 119.0, 120.0, 130.0):
            clock.now = now
            line.report()
            if now in (0.0, 1.0, 130.0):
                line.add(number=now, exc_info=True)
    assert [(entry["number"], entry.get("repeats"), "exc_info" in entry) for entry in logged] == [
        (0.0, None, True),
        (1.0, 1, False),
        (130.0, None, True),
    ]


def test_kinds_without_number_do_not_fill_the_memory(clock: Clock) -> None:
    """Beyond a hundred all are one kind."""
    line = Repeats(log, "refused", monotonic=clock)
    with capture_logs() as logged:
        for number in range(5000):
            line.add(str(number))
        line.flush()
    assert len(logged) == 102
    assert sum(entry.get("repeats", 1) for entry in logged) == 5000


def add_a_thousand(line: Repeats) -> None:
    for _ in range(1000):
        line.add()


def test_concurrent_threads_lose_no_count(clock: Clock) -> None:
    """Additions of four concurrent threads are all counted."""
    line = Repeats(log, "refused", monotonic=clock)
    with capture_logs() as logged:
        threads = [threading.Thread(target=add_a_thousand, args=(line,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        line.flush()
    assert [entry.get("repeats") for entry in logged] == [None, 3999]


# Up and down, logged once per outage.


def test_outage_is_logged_once_per_reason() -> None:
    with capture_logs() as logged:
        reporter = Reporter(log, down="source down", up="source up", alert="late")
        reporter.failed("refused", reason="connect")
        reporter.failed("refused", reason="connect")
        reporter.failed("gone")
        reporter.recovered(firing=2)
        reporter.recovered(firing=3)
    assert logged == [
        {"event": "source down", "log_level": "warning", "alert": "late", "error": "refused", "reason": "connect"},
        {"event": "source down", "log_level": "warning", "alert": "late", "error": "gone"},
        {"event": "source up", "log_level": "info", "alert": "late", "firing": 2},
    ]


def test_outage_that_lasts_is_logged_every_ten_minutes() -> None:
    clock = Clock(0.0)
    reporter = Reporter(log, down="down", up="up", monotonic=clock, state=State.UP)
    with capture_logs() as logged:
        for _ in range(61):
            reporter.failed("refused")
            clock.advance(30.0)
    assert [line.get("seconds") for line in logged] == [None, 600, 1200, 1800]


def test_state_and_duration_of_an_outage() -> None:
    clock = Clock(0.0)
    reporter = Reporter(log, down="down", up="up", monotonic=clock)
    assert (reporter.state, reporter.message, reporter.down_for) == (State.STARTING, "", 0.0)
    clock.advance(5.0)
    assert reporter.down_for == 5.0
    reporter.recovered()
    assert (reporter.state, reporter.up, reporter.down_for) == (State.UP, True, 0.0)
    for message in ("a", "b"):
        clock.advance(5.0)
        reporter.failed(message)
    assert (reporter.state, reporter.message, reporter.down_for) == (State.ERROR, "b", 5.0)


def test_first_success_is_logged_only_after_the_start() -> None:
    with capture_logs() as logged:
        Reporter(log, down="down", up="up").recovered()
        Reporter(log, down="down", up="up", state=State.UP).recovered()
    assert [line["event"] for line in logged] == ["up"]


# Values that are not numbers.


@pytest.mark.parametrize(
    ("texts", "hint"),
    [
        (["1", None, "NaN", "t", "12:00:00", "2026-01-01"], None),
        (["1", "AfQ=", "AfQ="], "decimal.handling.mode"),
        (["a lot"], ""),
    ],
)
def test_value_that_is_not_a_number_is_named_once(texts: list[str | None], hint: str | None) -> None:
    columns = (Column(name="id", oid=25), Column(name="total", oid=25))
    values = ValueColumn("late", "total")
    with capture_logs() as logged:
        for text in texts:
            values.seen(columns, [("a", text)])
            ValueColumn("late", None).seen(columns, [("a", text)])
            ValueColumn("late", "other").seen(columns, [("a", text)])
    if hint is None:
        assert logged == []
        return
    [line] = logged
    assert (line["alert"], line["column"]) == ("late", "total")
    assert hint in line["event"]
    assert "AfQ=" not in str(line)


# Rows that never rest.


def readings(*batches: dict[str, str]) -> list[MutableMapping[str, Any]]:
    """What is logged of an alert whose rows, by key, have these ages in one batch after another."""
    columns = (Column(name="id", oid=25), Column(name="age", oid=25))
    restless, before = Restless("late"), batches[0]
    with capture_logs() as logged:
        for at, rows in enumerate(batches):
            changed = [key for key in rows if before.get(key) not in (None, rows[key])]
            made = [
                Transition("late", key, Kind.UPDATED, 0, at, columns, (key, rows[key]), (key, before[key]))
                for key in changed
            ]
            restless.seen(made, firing=len(rows))
            before = rows
    return logged


def test_rows_that_always_change_are_named_once() -> None:
    [line] = readings(*({"a": str(age), "b": str(age)} for age in range(20)))
    assert line["columns"] == ["age"]
    assert "`ignore`" in line["event"]


@pytest.mark.parametrize(
    "batches",
    [
        [{"a": str(age)} for age in range(20)],
        [{"a": str(age), "b": "0"} for age in range(20)],
        [{"a": str(age), "b": str(age // 4 * 4 + min(age % 4, 2))} for age in range(20)],
    ],
    ids=["one row", "one of two rows", "not each time"],
)
def test_rows_that_rest_are_not_named(batches: list[dict[str, str]]) -> None:
    assert readings(*batches) == []
