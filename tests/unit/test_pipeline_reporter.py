"""Up and down, logged once per outage."""

import structlog
from structlog.testing import capture_logs

from support.clock import Clock
from tocsin.exposition import State
from tocsin.pipeline.reporter import Reporter

log = structlog.get_logger(__name__)


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
