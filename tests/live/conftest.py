"""The shipped model, created once for all live tests that use it: schema `demo`, cluster `alerting`, role `tocsin`,
windows of two and five minutes. These tests need a dedicated Materialize: existing objects of these names are used and
kept; created ones are dropped in the end."""

from collections.abc import Iterator

import pytest

from support.live_model import MEASURED, Model, made, sending
from tocsin_producer.events import TOPICS
from tocsin_producer.sinks.kafka import KafkaSink


@pytest.fixture(scope="session")
def sink() -> Iterator[KafkaSink]:
    """A sink to the existing topics of the producer."""
    with sending() as sink:
        sink.prepare(TOPICS)
        yield sink


@pytest.fixture(scope="session")
def shipped(sink: KafkaSink) -> Iterator[tuple[Model, bool]]:
    """The model, with its views up, and whether they keep history."""
    model = Model()
    with made(model) as printed:
        model.hydrated()
        yield model, "keeps no history" not in printed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of measured values, also where a target was missed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [row for each in reports for name, row in getattr(each, "user_properties", ()) if name == MEASURED]
    if rows:
        for line in ("| what | measured | target |", "| --- | --- | --- |", *dict.fromkeys(rows)):
            terminalreporter.write_line(line)
