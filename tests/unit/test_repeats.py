"""Log lines that come in floods: the first in full, then a count."""

import threading

import pytest
import structlog
from structlog.testing import capture_logs

from support.clock import Clock
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
