"""The shipped model, created once for all live tests that use it: schema `demo`, cluster `alerting`, role `tocsin`,
windows of two and five minutes. These tests need a dedicated Materialize: existing objects of these names are used and
kept; created ones are dropped at the end. Each test has organizations and items of its own, so that earlier events in
the topics do not matter."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from live.model import MEASURED, Model, Stack, sending, shipped_model, stacked
from tocsin_producer.events import TOPICS
from tocsin_producer.sinks.kafka import KafkaSink


@pytest.fixture(scope="session")
def sink() -> Iterator[KafkaSink]:
    """A sink to the existing topics of the producer."""
    with sending() as sink:
        sink.prepare(TOPICS)
        yield sink


@pytest.fixture(scope="session")
def shipped(sink: KafkaSink) -> Iterator[tuple[Model, str]]:
    """The model, with its views up, and what setup.py printed."""
    with shipped_model() as made:
        yield made


@pytest.fixture
def model(shipped: tuple[Model, str]) -> Model:
    return shipped[0]


@pytest.fixture
async def stack(shipped: tuple[Model, str], tmp_path: Path) -> AsyncIterator[Stack]:
    model, printed = shipped
    async with stacked(tmp_path, model, history="skipped    alter materialized view" not in printed) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of measured values, also where a target was missed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [row for each in reports for name, row in getattr(each, "user_properties", ()) if name == MEASURED]
    if rows:
        for line in ("| what | measured | target |", "| --- | --- | --- |", *dict.fromkeys(rows)):
            terminalreporter.write_line(line)
